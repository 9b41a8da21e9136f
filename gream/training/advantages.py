"""How much better than its group a completion was: pure functions over tensors.

GREAM (https://arxiv.org/abs/2510.20815), bonus-calibrated group advantage (BGAE): the z-score of GRPO,
plus the advantage of the indicator "a random subset of k completions holds an exact hit". The z-score is
blind to scale (one partial hit among zeros and one exact hit among zeros look the same); the bonus is what
tells them apart.

Its siblings: the plain z-score of GRPO; Dr.GRPO's centred rewards (https://arxiv.org/abs/2503.20783), which
are not divided, so that groups keep their scale; and RLOO (https://arxiv.org/abs/2402.14740), whose baseline
leaves the completion itself out. None of these three knows of exact hits.

Where each level of an answer has a score of its own, `process_advantages` standardises the scores of a level
inside the group, and `over_tokens` adds them to the outcome at the token of that level, as ProRAG does
(https://arxiv.org/abs/2601.21912) for steps of text.

Differs from GREAM's code in: exact hits come as a mask, not as `reward == 1.0`; k is an
argument; undefined cases (fewer than k completions, no spread) give zero, theirs divides 0 by 0; no
epsilon in the divisors, because those cases are masked exactly.

Legend: P prompts, G generations, L codebooks, R = P x G completions, T tokens of the longest one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ADVANTAGES = ("srpo", "grpo", "dr_grpo", "rloo")


def advantages_of(kind: str, rewards: Tensor, hits: Tensor, k: int) -> Tensor:
    """Compute the advantages of one of `ADVANTAGES`: (P, G) rewards and hits to (P, G) float32.

    Args:
        kind: `srpo` is the z-score with the pass@k bonus, `grpo` the z-score alone.
        rewards: (P, G) graded rewards.
        hits: (P, G) bool or 0/1, the exact hits; only `srpo` looks at them.
        k: subset size of the bonus of `srpo`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "srpo":
        return bonus_calibrated_advantages(rewards, hits, k)
    if kind == "grpo":
        return group_advantages(rewards)
    if kind == "dr_grpo":
        return centred_advantages(rewards)
    if kind == "rloo":
        return leave_one_out_advantages(rewards)
    raise ValueError(f"Unknown advantage {kind!r}; known ones: {', '.join(ADVANTAGES)}.")


def group_advantages(rewards: Tensor) -> Tensor:
    """Standardise rewards inside each group: (P, G) -> (P, G) float32, zero for a group without spread.

    The standard deviation is the unbiased one, as in GRPO.
    """
    return _standardised(rewards.double(), torch.ones_like(rewards, dtype=torch.bool)).float()


def centred_advantages(rewards: Tensor) -> Tensor:
    """Subtract the group's mean: (P, G) -> (P, G) float32, zero for a group without spread (Dr.GRPO)."""
    return _centred(rewards.double(), torch.ones_like(rewards, dtype=torch.bool)).float()


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """Subtract the mean of the others of the group: (P, G) -> (P, G) float32 (RLOO).

    That is G / (G - 1) times the centred reward; zero for a group without spread or of one.
    """
    size = rewards.shape[1]
    others = max(size - 1, 1)  # a group of one has nobody to be compared with; it is zero already
    return (centred_advantages(rewards).double() * size / others).float()


def process_advantages(scores: Tensor) -> Tensor:
    """Standardise the scores of each level inside its group.

    Args:
        scores: (P, G, L); NaN where a completion has no score at that level.

    Returns:
        (P, G, L) float32; zero where there is no score, where fewer than two have one, and without spread.
    """
    levels = scores.double().transpose(1, 2)  # (P, L, G)
    known = ~levels.isnan()
    return _standardised(levels, known).transpose(1, 2).float()


def over_tokens(
    outcome: Tensor, process: Tensor | None, positions: Tensor, length: int, *, weight: float = 1.0
) -> Tensor:
    """Spread advantages over the tokens of the completions: the outcome on all, the process on its level's.

    Args:
        outcome: (R,) advantage of each completion.
        process: (R, L) advantage of each level, or None where there is none.
        positions: (R, L) place of each level's code among the completion's tokens; -1 where there is none.
        length: T; padding behind a completion gets the outcome too, and is masked by the loss.
        weight: factor of the process; 0.3 in ProRAG's runs.

    Returns:
        (R, T) float32.
    """
    spread = outcome.float()[:, None].repeat(1, length)
    if process is None:
        return spread
    added = torch.where(positions >= 0, weight * process.float(), 0.0)
    return spread.scatter_add(1, positions.clamp(min=0), added)


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


def bonus_calibrated_advantages(rewards: Tensor, hits: Tensor, k: int) -> Tensor:
    """Add the pass@k bonus to the group z-score: (P, G) rewards and hits -> (P, G) float32.

    Args:
        rewards: (P, G) graded rewards.
        hits: (P, G) bool or 0/1, the exact hits.
        k: subset size of the bonus.
    """
    return group_advantages(rewards) + pass_at_k_bonus(hits, k)


def _centred(values: Tensor, known: Tensor) -> Tensor:
    """Subtract the mean of the known entries of each last dimension; zero elsewhere, and without spread."""
    none_high, none_low = values.masked_fill(~known, -torch.inf), values.masked_fill(~known, torch.inf)
    # Equal rewards must give exactly zero, also where rounding leaves a tiny deviation from the mean.
    spread = none_high.amax(dim=-1, keepdim=True) > none_low.amin(dim=-1, keepdim=True)
    number = known.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = torch.where(known, values, 0.0).sum(dim=-1, keepdim=True) / number
    return torch.where(known & spread, values - mean, 0.0)


def _standardised(values: Tensor, known: Tensor) -> Tensor:
    """Divide what `_centred` gives by the unbiased deviation of the known entries of the row."""
    centred = _centred(values, known)
    others = (known.sum(dim=-1, keepdim=True) - 1).clamp(min=1)  # one alone has no spread and is zero already
    deviation = (centred.square().sum(dim=-1, keepdim=True) / others).sqrt()
    return centred / torch.where(deviation > 0, deviation, 1.0)  # zero divided by one stays zero


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
