"""Intervals by bootstrap over users, of one row's figures and of the difference of two rows.

Whole users are drawn: a user who is asked about several purchases brings all of them, since what makes one
of them easy makes the others easy too.

Legend: B cases, U users, M metrics, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gream.errors import InputError

_RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 20  # bounds memory: 20 x 22,363 users x 5 metrics x 8 bytes = 18 MB


def bootstrap_intervals(
    values: np.ndarray, *, seed: int, users: Sequence[int] | None = None, level: float = 0.95
) -> np.ndarray:
    """Return the percentile bootstrap interval of each column's mean, users drawn with replacement.

    The same seed and users draw the same users for every row of a report, so that rows are compared on the
    same resamples.

    Args:
        values: (B, M) one row for each case, one column for each metric.
        seed: seed of the draw.
        users: the user of each case; None where every case is of another one.
        level: probability that the interval covers.

    Returns:
        (M, 2) lower and upper bounds.

    Raises:
        InputError: there is no case.
    """
    if not len(values):
        raise InputError("No user to evaluate: the split is empty; check the data stage's counts.")
    sums, counts = _by_user(values, users)
    rng = np.random.default_rng(seed)
    means = []  # R rows of (M,)
    for _ in range(_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = rng.integers(len(sums), size=(_RESAMPLES_AT_ONCE, len(sums)))  # (R', U)
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)[:, None])  # a user has a case
    tail = (1.0 - level) / 2
    return np.quantile(np.concatenate(means), [tail, 1.0 - tail], axis=0).T


def paired_gain(
    ours: np.ndarray, theirs: np.ndarray, *, seed: int, users: Sequence[int] | None = None
) -> tuple[float, list[float]]:
    """Return by how much the mean of one figure is above that of another, and its 95 % interval.

    The bootstrap draws users with both of their figures, so that what makes a user easy for both rows does
    not widen the interval.

    Args:
        ours: (B,) figure of each case.
        theirs: (B,) figure of the same case in the other row.
        seed: seed of the draw.
        users: the user of each case; None where every case is of another one.
    """
    differences = ours - theirs
    bounds = bootstrap_intervals(differences[:, None], seed=seed, users=users)[0]
    return round(float(differences.mean()), 6), [round(float(bound), 6) for bound in bounds]


def _by_user(values: np.ndarray, users: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum the cases of each user, in the order in which users appear: (U, M) sums, (U,) numbers of cases."""
    if users is None:
        return values, np.ones(len(values))
    _, first, sorted_rows = np.unique(np.asarray(users), return_index=True, return_inverse=True)
    rows = np.argsort(np.argsort(first))[sorted_rows]  # the draw does not depend on how users are called
    sums = np.zeros((len(first), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums, np.bincount(rows).astype(np.float64)
