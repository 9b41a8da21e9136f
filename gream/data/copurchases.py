"""Which items are bought near each other, in which order: the counts behind item kNN and the path scorer.

Legend: N items, T purchases of all users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

Sequences = Sequence[np.ndarray] | Sequence[Sequence[int]]


def similarity(
    sequences: Sequences,
    num_items: int,
    *,
    window: int = 5,
    backward: float = 0.3,
    shrinkage: float = 20.0,
) -> sparse.csr_array:
    """Say how strongly one item is followed by another: (N, N), row bought first.

    similarity(i, j) = c(i, j) / sqrt((n_i + shrinkage) (n_j + shrinkage)), where c sums 1 / distance over
    all pairs of purchases at most `window` apart, with j after i (before i: times `backward`), and n counts
    purchases. The counting is standard; the weights are ours, chosen on the validation split of Amazon
    Beauty and Amazon Industrial & Scientific.

    Args:
        sequences: purchases of each user, oldest first.
        num_items: N, size of the catalogue.
        window: largest distance of two purchases that count as bought together.
        backward: weight of pairs against the order of purchase; 1 is the symmetric model of the literature.
        shrinkage: added to each item's count, so that rare items do not win by one lucky pair.
    """
    together = _co_occurrence(sequences, num_items, window=window, backward=backward)
    counts = np.bincount(flat(sequences), minlength=num_items)
    # the guard of the division: an item without a purchase has no pair, whatever its scale is
    scale = sparse.diags_array(1.0 / np.sqrt(np.maximum(counts + shrinkage, 1.0)))
    return sparse.csr_array(scale @ together @ scale)


def flat(sequences: Sequences) -> np.ndarray:
    """Put sequences one behind the other: (T,) int64."""
    parts = [np.asarray(s, dtype=np.int64) for s in sequences]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


def _co_occurrence(sequences: Sequences, num_items: int, *, window: int, backward: float) -> sparse.csr_array:
    """Sum 1 / distance over pairs of different items at most `window` apart: (N, N), row bought first."""
    items = flat(sequences)  # (T,)
    users = np.repeat(np.arange(len(sequences)), [len(s) for s in sequences])  # (T,)
    total = sparse.csr_array((num_items, num_items), dtype=np.float64)
    for distance in range(1, window + 1):
        first, second = items[:-distance], items[distance:]
        pair = (users[:-distance] == users[distance:]) & (first != second)
        weights = np.full(int(pair.sum()), 1.0 / distance)
        total = total + sparse.csr_array((weights, (first[pair], second[pair])), shape=total.shape)
    return sparse.csr_array(total + backward * total.T)
