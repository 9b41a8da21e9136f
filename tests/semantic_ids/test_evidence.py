"""The evidence for a weight: ranks as a slow obvious version gives them, and planted winners."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gream.data.store import TEST, TRAIN, VALIDATION, Case, Interactions
from gream.semantic_ids import evidence
from gream.semantic_ids.evidence import DECAY, HISTORY, Sample, draw_cases, fused_ranks, measure, table
from gream.semantic_ids.evidence_plot import plot
from gream.semantic_ids.vectors import fuse, normalised


def random_parts(rng: np.random.Generator, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Text (N, 5) and collaborative (N, 3) vectors; some items lack one part or both."""
    text, bought = (normalised(rng.standard_normal((num_items, d)).astype(np.float32)) for d in (5, 3))
    text[[1, 4]] = 0
    bought[[2, 4]] = 0
    return text, bought


def random_cases(rng: np.random.Generator, num_items: int, count: int) -> list[Case]:
    return [
        Case(user, rng.integers(num_items, size=rng.integers(1, 9)), int(rng.integers(num_items)))
        for user in range(count)
    ]


def slow_rank(text: np.ndarray, bought: np.ndarray, case: Case, weight: float) -> float:
    """Sort the items that were not bought by cosine, then by id; find the target among them."""
    fused = np.concatenate([math.sqrt(1 - weight) * text, math.sqrt(weight) * bought], axis=1).astype(float)
    newest = list(reversed(case.history))[:HISTORY]
    query = sum(DECAY**age * fused[item] for age, item in enumerate(newest))
    lengths = np.linalg.norm(fused, axis=1)
    scores = [
        float(query @ vector / length) if length else 0.0
        for vector, length in zip(fused, lengths, strict=True)
    ]
    order = sorted((i for i in range(len(fused)) if i not in case.history), key=lambda i: (-scores[i], i))
    return order.index(case.target) + 1 if case.target in order else math.inf


@pytest.mark.parametrize("seed", range(4))
def test_ranks_equal_the_slow_version(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_CELLS_AT_ONCE", 40 * 7)  # blocks of 7 cases, the last one shorter
    rng = np.random.default_rng(seed)
    text, bought = random_parts(rng, 40)
    cases = random_cases(rng, 40, 25)
    weights = [0.0, 0.3, 0.5, 1.0]
    ranks = fused_ranks(text, bought, cases, weights)
    slow = [[slow_rank(text, bought, case, weight) for case in cases] for weight in weights]
    np.testing.assert_array_equal(ranks, slow)


def test_ties_go_to_the_lower_item() -> None:
    text = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [1, 0]], np.float32)
    cases = [Case(0, np.array([0]), target) for target in (2, 3, 4, 1)]
    # Items 2, 3 and 4 are all like item 0, which was bought; item 1 is last.
    assert fused_ranks(text, None, cases, [0.0]).tolist() == [[1, 2, 3, 4]]


def test_figures_of_a_hand_worked_case() -> None:
    text = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], np.float32)
    # From item 0 the order is 1, 2, 3; the third case asks for what was bought before.
    cases = [Case(0, np.array([0]), 1), Case(1, np.array([0]), 3), Case(2, np.array([0]), 0)]
    report = measure(text, None, Sample(cases, 5), weight=0.0)
    assert report["rows"] == [
        {
            "weight": 0.0,
            "vectors": "text",
            "recall@10": round(2 / 3, 6),
            "ndcg@10": round((1 + 1 / math.log2(4)) / 3, 6),
            "mrr": round((1 + 1 / 3) / 3, 6),
        }
    ]
    assert (report["cases"], report["cases_of_the_split"]) == (3, 5)
    assert (report["cases_bought_before"], report["best_weight"]) == (1, 0.0)


