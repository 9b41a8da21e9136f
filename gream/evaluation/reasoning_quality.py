"""What a reasoning chain is worth as a text: well formed, grounded in the history, in step with direct mode.

Pure functions over chains that `gream.language.reasoning.split_chain` has taken apart. A chain is grounded
when the items it cites as evidence, and those it keeps in the rewritten history, were really bought; the
item it recommends is of course not among them and is not counted. The measures are ours.

Legend: B users, G chains of all users together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gream.language.reasoning import Chain

# a name begins at its first level `<a_..>`; tokens without one in front are a broken name of their own
_NAME = re.compile(r"<[a-z]+_\d+>(?:<(?!a_)[a-z]+_\d+>)*")


def cited_names(text: str) -> list[str]:
    """Return the item names in a text, in order, repetitions kept; broken names are returned as they stand.

    >>> cited_names("after <a_1><b_2>, <a_3><b_4><a_5>")
    ['<a_1><b_2>', '<a_3><b_4>', '<a_5>']
    """
    return _NAME.findall(text)


def well_formed_rate(chains: Sequence[Chain]) -> float | None:
    """Return the share of chains that have all five steps in order; None without a chain."""
    return _share(sum(chain.well_formed for chain in chains), len(chains))


def groundedness(chains: Sequence[Chain], histories: Sequence[Collection[str]]) -> float | None:
    """Return the share of names cited in evidence and rewritten history that are in the user's history.

    Args:
        chains: G chains.
        histories: G collections of names, the history that each chain was written for.

    Returns:
        The share over all citations of all chains; None when nothing is cited.
    """
    cited = grounded = 0
    for chain, history in zip(chains, histories, strict=True):
        bought = set(history)
        found = cited_names(chain.evidence) + cited_names(chain.rewritten_history)
        cited += len(found)
        grounded += sum(name in bought for name in found)
    return _share(grounded, cited)


def top_agreement(answers: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float | None:
    """Return the share of users whose first item is the same in two modes; an empty list agrees with none."""
    same = [len(a) > 0 and len(b) > 0 and a[0] == b[0] for a, b in zip(answers, others, strict=True)]
    return _share(sum(same), len(same))


def overlap(answers: Sequence[np.ndarray], others: Sequence[np.ndarray], *, k: int) -> float | None:
    """Return the mean share of the first k items that two modes have in common."""
    common = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(answers, others, strict=True)]
    return _share(sum(common), k * len(common))


def _share(part: float, whole: float) -> float | None:
    return round(float(part) / whole, 6) if whole else None  # nothing counted, nothing to say
