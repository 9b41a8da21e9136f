"""Calibration: a handful of numbers, fitted on purchases that nothing was learnt from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gream.data.store import Case
from gream.decoding.neighbours import copurchased
from gream.decoding.path_scorer import PrefixPathScorer
from gream.training import calibration
from gream.training.calibration import calibrate
from gream.training.history_targets import HistoryTargets
from tests.training.planted import grid_names, new_scorer

TARGETS = HistoryTargets([], 8, 32)


@pytest.fixture
def sequences() -> list[np.ndarray]:
    """Item i is followed by i + 1 three times of four, else by any."""
    rng = np.random.default_rng(0)
    rows = [[int(start)] for start in rng.integers(40, size=80)]
    for row in rows:
        while len(row) < 5:
            row.append((row[-1] + 1) % 40 if rng.random() < 0.75 else int(rng.integers(40)))
    return [np.array(row) for row in rows]


@pytest.fixture
def cases(sequences: list[np.ndarray]) -> list[Case]:
    return [Case(user, s[:-1], int(s[-1])) for user, s in enumerate(sequences[60:])]


@pytest.fixture
def scorer(sequences: list[np.ndarray]) -> PrefixPathScorer:
    """Counts what is true, and has vectors that mean nothing and are sure of it."""
    scorer = new_scorer(grid_names(40), neighbours=6)
    for weight in (scorer.rows.weight, *scorer.head[-1].parameters()):
        torch.nn.init.normal_(weight, std=0.7)
    scorer.sources["copurchases"].fill(copurchased([s[:-1] for s in sequences[:60]], 40, 6))
    return scorer.eval()


def losses(scorer: PrefixPathScorer, cases: list[Case]) -> float:
    """The mean loss of a case, all depths added, from what is served."""
    context = scorer.context([case.history.tolist() for case in cases])
    true = scorer.item_nodes[[case.target for case in cases]]
    total = 0.0
    for level, valid in enumerate(scorer.level_nodes):
        scores = scorer.score(context, level, torch.tensor(valid).expand(len(cases), -1))
        total += F.cross_entropy(scores, true[:, level] - valid.start).item()
    return total


def test_vectors_that_are_too_sure_are_turned_down(scorer: PrefixPathScorer, cases: list[Case]) -> None:
    measured = losses(scorer, cases)
    size = scorer.state.weight.norm().item()
    before, after = calibrate(scorer, TARGETS, cases)
    assert before == pytest.approx(measured, rel=1e-5)
    assert after == pytest.approx(losses(scorer, cases), rel=1e-5)
    assert after < before - 1
    assert scorer.state.weight.norm().item() < 0.5 * size


def test_one_factor_is_multiplied_into_all_that_was_learnt(
    scorer: PrefixPathScorer, cases: list[Case]
) -> None:
    @torch.no_grad()
    def learnt() -> list[torch.Tensor]:
        context = scorer.context([case.history.tolist() for case in cases])
        return [
            scorer.score(context, level, torch.tensor(valid).expand(len(cases), -1))
            - scorer.sources["copurchases"].level(context.evidence[0], level)
            for level, valid in enumerate(scorer.level_nodes)
        ]

    torch.nn.init.normal_(scorer.return_ages.weight)
    before, weight = learnt(), scorer.state.weight.detach().clone()
    calibrate(scorer, TARGETS, cases)
    factor = scorer.state.weight[0, 0] / weight[0, 0]
    for old, new in zip(before, learnt(), strict=True):
        torch.testing.assert_close(new, factor * old, rtol=1e-4, atol=1e-4)


def test_no_number_can_be_moved_to_a_better_place(scorer: PrefixPathScorer, cases: list[Case]) -> None:
    calibrate(scorer, TARGETS, cases)
    best = losses(scorer, cases)
    for weight in (scorer.sources["copurchases"].gains, scorer.sources["copurchases"].floors):
        for level in range(3):
            for step in (-0.05, 0.05):
                with torch.no_grad():
                    weight[level] += step
                    assert losses(scorer, cases) > best - 1e-4
                    weight[level] -= step


def test_memory_is_bounded_and_parts_are_equal_to_the_whole(
    sequences: list[np.ndarray], cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(pairs: int, at_once: int) -> torch.Tensor:
        scorer = new_scorer(grid_names(40), neighbours=6)
        scorer.sources["copurchases"].fill(copurchased(sequences[:60], 40, 6))
        monkeypatch.setattr(calibration, "PAIRS", pairs)
        monkeypatch.setattr(calibration, "SCORED_AT_ONCE", at_once)
        calibrate(scorer, TARGETS, cases)
        return scorer.sources["copurchases"].gains.detach()

    whole = fitted(1 << 24, 1 << 16)
    torch.testing.assert_close(fitted(1 << 24, 3 * 40), whole, rtol=0.02, atol=0.02)
    cases[5:] = [Case(0, np.array([0]), 39)] * 15  # what lies beyond the bound is not looked at
    five = fitted(5 * 40, 1 << 16)
    del cases[5:]
    torch.testing.assert_close(five, fitted(1 << 24, 1 << 16), rtol=0.02, atol=0.02)
