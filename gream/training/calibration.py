"""Weigh what a path scorer has learnt against what it counts, on purchases that it has not learnt from.

In training a scorer becomes surer of its vectors than they deserve on new purchases, and trusts counts too
little beside them. A handful of numbers mends it after training: one factor for all that was learnt, and
gain and floor of every kind of evidence at each depth. They are fitted by cross-entropy over all prefixes of
a depth, on the validation cases that choose the epoch as well.

Source: ours; temperature scaling (Guo et al. 2017, arXiv 1706.04599) fits one such factor.

Legend: B cases, L codebooks, V valid prefixes of a level, S kinds of evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

from gream.data.store import Case
from gream.decoding.path_scorer import PrefixPathScorer
from gream.training.history_targets import HistoryTargets
from gream.training.policy_targets import PolicyTargets

PAIRS = 1 << 24  # of a case and a prefix that are looked at, at most: bounds memory in a large catalogue
SCORED_AT_ONCE = 1 << 16  # of them that go through a scorer together, for the same reason
FACTOR, GAIN, FLOOR = (-5.0, 2.0), (0.0, 20.0), (-12.0, 4.0)  # where to look; logarithms but for the gain


@dataclass(frozen=True)
class _Level:
    """What is known of the cases at one depth."""

    learnt: Tensor  # (B, V) logits without the evidence
    amounts: Tensor  # (B, S, V) what neighbours add up to
    true: Tensor  # (B,) column of the true prefix


def calibrate(
    scorer: PrefixPathScorer, targets: HistoryTargets | PolicyTargets, cases: list[Case]
) -> tuple[float, float]:
    """Fit factor, gains and floors in place; the factor is multiplied into the weights.

    Args:
        scorer: a trained scorer with evidence of neighbours.
        targets: gives the contexts of the cases.
        cases: purchases that nothing was learnt from; as many of the first ones are used as `PAIRS` allows.

    Returns:
        The mean loss of a case, all depths added, before and after.
    """
    levels = _look(scorer, targets, cases[: max(1, PAIRS // len(scorer.level_nodes[-1]))])
    sources = list(scorer.sources.values())
    start = np.concatenate([[0.0], *(part.tolist() for s in sources for part in (s.gains, s.floors))])
    bounds = [FACTOR] + ([GAIN] * len(levels) + [FLOOR] * len(levels)) * len(sources)
    before = _loss(start, levels)[0]
    fit = minimize(_loss, start, args=(levels,), jac=True, method="L-BFGS-B", bounds=bounds)
    found = torch.tensor(fit.x, dtype=torch.float32)
    with torch.no_grad():
        for weight in (scorer.state.weight, scorer.return_ages.weight, *scorer.head[-1].parameters()):
            weight.mul_(found[0].exp())
        for source, (gains, floors) in zip(sources, found[1:].view(-1, 2, len(levels)), strict=True):
            source.gains.copy_(gains)
            source.floors.copy_(floors)
    return before, float(fit.fun)


def _loss(values: np.ndarray, levels: list[_Level]) -> tuple[float, np.ndarray]:
    """Give the mean loss of a case, all depths added, and its gradient.

    Args:
        values: (1 + 2 S L,) logarithm of the factor; gains and logarithms of the floors of each evidence.
        levels: what is known of the cases.
    """
    device = levels[0].learnt.device
    given = torch.tensor(values, dtype=torch.float32, device=device, requires_grad=True)
    gains, floors = given[1:].view(-1, 2, len(levels), 1).unbind(1)  # (S, L, 1)
    loss = given.new_zeros(())
    for place, level in enumerate(levels):
        worth = gains[:, place] * torch.log1p(level.amounts * (-floors[:, place]).exp())  # (B, S, V)
        loss = loss + F.cross_entropy(given[0].exp() * level.learnt + worth.sum(dim=1), level.true)
    [gradient] = torch.autograd.grad(loss, given)
    return loss.item(), gradient.double().cpu().numpy()


def _look(
    scorer: PrefixPathScorer, targets: HistoryTargets | PolicyTargets, cases: list[Case]
) -> list[_Level]:
    """Score all prefixes of every depth for the cases, with the evidence kept apart."""
    scorer.eval()
    size = max(1, SCORED_AT_ONCE // len(scorer.level_nodes[-1]))
    parts = [
        _look_at_few(scorer, targets, cases[start : start + size]) for start in range(0, len(cases), size)
    ]
    return [
        _Level(*(torch.cat(tensors) for tensors in zip(*of_level, strict=True)))
        for of_level in zip(*parts, strict=True)
    ]


@torch.no_grad()
def _look_at_few(
    scorer: PrefixPathScorer, targets: HistoryTargets | PolicyTargets, cases: list[Case]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    context = targets.contexts(scorer, cases)
    true = scorer.item_nodes[torch.tensor([case.target for case in cases], device=scorer.item_nodes.device)]
    levels = []
    for level, valid in enumerate(scorer.level_nodes):
        nodes = torch.arange(valid.start, valid.stop, device=true.device).expand(len(cases), -1)
        learnt, amounts = scorer.score(context, level, nodes).clone(), []
        for source, evidence in zip(scorer.sources.values(), context.evidence, strict=True):
            amounts.append(source.amounts(evidence, level))
            learnt -= source.logits(amounts[-1], level)
        levels.append((learnt, torch.stack(amounts, dim=1), true[:, level] - valid.start))
    return levels
