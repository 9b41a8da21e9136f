"""The loss of the path scorer: InfoNCE against uniform valid negatives at every depth.

Source: PROMISE (arXiv 2601.04674): at every depth b, InfoNCE of the true b-prefix against N distinct
prefixes drawn uniformly from the valid b-prefixes without the true one; the losses of all depths are added.

Differs from the paper in (ours): beside InfoNCE stands the cross-entropy of the true prefix among all
prefixes of its depth under the scorer's affinities alone. It trains what the scorer has and the generator
has not, as the next-token loss trains the shared encoder. The paper gives no N.

Legend: B targets, L codebooks, N negatives, V valid prefixes of one depth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext


def path_loss(
    scorer: PrefixPathScorer, context: ScorerContext, targets: Tensor, negatives: Sequence[Tensor]
) -> Tensor:
    """Add the InfoNCE and next-prefix losses of all depths and targets: a sum, ().

    Args:
        scorer: gives the scores.
        context: what the user of each target had bought strictly before it, B of them.
        targets: (B,) items bought next.
        negatives: wrong prefixes of the targets, of `draw_negatives`.
    """
    true_nodes = scorer.item_nodes[targets]  # (B, L)
    loss = context.state.new_zeros(())
    for level, valid in enumerate(scorer.level_nodes):
        positives = true_nodes[:, level] - valid.start  # (B,)
        candidates = valid.start + torch.cat([positives[:, None], negatives[level]], dim=1)
        affinities = scorer.affinities(context, level)  # (B, V)
        loss = loss + info_nce(scorer.logits(context, level, candidates, affinities))
        loss = loss + F.cross_entropy(affinities, positives, reduction="sum")
    return loss


def draw_negatives(
    scorer: PrefixPathScorer, targets: Tensor, num_negatives: int, generator: torch.Generator
) -> list[Tensor]:
    """Draw wrong prefixes against the true one of every target: (B, N) for each of the L depths.

    Args:
        scorer: knows the valid prefixes.
        targets: (B,) items bought next.
        num_negatives: size N of each set; all others where there are fewer.
        generator: source of the draws.
    """
    true_nodes = scorer.item_nodes[targets]  # (B, L)
    return [
        sample_negatives(true_nodes[:, level] - valid.start, len(valid), num_negatives, generator)
        for level, valid in enumerate(scorer.level_nodes)
    ]


def info_nce(scores: Tensor) -> Tensor:
    """Sum -log softmax of the first score over rows: (B, N + 1) scores, the positive first, to ()."""
    return -scores.log_softmax(dim=-1)[:, 0].sum()


def sample_negatives(
    positives: Tensor, num_valid: int, num_negatives: int, generator: torch.Generator
) -> Tensor:
    """Draw, for every positive, a uniform set of distinct others out of `num_valid`.

    Args:
        positives: (B,) integers below `num_valid`.
        num_valid: number of valid prefixes V at the depth.
        num_negatives: size N of each set; V - 1 where that is less, which is then all others.
        generator: source of the draws, on the CPU.

    Returns:
        (B, min(N, V - 1)) integers below `num_valid`; the order inside a row means nothing.
    """
    others = num_valid - 1
    if num_negatives >= others:
        drawn = torch.arange(others).expand(len(positives), -1)
    else:
        # Floyd's algorithm on all rows at once: exact, and its cost does not depend on V
        drawn = torch.full((len(positives), num_negatives), -1)
        for column, newest in enumerate(range(others - num_negatives, others)):
            draw = torch.randint(newest + 1, (len(positives),), generator=generator)
            taken = (drawn[:, :column] == draw[:, None]).any(dim=1)
            drawn[:, column] = torch.where(taken, newest, draw)
    drawn = drawn.to(positives.device)  # drawn on the CPU, so that every device learns from the same
    return drawn + (drawn >= positives[:, None])