@pytest.mark.parametrize(("winner", "best"), [("text", 0.0), ("collaborative", 1.0)])
def test_the_part_that_predicts_wins(winner: str, best: float) -> None:
    """Planted: 60 pairs of items; whoever buys one buys the other next. One part knows the pairs."""
    rng = np.random.default_rng(0)
    knows = normalised(np.repeat(rng.standard_normal((60, 30)), 2, axis=0).astype(np.float32))
    noise = normalised(rng.standard_normal((120, 30)).astype(np.float32))
    cases = [Case(item, np.array([item]), item ^ 1) for item in range(120)]
    text, bought = (knows, noise) if winner == "text" else (noise, knows)
    report = measure(text, bought, Sample(cases, 120), weight=0.5)
    recalls = {row["weight"]: row["recall@10"] for row in report["rows"]}
    assert recalls[best] == 1
    assert recalls[1 - best] < 0.2  # 10 of 119 by chance
    kinds = {row["weight"]: row["vectors"] for row in report["rows"]}
    assert (kinds[0.0], kinds[0.5], kinds[1.0]) == ("text", "fused", "collaborative")


def test_the_fused_row_ranks_what_is_stored() -> None:
    """The row of a weight is the nearest-neighbour ranking of exactly the vectors that are written."""
    rng = np.random.default_rng(1)
    text, bought = (normalised(rng.standard_normal((30, d)).astype(np.float32)) for d in (5, 3))
    cases = random_cases(rng, 30, 20)
    stored = fuse(text, bought, 0.4)
    np.testing.assert_array_equal(
        fused_ranks(text, bought, cases, [0.4])[0], fused_ranks(stored, None, cases, [0.0])[0]
    )


def test_a_weight_off_the_grid_gets_its_own_row() -> None:
    rng = np.random.default_rng(2)
    text, bought = random_parts(rng, 20)
    report = measure(text, bought, Sample(random_cases(rng, 20, 9), 9), weight=0.37)
    assert len(report["rows"]) == 12
    assert "0.37" in next(line for line in table(report).splitlines() if "<- this recipe" in line)


def test_only_purchases_only_have_one_row() -> None:
    rng = np.random.default_rng(3)
    bought = random_parts(rng, 20)[1]
    report = measure(None, bought, Sample(random_cases(rng, 20, 9), 9), weight=1.0)
    assert [row["vectors"] for row in report["rows"]] == ["collaborative"]
    assert "collaborative only  <- this recipe" in table(report)


def test_no_validation_purchase_is_said_and_plotted(tmp_path: Path) -> None:
    report = measure(np.eye(3, dtype=np.float32), None, Sample([], 0), weight=0.0)
    assert report["rows"] == [] and report["best_weight"] is None
    assert "no evidence for the weight" in table(report)
    plot(tmp_path / "evidence.png", report)
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")


def test_cases_are_the_validation_purchases_with_a_history() -> None:
    sequences = [np.array([0, 1, 2, 3]), np.array([4]), np.array([5, 6])]
    splits = [np.array([TRAIN, TRAIN, VALIDATION, TEST]), np.array([VALIDATION]), np.array([TRAIN, TEST])]
    sample = draw_cases(Interactions(["a", "b", "c"], sequences, splits), 7, seed=0)
    assert [(case.user, case.history.tolist(), case.target) for case in sample.cases] == [(0, [0, 1], 2)]
    assert sample.num_all == 1


def test_too_many_cases_are_drawn_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "MOST_CASES", 5)
    users = range(30)
    data = Interactions(
        [str(user) for user in users],
        [np.array([0, 1]) for _ in users],
        [np.array([TRAIN, VALIDATION]) for _ in users],
    )
    drawn = [[case.user for case in draw_cases(data, 2, seed=seed).cases] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 5 and drawn[0] == sorted(drawn[0])
    sample = draw_cases(data, 2, seed=0)
    assert sample.num_all == 30
    report = measure(np.eye(2, dtype=np.float32), None, sample, weight=0.0)
    assert "5 of 30 validation purchases" in table(report)
