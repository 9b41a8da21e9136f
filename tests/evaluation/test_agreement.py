"""How far lists agree: by hand, and against counting pairs one by one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gream.evaluation.agreement import (
    majority_share,
    other_user,
    overlap,
    overlap_of_chains,
    shuffled_chains,
    top_agreement,
)


def test_agreement_compares_first_items() -> None:
    ours = [np.array([1, 2]), np.array([3, 9]), np.array([], dtype=np.int64)]
    theirs = [np.array([1, 5]), np.array([2, 3]), np.array([], dtype=np.int64)]
    assert top_agreement(ours, theirs) == pytest.approx(1 / 3, abs=1e-6)


def test_overlap_is_the_share_of_common_items_within_k() -> None:
    ours = [np.array([1, 2, 3, 9]), np.array([4, 5, 6, 7])]
    theirs = [np.array([3, 8, 1, 2]), np.array([7, 8, 9, 4])]
    # within three places: {1, 3} of the first user, nothing of the second
    assert overlap(ours, theirs, k=3) == pytest.approx(2 / 6, abs=1e-6)


def test_the_majority_is_counted_over_users_with_several_chains() -> None:
    """2 of 3 and 1 of 2; the user with one chain agrees with nobody."""
    assert majority_share([[5, 7, 5], [1, 2], [9]]) == pytest.approx((2 / 3 + 1 / 2) / 2, abs=1e-6)
    assert majority_share([[9], [8]]) is None and majority_share([]) is None


def test_overlap_of_chains_is_the_mean_over_the_pairs_of_each_user() -> None:
    """Within two places the user's pairs have 1, 0 and 1 items in common."""
    lists = [[np.array([1, 2, 8]), np.array([2, 3, 8]), np.array([3, 4, 8])], [np.array([1, 2, 3])]]
    assert overlap_of_chains(lists, k=2) == pytest.approx(2 / 3 / 2, abs=1e-6)
    assert overlap_of_chains(lists[1:], k=2) is None


def test_overlap_of_chains_equals_counting_all_pairs() -> None:
    rng = np.random.default_rng(3)
    lists = [[rng.permutation(9)[:5] for _ in range(size)] for size in (2, 4, 3)]
    shares = [
        np.mean([len(np.intersect1d(a[:4], b[:4])) / 4 for a, b in combinations(mine, 2)]) for mine in lists
    ]
    assert overlap_of_chains(lists, k=4) == pytest.approx(np.mean(shares), abs=1e-6)


@pytest.mark.parametrize("num_users", [2, 3, 8])
def test_the_other_user_is_another_one_and_everybodys_is_different(num_users: int) -> None:
    others = [other_user(user, num_users) for user in range(num_users)]
    assert sorted(others) == list(range(num_users))
    assert all(user != other for user, other in enumerate(others))


def test_chains_by_chance_come_from_different_users() -> None:
    """Six users with three chains: user 0 gets chain 0 of itself, 1 of user 2, 2 of user 4."""
    chains = [[f"{user}{number}" for number in range(3)] for user in range(6)]
    drawn = shuffled_chains(chains)
    assert drawn[0] == ["00", "21", "42"]
    assert all(len({one[0] for one in mine}) == 3 for mine in drawn)
    assert sorted(one for mine in drawn for one in mine) == sorted(one for mine in chains for one in mine)


def test_chains_by_chance_are_as_many_as_a_user_has() -> None:
    drawn = shuffled_chains([["a"], ["b", "c", "d"], ["e", "f"]])
    assert drawn == [["a"], ["b", "f", "a"], ["e", "a"]]
