"""How much better than its group a completion was: pure functions over tensors.

GREAM (https://arxiv.org/abs/2510.20815), bonus-calibrated group advantage (BGAE): the z-score of GRPO,
plus the advantage of the indicator "a random subset of k completions holds an exact hit". The z-score is
blind to scale (one partial hit among zeros and one exact hit among zeros look the same); the bonus is what
tells them apart.

Differs from the authors' code in: exact hits come as a mask, not as `reward == 1.0`; k and the weight are
arguments; undefined cases (fewer than k completions, no spread) give zero, theirs divides 0 by 0; no
epsilon in the divisors, because those cases are masked exactly.

Legend: P prompts, G generations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def group_advantages(rewards: Tensor) -> Tensor:
    """Standardise rewards inside each group: (P, G) -> (P, G) float32, zero for a group without spread.

    The standard deviation is the unbiased one, as in GRPO.
    """
    exact = rewards.double()
    # Equal rewards must give exactly zero, also where rounding leaves a tiny deviation from the mean.
    spread = exact.amax(dim=1, keepdim=True) > exact.amin(dim=1, keepdim=True)  # (P, 1)
    centred = exact - exact.mean(dim=1, keepdim=True)
    num_others = max(exact.shape[1] - 1, 1)  # a group of one has no spread, the guard only keeps it finite
    deviation = (centred.square().sum(dim=1, keepdim=True) / num_others).sqrt()
    scores = centred / torch.where(spread, deviation, torch.ones_like(deviation))
    return torch.where(spread, scores, torch.zeros_like(scores)).float()


def pass_at_k_bonus(hits: Tensor, k: int) -> Tensor:
    """Advantage of the chance that k completions drawn from the group hold an exact hit.

    Over all subsets of size k, a subset scores 1 if it holds a hit; those scores are standardised, and a
    completion receives the mean over the subsets it is in. This is that mean in closed form. It sums to
    zero over a group; it is zero where no subset hits, where every subset hits, and where G < k.

    Args:
        hits: (P, G) bool or 0/1, the exact hits.
        k: size of the subsets, at least 1.

    Returns:
        (P, G) float32.

    Raises:
        ValueError: k is less than 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}.")
    is_hit = hits.bool()
    table = torch.tensor(_bonus_by_hits(is_hit.shape[1], k), dtype=torch.float64, device=hits.device)
    by_group = table[is_hit.sum(dim=1)]  # (P, 2): what a hit and what a miss receives
    return torch.where(is_hit, by_group[:, :1], by_group[:, 1:]).float()


def bonus_calibrated_advantages(rewards: Tensor, hits: Tensor, k: int, weight: float = 1.0) -> Tensor:
    """Add the pass@k bonus to the group z-score: (P, G) rewards and hits -> (P, G) float32.

    Args:
        rewards: (P, G) graded rewards.
        hits: (P, G) bool or 0/1, the exact hits.
        k: subset size of the bonus.
        weight: factor of the bonus; 1 in the authors' code, 0 leaves plain GRPO.
    """
    return group_advantages(rewards) + weight * pass_at_k_bonus(hits, k)


def _bonus_by_hits(num_generations: int, k: int) -> list[tuple[float, float]]:
    """Tabulate the bonus of a hit and of a miss for every possible number of hits, 0..G.

    Whole-number binomials and one division each: exact to the last bit of a float, for any G.
    """
    if num_generations < k:
        return [(0.0, 0.0)] * (num_generations + 1)
    subsets = math.comb(num_generations, k)
    subsets_with_one = math.comb(num_generations - 1, k - 1)  # >= 1 because k <= G
    table = []
    for num_hits in range(num_generations + 1):
        num_misses = num_generations - num_hits
        fail = math.comb(num_misses, k) / subsets  # 1 - rho
        if fail in (0.0, 1.0):  # sigma = 0: every subset scores the same
            table.append((0.0, 0.0))
            continue
        sigma = math.sqrt(fail * (1.0 - fail))
        # num_misses >= k here, so a miss has num_misses - 1 >= k - 1 other misses to be drawn with.
        fail_with_miss = math.comb(num_misses - 1, k - 1) / subsets_with_one
        table.append((fail / sigma, (fail - fail_with_miss) / sigma))
    return table
