"""Whether items that are alike get names that are alike.

Legend: N items, S items that are looked at, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gream.semantic_ids.vectors import normalised

NUM_NEIGHBOURS = 10
NUM_SAMPLED = 2_000  # items whose neighbours are looked for, where there are more; ours
BATCH = 64  # items whose cosines to all others are held at once


@dataclass(frozen=True)
class Neighbours:
    """The nearest other items of some items."""

    items: np.ndarray  # (S,) which items were looked at
    nearest: np.ndarray  # (S, at most 10) their nearest items by cosine, ties to the lower item


def find_neighbours(vectors: np.ndarray, items: np.ndarray | None = None) -> Neighbours:
    """Find the nearest other items of all items (N, D), or of a fixed random part of a large catalogue.

    Args:
        vectors: (N, D).
        items: only these, in place of all.
    """
    items = np.arange(len(vectors)) if items is None else items
    if len(items) > NUM_SAMPLED:
        items = np.sort(np.random.default_rng(0).choice(items, NUM_SAMPLED, replace=False))
    unit = normalised(vectors)
    count = min(NUM_NEIGHBOURS, len(vectors) - 1)
    nearest = np.empty((len(items), count), dtype=np.int64)
    for start in range(0, len(items), BATCH):
        batch = items[start : start + BATCH]
        cosines = unit[batch] @ unit.T
        cosines[np.arange(len(batch)), batch] = -np.inf
        for row, values in enumerate(cosines):
            nearest[start + row] = _best(values, count)
    return Neighbours(items, nearest)


def neighbours_kept(neighbours: Neighbours, rebuilt: np.ndarray) -> float:
    """Share of the nearest neighbours that are also among the nearest of the reconstructed vectors (N, D)."""
    kept = find_neighbours(rebuilt).nearest
    same = [len(np.intersect1d(one, other)) for one, other in zip(neighbours.nearest, kept, strict=True)]
    return float(np.sum(same)) / max(kept.size, 1)


def shared_groups(neighbours: Neighbours, groups: np.ndarray) -> dict[str, float]:
    """Share of the nearest neighbours that are in the item's group.

    Args:
        neighbours: of the items that are looked at.
        groups: (N, any width); equal rows are one group.

    Returns:
        `kept`, and `chance`: the same for items drawn at random.
    """
    _, group, sizes = np.unique(groups, axis=0, return_inverse=True, return_counts=True)
    group = group.ravel()
    own = group[neighbours.items]
    kept = float((group[neighbours.nearest] == own[:, None]).mean()) if neighbours.nearest.size else 0.0
    return {"kept": kept, "chance": float(((sizes[own] - 1) / max(len(groups) - 1, 1)).mean())}


def _best(values: np.ndarray, count: int) -> np.ndarray:
    """Places of the `count` largest values, largest first, ties to the lower place."""
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    least = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= least)
    best: np.ndarray = places[np.argsort(-values[places], kind="stable")][:count]
    return best
