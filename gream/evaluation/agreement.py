"""How far lists agree: reasoning with direct mode, and the chains of one user with each other.

The chains of a user are draws from one model after one prompt. What they have in common is the model's
confidence, what they do not is what more chains can win; both are measured against chains of other users,
which agree by chance. The measures are ours.

Legend: B users, G chains of a user, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def top_agreement(answers: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float | None:
    """Return the share of users whose first item is the same in two modes; an empty list agrees with none."""
    same = [len(a) > 0 and len(b) > 0 and a[0] == b[0] for a, b in zip(answers, others, strict=True)]
    return _mean(same)


def overlap(answers: Sequence[np.ndarray], others: Sequence[np.ndarray], *, k: int) -> float | None:
    """Return the mean share of the first k items that two modes have in common."""
    common = [len(np.intersect1d(a[:k], b[:k])) for a, b in zip(answers, others, strict=True)]
    return _mean([number / k for number in common])


def majority_share(tops: Sequence[Sequence[int]]) -> float | None:
    """Return the share of a user's chains that put the user's most frequent first item first.

    The mean over users with at least two chains, None without any; it is at least 1 / G.
    """
    return _mean([max(Counter(mine).values()) / len(mine) for mine in tops if len(mine) > 1])


def overlap_of_chains(lists: Sequence[Sequence[np.ndarray]], *, k: int) -> float | None:
    """Return the mean share of the first k items that two chains of one user have in common.

    The mean over a user's pairs of chains, then over users with at least two chains; None without any.
    """
    shares = []
    for mine in lists:
        pairs = len(mine) * (len(mine) - 1) // 2
        if pairs:
            # an item in c lists is common to c (c - 1) / 2 pairs
            found = Counter(item for items in mine for item in items[:k].tolist())
            shares.append(sum(c * (c - 1) // 2 for c in found.values()) / (pairs * k))
    return _mean(shares)


def other_user(user: int, num_users: int) -> int:
    """Return a user to compare with by chance: half-way round, since one user's cases stand together."""
    return (user + num_users // 2) % num_users


def shuffled_chains(of_users: Sequence[Sequence[T]]) -> list[list[T]]:
    """Return as many chains for each user, of as many different users as there are: what chance gives.

    The g-th chain of a user is the g-th one (or, where there are fewer, the last) of the user g places of
    B / G further on.
    """
    num_users = len(of_users)
    most = max(map(len, of_users), default=0)
    step = max(1, num_users // max(most, 1))
    taken = []
    for user, mine in enumerate(of_users):
        others = [of_users[(user + number * step) % num_users] for number in range(len(mine))]
        taken.append([theirs[min(number, len(theirs) - 1)] for number, theirs in enumerate(others)])
    return taken


def _mean(values: Sequence[float]) -> float | None:
    return round(float(np.mean(values)), 6) if len(values) else None  # nothing counted, nothing to say
