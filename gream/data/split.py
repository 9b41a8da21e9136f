"""Which purchase is learnt from, validated and tested on: leave-one-out, or one point in time for everybody.

Leave-one-out is what the papers on the Amazon sets use: of every user the last purchase is the test, the last
but one the validation. It lets a model learn from purchases that others made after a test purchase; the
global temporal split (8:1:1 by time over all purchases) does not.
"""

from __future__ import annotations

import numpy as np

from gream.data.store import TEST, TRAIN, VALIDATION
from gream.errors import InputError

SPLITS = ("leave_one_out", "temporal")
FEWEST_PURCHASES = 3  # of a user in leave-one-out: one each to learn from, to validate and to test

_CUTS = (0.8, 0.9)  # shares of all purchases before validation, and before test


def leave_one_out(user: np.ndarray, validation_users: int = 0, seed: int = 0) -> np.ndarray:
    """Mark every user's last purchase TEST, the last but one VALIDATION, the others TRAIN.

    The purchases that validate are the newest that a model could learn from. Once settings are chosen, few
    users are enough to say when to stop, and the other users' purchases can be learnt from.

    Args:
        user: (n,) dense users, user after user, each with at least FEWEST_PURCHASES purchases.
        validation_users: users, drawn at random, who validate; 0: all of them.
        seed: of the draw.

    Returns:
        (n,) int8 marks.
    """
    last = np.cumsum(np.bincount(user)) - 1
    marks = np.full(len(user), TRAIN, dtype=np.int8)
    validating = last
    if 0 < validation_users < len(last):
        validating = np.random.default_rng(seed).choice(last, size=validation_users, replace=False)
    marks[validating - 1] = VALIDATION
    marks[last] = TEST
    return marks


def temporal(time: np.ndarray) -> np.ndarray:
    """Mark purchases by two points in time, the same for everybody, that part them 8:1:1.

    Purchases of the same time are never parted: validation begins with the time of the purchase at the 80 %
    quantile, and the test with that at the 90 % quantile.

    Args:
        time: (n,) of every purchase.

    Returns:
        (n,) int8 marks.

    Raises:
        InputError: so few different times that a part stays empty.
    """
    places = [int(share * len(time)) for share in _CUTS]
    ordered = np.partition(time, places) if len(time) else time
    marks = np.zeros(len(time), dtype=np.int8)
    if len(time):
        from_validation, from_test = (ordered[place] for place in places)
        marks = np.where(time >= from_test, TEST, np.where(time >= from_validation, VALIDATION, TRAIN))
    if len(np.unique(marks)) < 3:
        raise InputError(
            f"{len(time):,} purchases at {len(np.unique(time)):,} different times cannot be parted 8:1:1 by "
            "time; use `split: leave_one_out`, or give times that tell more purchases apart."
        )
    return marks.astype(np.int8)


def count_parts(user: np.ndarray, marks: np.ndarray) -> dict[str, int]:
    """Count purchases of each part, and those that nothing came before, which ask no question.

    Args:
        user: (n,) dense users, user after user.
        marks: (n,) of their purchases.
    """
    is_first = np.diff(user, prepend=-1) > 0
    return {
        "training_purchases": int((marks == TRAIN).sum()),
        "validation_purchases": int((marks == VALIDATION).sum()),
        "test_purchases": int((marks == TEST).sum()),
        "validation_purchases_without_history": int((is_first & (marks == VALIDATION)).sum()),
        "test_purchases_without_history": int((is_first & (marks == TEST)).sum()),
    }
