"""By how much one row is above another on the same cases, with intervals; as figures and as a table.

Legend: B cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gream.evaluation import metrics
from gream.evaluation.resampling import paired_gain

Difference = dict[str, Any]


def difference(
    ours: np.ndarray, theirs: np.ndarray, *, k: int, seed: int, users: Sequence[Any] | None = None
) -> Difference:
    """Return by how much recall@k and NDCG@k of the first are above those of the second.

    Args:
        ours: (B,) ranks of the targets in one row's lists.
        theirs: (B,) ranks in the other row's.
        k: length of the lists.
        seed: seed of the bootstrap.
        users: the user of each case; None where every case is of another one.

    Returns:
        `recall@k` and `ndcg@k`, and for each `..._interval`, 95 % by paired bootstrap over users.
    """
    found: Difference = {}
    for name, figure in (("recall", metrics.hits), ("ndcg", metrics.gains)):
        gain, bounds = paired_gain(figure(ours, k), figure(theirs, k), seed=seed, users=users)
        found |= {f"{name}@{k}": gain, f"{name}@{k}_interval": bounds}
    return found


def all_differences(
    ranks: Mapping[str, np.ndarray], *, k: int, seed: int, users: Sequence[Any]
) -> list[Difference]:
    """Compare every row with every row before it, in the order of the report."""
    return [
        {"row": row, "against": before} | difference(ranks[row], ranks[before], k=k, seed=seed, users=users)
        for before, row in itertools.combinations(ranks, 2)
    ]


def shown(found: Mapping[str, Any], name: str) -> str:
    """Return a difference and its interval as text; the interval has a star where it does not hold zero."""
    low, high = found[f"{name}_interval"]
    star = "*" if low > 0 or high < 0 else ""
    return f"{found[name]:+.4f} ({low:+.4f} to {high:+.4f}){star}"
