"""Metrics: small cases worked by hand, properties, and a slow loop on random lists."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gream.errors import InputError
from gream.evaluation import metrics

# three users over 6 items: found second, found fifth, found nowhere
LISTS = [np.array([4, 2, 0]), np.array([1, 0, 3, 2, 5]), np.array([0, 1])]
TARGETS = [2, 5, 4]


def test_ranks_count_from_one_and_are_infinite_for_absent_targets() -> None:
    assert metrics.ranks_of_targets(LISTS, TARGETS).tolist() == [2.0, 5.0, math.inf]


def test_rank_of_a_repeated_target_is_its_first_place() -> None:
    assert metrics.ranks_of_targets([[3, 7, 3, 7]], [7]).tolist() == [2.0]


def test_recall_ndcg_and_mrr_of_a_case_worked_by_hand() -> None:
    ranks = metrics.ranks_of_targets(LISTS, TARGETS)
    assert metrics.recall(ranks, 1) == 0.0
    assert metrics.recall(ranks, 4) == pytest.approx(1 / 3)
    assert metrics.recall(ranks, 5) == pytest.approx(2 / 3)
    # 1 / log2(3) for the second place, 1 / log2(6) for the fifth
    assert metrics.ndcg(ranks, 5) == pytest.approx((1 / math.log2(3) + 1 / math.log2(6)) / 3)
    assert metrics.ndcg(ranks, 4) == pytest.approx(1 / math.log2(3) / 3)
    assert metrics.mrr(ranks) == pytest.approx((1 / 2 + 1 / 5) / 3)


def test_user_with_an_empty_list_counts_as_a_miss() -> None:
    ranks = metrics.ranks_of_targets([[], [9]], [3, 9])
    assert metrics.recall(ranks, 10) == 0.5


def test_lists_and_targets_of_different_number_raise() -> None:
    with pytest.raises(ValueError, match="zip"):
        metrics.ranks_of_targets([[1], [2]], [1])


def test_no_user_is_an_error_that_says_where_to_look() -> None:
    with pytest.raises(InputError, match="split is empty"):
        metrics.recall(np.zeros(0), 5)


def test_coverage_counts_distinct_real_items_of_the_first_places() -> None:
    # within the first two places: 4, 2, 1, 0 of eight items; 99 is no item
    lists = [[4, 2, 7], [1, 0, 6], [2, 99]]
    assert metrics.coverage(lists, num_items=8, k=2) == 0.5


def test_invalid_places_are_unreal_repeated_or_empty() -> None:
    # of 3 x 4 places: one unreal, one negative, one repetition, two empty
    lists = [[0, 1, 2, 99], [-1, 3, 3, 0], [5, 4]]
    assert metrics.invalid_rate(lists, num_items=6, k=4) == pytest.approx(5 / 12)


def test_invalid_rate_is_exactly_zero_for_full_real_lists() -> None:
    assert metrics.invalid_rate([[0, 1, 2], [2, 0, 1]], num_items=3, k=10) == 0.0


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ([[0, 1], [2, 3]], 0.0),  # all alike
        ([[3], [3], [3]], 0.75),  # one of four has all: (N - 1) / N
        ([[0, 1], [1, 2], [1, 9]], 0.45),  # 1, 3, 1, 0: differ by 2, 0, 1, 2, 3, 1: 9 / (4 x 5)
        ([[]], 0.0),
    ],
)
def test_gini_worked_by_hand(lists: list[list[int]], expected: float) -> None:
    assert metrics.gini(lists, num_items=4, k=2) == pytest.approx(expected)


def test_gini_is_half_the_mean_difference_of_two_items_over_the_mean() -> None:
    rng = np.random.default_rng(3)
    lists = [rng.choice(9, size=5, replace=False) for _ in range(13)]
    counts = np.bincount(np.concatenate([items[:3] for items in lists]), minlength=9)
    slow = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert metrics.gini(lists, num_items=9, k=3) == pytest.approx(slow)


def test_novelty_is_the_surprise_of_what_is_offered() -> None:
    """Bought 3, 0, 1 of 4 times: with one more each, shares 4/7, 1/7, 2/7."""
    purchases = np.array([3, 0, 1])
    expected = -(math.log2(4 / 7) + math.log2(1 / 7) + math.log2(4 / 7)) / 3
    assert metrics.novelty([[0, 1, 2], [0], [7]], purchases, k=2) == pytest.approx(expected)
    assert metrics.novelty([[]], purchases, k=2) == 0.0


def test_pass_at_k_of_all_completions_is_the_share_of_users_with_a_hit() -> None:
    assert metrics.pass_at_k([[0, 0, 1], [0, 0, 0], [1, 0, 1]], k=3) == pytest.approx(2 / 3)


def test_pass_at_one_is_the_mean_chance_of_a_completion() -> None:
    assert metrics.pass_at_k([[0, 0, 1], [0, 0, 0], [1, 0.5, 1]], k=1) == pytest.approx((1 / 3 + 2.5 / 3) / 3)


def test_pass_at_two_of_four_worked_by_hand() -> None:
    # one right of four: 3 of the 6 pairs hold it
    assert metrics.pass_at_k([[1, 0, 0, 0]], k=2) == pytest.approx(0.5)


def test_pass_at_two_of_three_chances_worked_by_hand() -> None:
    """Pairs of .5, .2 and 0 are both wrong with .4, .5 and .8: mean .5667."""
    assert metrics.pass_at_k([[0.5, 0.2, 0.0]], k=2) == pytest.approx(1 - 1.7 / 3)


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    chances = np.random.default_rng(k).random((3, 7))
    subsets = list(combinations(range(7), k))
    slow = np.mean([[1 - np.prod(1 - of_user[list(s)]) for s in subsets] for of_user in chances])
    assert metrics.pass_at_k(chances.tolist(), k=k) == pytest.approx(slow, rel=1e-12)


def test_user_without_completions_does_not_pass() -> None:
    assert metrics.pass_at_k([[], [1]], k=2) == 0.5


def test_summary_has_every_figure_with_its_interval() -> None:
    row = metrics.summarise(LISTS, TARGETS, num_items=6, k=10, seed=0)
    figures = {"recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr"}
    assert set(row) == figures | {f"{f}_interval" for f in figures} | {"invalid_rate", "coverage", "gini"}
    assert row["recall@5"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["coverage"] == 1.0
    assert row["invalid_rate"] == pytest.approx(1 - 10 / 18)  # six places for each, as there are six items


def test_summary_has_novelty_where_the_purchases_are_known() -> None:
    purchases = np.arange(6)
    row = metrics.summarise(LISTS, TARGETS, num_items=6, k=3, seed=0, purchases=purchases)
    assert row["novelty"] == pytest.approx(metrics.novelty(LISTS, purchases, k=3), abs=1e-6)
    assert row["gini"] == pytest.approx(metrics.gini(LISTS, num_items=6, k=3), abs=1e-6)


def test_summary_ignores_what_stands_behind_place_k() -> None:
    row = metrics.summarise(LISTS, TARGETS, num_items=6, k=3, seed=0)
    assert "recall@5" not in row
    assert row["recall@3"] == pytest.approx(1 / 3, abs=1e-6)
    assert row["mrr"] == pytest.approx(1 / 6, abs=1e-6)


@given(st.lists(st.permutations(range(7)), min_size=1, max_size=5), st.integers(0, 6), st.integers(1, 7))
def test_metrics_agree_with_a_slow_loop(lists: list[list[int]], target: int, k: int) -> None:
    ranks = metrics.ranks_of_targets(lists, [target] * len(lists))
    recall = ndcg = mrr = 0.0
    for items in lists:
        for place, item in enumerate(items):
            if item == target:
                mrr += 1 / (place + 1)
                if place < k:
                    recall += 1
                    ndcg += 1 / math.log2(place + 2)
    expected = [value / len(lists) for value in (recall, ndcg, mrr)]
    assert [metrics.recall(ranks, k), metrics.ndcg(ranks, k), metrics.mrr(ranks)] == pytest.approx(expected)
