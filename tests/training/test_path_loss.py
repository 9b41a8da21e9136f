"""The loss of the path scorer: the sampler's draws, and values worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from gream.semantic_ids.layout import Names
from gream.training.history_targets import HistoryTargets, Window, collate
from gream.training.path_loss import info_nce, sample_negatives
from tests.training.planted import new_scorer

TARGETS = HistoryTargets([], 8, 1)


@pytest.mark.parametrize(("num_valid", "num_negatives"), [(9, 4), (9, 7), (9, 8), (9, 50), (2, 1), (1, 3)])
def test_negatives_are_valid_distinct_and_never_the_positive(num_valid: int, num_negatives: int) -> None:
    positives = torch.arange(num_valid).repeat(50)
    drawn = sample_negatives(positives, num_valid, num_negatives, torch.Generator().manual_seed(1))
    assert drawn.shape == (50 * num_valid, min(num_negatives, num_valid - 1))
    for positive, row in zip(positives.tolist(), drawn.tolist(), strict=True):
        assert set(row) <= set(range(num_valid)) - {positive}
        assert len(set(row)) == len(row)


def test_every_set_of_negatives_is_equally_likely() -> None:
    """Three of six others: 20 sets, each with chance 1/20. Chi-square over sets sees any dependence."""
    drawn = sample_negatives(torch.full((20_000,), 2), 7, 3, torch.Generator().manual_seed(2))
    sets = drawn.sort(dim=1).values @ torch.tensor([49, 7, 1])
    counts = torch.unique(sets, return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_info_nce_equals_the_hand_computation() -> None:
    # row 1: log(e^1 + e^0 + e^2) - 1; row 2: log(3 e^-1) + 1 = log 3
    scores = torch.tensor([[1.0, 0.0, 2.0], [-1.0, -1.0, -1.0]])
    expected = math.log(math.e + 1 + math.e**2) - 1 + math.log(3)
    torch.testing.assert_close(info_nce(scores).item(), expected, rtol=1e-6, atol=1e-6)


def test_an_indifferent_scorer_loses_the_logarithm_of_the_choices(names: Names) -> None:
    """Head and history state at zero: log(N + 1) for InfoNCE and log V for the next prefix, at all depths."""
    scorer = new_scorer(names).eval()
    torch.nn.init.zeros_(scorer.state.weight)  # the head's last layer starts at zero anyway
    batch = collate([Window(0, np.array([3, 1, 4]), 0), Window(1, np.array([5, 9]), 1)])
    loss = TARGETS.loss(scorer, batch, 5, torch.Generator().manual_seed(0)).item()
    sizes = [len(nodes) for nodes in scorer.level_nodes]
    assert sizes[0] == 3  # so that only two negatives exist at the first depth
    one = sum(math.log(min(5, size - 1) + 1) + math.log(size) for size in sizes)
    assert loss == pytest.approx(4 * one, rel=1e-5)  # three targets of the first window, one of the second


def test_as_many_negatives_as_there_are_make_the_full_softmax(names: Names) -> None:
    scorer = new_scorer(names)
    torch.nn.init.normal_(scorer.head[-1].weight)
    scorer.eval()
    items = torch.tensor([[3, 1, 4]])
    batch = collate([Window(0, np.array([3, 1, 4]), 2)])
    loss = TARGETS.loss(scorer, batch, 1000, torch.Generator()).item()
    context = scorer.context([[3, 1]])
    expected = 0.0
    for level, nodes in enumerate(scorer.level_nodes):
        target = int(scorer.item_nodes[items[0, 2], level]) - nodes.start
        scores = scorer.score(context, level, torch.tensor([list(nodes)]))[0]
        with torch.inference_mode():
            inner = scorer.level_rows(level) @ context.state[0]  # no bias for purchases yet
        expected -= (scores.log_softmax(0)[target] + inner.log_softmax(0)[target]).item()
    assert loss == pytest.approx(expected, rel=1e-5)
