"""How close an answer came to the target: pure functions over tensors.

GREAM (https://arxiv.org/abs/2510.20815), residual-sensitive verifiable reward (RSVR): the names are
residual codes, so an answer that shares its first codes with the target is nearly right and earns a part.

Codes without an order (REG4Rec, arXiv 2508.15308) say each its own part of the item, so there every code
that the target has counts: the Step-Hit reward of that paper, put under the law of RSVR by us.

Beside it stand two plain ones (well formed; well formed and an item) and a hit that is graded by rank (ours,
after ReRe, https://arxiv.org/abs/2510.12211, and MiniOneRec, https://arxiv.org/abs/2510.24431). The four
rewards of REG4Rec are in `reg4rec_rewards`.

Differs from GREAM's code in: an answer must be a real item of the catalogue (theirs only checks the
format); an incomplete name, an answer inside the think block and a second answer earn nothing (theirs
pays 0.5, 1.0 and the first); the exact hit is a column of its own, so that no later penalty can hide it
(theirs tests `reward == 1.0`). Which completions are malformed is decided in `completions`, here it is only
`valid`. As there, a right name without thinking earns nothing in a reasoning prompt.

Legend: R completions, L codebooks (the disambiguation level included), P prompts, G generations, R = P x G.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_MISS = 0.95  # the most that anything but the target itself can earn; from the authors' code
MISS_SHARE = 0.5  # bound of what a miss earns by rank: less than half a hit, however deep it was found


def residual_sensitive_reward(
    path: Tensor, target: Tensor, valid: Tensor, *, ordered: bool = True, disambiguation: bool = False
) -> Tensor:
    """Grade each answer by the number of codes it shares with its target: leading ones, or of any codebook.

    With m such codes right, the reward is sqrt(m / L), at most 0.95 unless all are right. The authors'
    values (0.5, 0.707, 0.866 for L = 4) follow this law; the law itself is ours, read off those values.

    Args:
        path: (R, L) codes of the answers; rows that are not `valid` may hold anything.
        target: (R, L) codes of the items that were bought.
        valid: (R,) bool, false where the completion is malformed or its path is no item.
        ordered: whether a code means something after the right codes only, see `SidLayout`.
        disambiguation: whether the last code only numbers the items that share all others; it counts after
            these alone.

    Returns:
        (R,) float32: 1 for a hit, 0 for an answer that is not valid.
    """
    num_codebooks = path.shape[1]  # L >= 1 by the layout, so the division is safe
    matching = matching_codes(path, target, ordered=ordered, disambiguation=disambiguation).sum(dim=1)  # m
    near = (matching.float() / num_codebooks).sqrt().clamp(max=NEAR_MISS)
    reward = torch.where(matching == num_codebooks, torch.ones_like(near), near)
    return torch.where(valid, reward, torch.zeros_like(reward))


def exact_hits(path: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mark the answers that name their target: (R,) float32, 1 for a valid exact hit, else 0.

    Arguments as in `residual_sensitive_reward`.
    """
    return ((path == target).all(dim=1) & valid).float()


def matching_codes(path: Tensor, target: Tensor, *, ordered: bool, disambiguation: bool) -> Tensor:
    """Mark the codes of an answer that count as right: (R, L) bool, compared codebook by codebook.

    Arguments as in `residual_sensitive_reward`.
    """
    same = path == target
    if ordered:
        return same.long().cumprod(dim=1).bool()
    if disambiguation:
        return torch.cat([same[:, :-1], same.all(dim=1, keepdim=True)], dim=1)
    return same


def format_reward(well_formed: Tensor) -> Tensor:
    """Reward a completion that can be read at all: (R,) bool to (R,) float32, 1 or 0."""
    return well_formed.float()


def validity_reward(valid: Tensor) -> Tensor:
    """Reward an answer that can be read and is an item: (R,) bool to (R,) float32, 1 or 0."""
    return valid.float()


def answer_ranks(
    path: Tensor, valid: Tensor, num_generations: int, preference: Tensor | None = None
) -> Tensor:
    """Rank each answer among the distinct valid answers of its group, 1 is what the policy likes best.

    What the policy likes is told by `preference`; an answer that was given twice has the larger one. Without
    it, an answer that was given more often ranks higher: in a sampled group the order of the completions says
    nothing, and the number of copies is the sample's estimate of the probability. Equals share the better
    rank, so that a group of which nothing is known is not graded by chance.

    Args:
        path: (R, L) codes of the answers, the groups one after the other.
        valid: (R,) bool; other rows are nobody's rivals.
        num_generations: G.
        preference: (P, G) log-probabilities, or any other number that grows with what the policy prefers; for
            a beam group minus the place in the list.

    Returns:
        (R,) int64; of no meaning in rows that are not valid.
    """
    paths = path.view(-1, num_generations, path.shape[1])  # (P, G, L)
    real = valid.view(-1, num_generations)
    same = (paths[:, :, None] == paths[:, None]).all(dim=-1) & real[:, :, None] & real[:, None]  # (P, G, G)
    if preference is None:
        liked = same.sum(dim=2).float()  # (P, G)
    else:
        liked = torch.where(same, preference[:, None], -torch.inf).amax(dim=2)
    repeated = same.tril(diagonal=-1).any(dim=2)  # the same answer stands before this one
    counted = (real & ~repeated)[:, None]  # (P, 1, G) every distinct answer once
    ranks = 1 + (counted & (liked[:, None] > liked[:, :, None])).sum(dim=2)
    return ranks.flatten()


def rank_discounted_hit(hits: Tensor, ranks: Tensor, valid: Tensor) -> Tensor:
    """Pay a hit 1 and a miss the less, the higher the policy ranked it (ours).

    A miss of rank r earns (1 - 1 / log2(r + 2)) / 2: half of what NDCG's discount takes from the place behind
    it, between 0.18 for the answer that the policy was surest of and 0.5, which is never reached. An answer
    that is not valid earns 0, less than any miss.

    MiniOneRec's code discounts the hit by its place and pays misses nothing; but a group has one distinct hit
    at most, and a z-score forgets by how much it leads. Grades among the misses survive a z-score, and ReRe
    has them: it punishes a miss by its rank. Differs from ReRe in: groups without a hit are graded as well;
    all that they teach is to be less sure of what was wrong.

    Args:
        hits: (R,) bool or 0/1, the exact hits.
        ranks: (R,) of `answer_ranks`.
        valid: (R,) bool.

    Returns:
        (R,) float32.
    """
    miss = MISS_SHARE * (1 - 1 / (ranks.float() + 2).log2())  # the logarithm is at least log2(3)
    return torch.where(hits.bool(), 1.0, miss) * valid.float()
