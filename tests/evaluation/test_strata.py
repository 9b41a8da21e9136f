"""Groups of cases: bounds worked by hand, and figures against the same cases alone."""

from __future__ import annotations

import numpy as np
import pytest

from gream.data.store import Case
from gream.evaluation import metrics
from gream.evaluation.differences import all_differences, difference, shown
from gream.evaluation.exam import Exam
from gream.evaluation.strata import (
    HEAD,
    MIDDLE,
    TAIL,
    UNSEEN,
    close_figures,
    history_groups,
    popularity_groups,
    stratified,
)


def test_histories_are_grouped_by_their_length() -> None:
    found = history_groups([1, 4, 5, 9, 10, 19, 20, 300])
    assert found.tolist() == ["1-4"] * 2 + ["5-9"] * 2 + ["10-19"] * 2 + ["20 and more"] * 2


def test_items_are_grouped_by_the_purchases_ahead_of_them() -> None:
    """20 purchases: 6 and 5 reach ten; the next ones have 11 and 14 ahead of them; the rest 17 and more."""
    purchases = np.array([1, 6, 0, 3, 5, 2, 3, 0])
    assert popularity_groups(purchases).tolist() == [TAIL, HEAD, UNSEEN, MIDDLE, HEAD, TAIL, MIDDLE, UNSEEN]


def test_of_items_bought_as_often_the_lower_one_is_ahead() -> None:
    assert popularity_groups(np.array([1, 1, 1, 1])).tolist() == [HEAD, HEAD, MIDDLE, MIDDLE]
    assert popularity_groups(np.zeros(2, dtype=np.int64)).tolist() == [UNSEEN, UNSEEN]


def test_the_groups_share_out_all_cases_and_their_figures_are_those_of_the_cases_alone() -> None:
    rng = np.random.default_rng(0)
    ranks = {"a": rng.integers(1, 9, 40).astype(float), "b": np.where(rng.random(40) < 0.5, np.inf, 2.0)}
    groups = rng.choice(["x", "y"], 40)
    found = stratified(ranks, groups, ["y", "empty", "x"], k=4)
    assert list(found) == ["y", "x"] and sum(group["cases"] for group in found.values()) == 40
    for name, group in found.items():
        for row, places in ranks.items():
            alone = places[groups == name]
            assert group["rows"][row]["recall@4"] == pytest.approx(metrics.recall(alone, 4), abs=1e-6)
            assert group["rows"][row]["ndcg@4"] == pytest.approx(metrics.ndcg(alone, 4), abs=1e-6)


def test_every_row_is_compared_with_every_row_before_it() -> None:
    ranks = {"a": np.array([1.0, np.inf]), "b": np.array([2.0, 1.0]), "c": np.array([np.inf, 1.0])}
    found = all_differences(ranks, k=2, seed=0, users=[0, 1])
    assert [(one["row"], one["against"]) for one in found] == [("b", "a"), ("c", "a"), ("c", "b")]
    assert [one["recall@2"] for one in found] == [0.5, 0.0, -0.5]
    assert found[2]["ndcg@2"] == pytest.approx(-1 / np.log2(3) / 2, abs=1e-6)


def test_a_star_marks_what_is_more_than_chance() -> None:
    better, worse = np.ones(50), np.full(50, np.inf)
    found = difference(better, worse, k=3, seed=0)
    assert shown(found, "recall@3") == "+1.0000 (+1.0000 to +1.0000)*"
    assert shown(difference(worse, better, k=3, seed=0), "ndcg@3").endswith("*")
    mixed = np.where(np.arange(50) % 2, better, worse)
    assert not shown(difference(mixed, mixed[::-1], k=3, seed=0), "recall@3").endswith("*")


def test_a_case_belongs_to_the_group_of_what_was_bought_next_and_of_its_own_history() -> None:
    """Item 3 is bought most, 1 never; user 0 is asked twice."""
    cases = [
        Case(0, np.arange(3), 3),
        Case(0, np.arange(5), 1),
        Case(2, np.arange(12), 3),
    ]
    exam = Exam(cases, 4, 2, seed=0, purchases=np.array([1, 0, 1, 9]))
    found = close_figures(exam, {"direct": np.array([1.0, np.inf, 2.0])})
    assert {name: group["cases"] for name, group in found["by_popularity"].items()} == {HEAD: 2, UNSEEN: 1}
    assert found["by_popularity"][UNSEEN]["rows"]["direct"]["recall@2"] == 0.0
    assert {name: group["cases"] for name, group in found["by_history"].items()} == {
        "1-4": 1, "5-9": 1, "10-19": 1,
    }  # fmt: skip
    assert found["differences"] == []
