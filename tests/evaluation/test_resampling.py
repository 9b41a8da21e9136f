"""Intervals: the normal approximation, whole users against a slow loop, pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gream.errors import InputError
from gream.evaluation.resampling import bootstrap_intervals, paired_gain


def test_no_user_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(InputError, match="split is empty"):
        bootstrap_intervals(np.zeros((0, 2)), seed=0)


def test_intervals_hold_the_mean_and_narrow_with_more_users() -> None:
    rng = np.random.default_rng(0)
    few, many = (rng.random((size, 3)) < 0.3 for size in (50, 5000))
    narrow = bootstrap_intervals(many.astype(float), seed=1)
    wide = bootstrap_intervals(few.astype(float), seed=1)
    assert narrow.shape == (3, 2)
    assert ((narrow[:, 0] < many.mean(0)) & (many.mean(0) < narrow[:, 1])).all()
    # ten times narrower with a hundred times the users; 1,000 resamples know the bounds to about 10 %
    assert np.diff(wide).mean() / np.diff(narrow).mean() == pytest.approx(10, rel=0.3)


def test_interval_of_a_share_matches_the_normal_approximation() -> None:
    values = np.repeat([1.0, 0.0], [300, 700])[:, None]
    [[low, high]] = bootstrap_intervals(values, seed=4)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    # the quantiles of 1,000 resamples have a standard error of about 0.001
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=4e-3)


def test_same_seed_gives_the_same_intervals_and_another_gives_others() -> None:
    values = np.random.default_rng(2).random((40, 2))
    first, again, other = (bootstrap_intervals(values, seed=s) for s in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_gain_is_paired_by_user() -> None:
    """Modes that both miss half of the users, the same ones, differ with certainty."""
    theirs = np.array([1.0, 0.0] * 20)
    gain, bounds = paired_gain(theirs, theirs, seed=0)
    assert (gain, bounds) == (0.0, [0.0, 0.0])
    ours = np.array([1.0, 1.0, 1.0, 0.0] * 10)
    gain, (low, high) = paired_gain(ours, theirs, seed=0)
    assert gain == 0.25 and 0 < low < gain < high
    alone = bootstrap_intervals(ours[:, None], seed=0)[0] - theirs.mean()
    assert high - low < alone[1] - alone[0] + 0.2


def test_users_with_one_case_each_are_drawn_as_cases_are() -> None:
    values = np.random.default_rng(2).random((40, 2))
    users = list(range(3, 43))
    np.testing.assert_allclose(
        bootstrap_intervals(values, seed=7, users=users), bootstrap_intervals(values, seed=7), rtol=1e-12
    )


def test_a_user_brings_all_cases() -> None:
    """Against a loop that draws users and joins their cases; cases of one user need not stand together."""
    rng = np.random.default_rng(5)
    users = rng.integers(6, size=25)
    values = rng.random((25, 1))
    known = list(dict.fromkeys(users.tolist()))
    found = bootstrap_intervals(values, seed=3, users=users.tolist())[0]
    drawn = np.random.default_rng(3)
    means = []
    for _ in range(50):
        for draw in drawn.integers(len(known), size=(20, len(known))):
            means.append(np.concatenate([values[users == known[u], 0] for u in draw]).mean())
    np.testing.assert_allclose(found, np.quantile(means, [0.025, 0.975]), rtol=1e-9)


def test_cases_of_one_user_that_go_together_widen_the_interval() -> None:
    """Ten users with twenty equal cases each know no more than ten cases do."""
    alone = np.array([1.0, 0.0] * 5)
    values = np.repeat(alone, 20)[:, None]
    users = np.repeat(np.arange(10), 20).tolist()
    wide, narrow = bootstrap_intervals(values, seed=0, users=users)[0], bootstrap_intervals(values, seed=0)[0]
    np.testing.assert_allclose(wide, bootstrap_intervals(alone[:, None], seed=0)[0])
    assert np.diff(wide) > 3 * np.diff(narrow)
    gain, bounds = paired_gain(values[:, 0], np.zeros(200), seed=0, users=users)
    assert gain == 0.5 and bounds == pytest.approx(wide.tolist(), abs=1e-6)
