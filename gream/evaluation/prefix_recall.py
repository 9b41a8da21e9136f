"""Where the search loses the right item: recall of the target's prefixes level by level.

HRecall@b of PROMISE (arXiv 2601.04674, offline experiments): the share of cases whose true prefix of b codes
is among the paths that the search kept after its step b. At the last level it is recall at the width of the
search.
Ours: with unordered names a path is a set of codes, and holds the target when all of them are in its name.

Legend: B users, W kept paths of a user, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gream.decoding.answer import Answer
from gream.decoding.consistency import num_meanings, pruning_quality
from gream.decoding.recommend import Search
from gream.errors import InputError
from gream.semantic_ids.paths import Constraint


def prefix_hits(
    kept: Sequence[Sequence[np.ndarray]], targets: Sequence[int], constraint: Constraint
) -> np.ndarray:
    """Return for each user and level 1 where a kept path leads to the target, else 0: (B, L) float64.

    Args:
        kept: for each user the nodes that were kept at each level, (W,) each; W may differ.
        targets: the B items that were bought next.
        constraint: the names that were searched.

    Raises:
        ValueError: as many users as targets are needed.
    """
    if len(kept) != len(targets):
        raise ValueError(f"paths of {len(kept)} users were given for {len(targets)} targets")
    levels = [
        _any_holds(nodes, level, targets, constraint) for level, nodes in enumerate(zip(*kept, strict=True))
    ]
    return np.stack(levels, axis=1).astype(np.float64)


def prefix_recall(hits: np.ndarray) -> list[float]:
    """Return HRecall@b for b from 1 to L, the mean over users of `prefix_hits` (B, L)."""
    if not len(hits):
        raise InputError("No user to evaluate: the split is empty; check the data stage's counts.")
    return [round(float(share), 6) for share in hits.mean(axis=0)]


def false_prune_rate(
    answers: Sequence[Answer], targets: Sequence[int], constraint: Constraint, search: Search
) -> float:
    """Return the share of targets that the search held and lost to its pruner, see `pruning_quality`."""
    last = num_meanings(constraint.names.layout) - 2  # where a pruner without a level of its own drops
    level = last if search.prune_level is None else search.prune_level
    return round(pruning_quality(answers, targets, constraint, level).false_prune_rate, 6)


def _any_holds(
    nodes: Sequence[np.ndarray], level: int, targets: Sequence[int], constraint: Constraint
) -> np.ndarray:
    """Say for each user whether any of the user's nodes leads to the target: ragged rows to (B,) bool."""
    widths = np.array([len(row) for row in nodes])
    real = np.arange(widths.max()) < widths[:, None]  # (B, W)
    padded = np.zeros(real.shape, dtype=np.int64)
    padded[real] = np.concatenate(nodes)
    items = torch.tensor(targets, dtype=torch.int64, device=constraint.device)
    held = constraint.holds(torch.from_numpy(padded).to(constraint.device), level, items)
    found: np.ndarray = np.any(held.cpu().numpy() & real, axis=1)
    return found
