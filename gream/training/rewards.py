"""How close an answer came to the target: pure functions over tensors.

GREAM (https://arxiv.org/abs/2510.20815), residual-sensitive verifiable reward (RSVR): the names are
residual codes, so an answer that shares its first codes with the target is nearly right and earns a part.

Codes without an order (REG4Rec, arXiv 2508.15308) say each its own part of the item, so there every code
that the target has counts: the Step-Hit reward of that paper, put under the law of RSVR by us.

Differs from the authors' code in: an answer must be a real item of the catalogue (theirs only checks the
format); an incomplete name, an answer inside the think block and a second answer earn nothing (theirs
pays 0.5, 1.0 and the first); the exact hit is a column of its own, so that no later penalty can hide it
(theirs tests `reward == 1.0`). Which completions are malformed is decided in `completions`, here it is only
`valid`. As there, a right name without thinking earns nothing in a reasoning prompt.

Legend: R completions, L codebooks (the disambiguation level included).
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR_MISS = 0.95  # the most that anything but the target itself can earn; from the authors' code


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
    same = path == target
    if ordered:
        same = same.long().cumprod(dim=1)
    elif disambiguation:
        same = torch.cat([same[:, :-1], same.all(dim=1, keepdim=True)], dim=1)
    matching = same.sum(dim=1)  # (R,) m
    near = (matching.float() / num_codebooks).sqrt().clamp(max=NEAR_MISS)
    reward = torch.where(matching == num_codebooks, torch.ones_like(near), near)
    return torch.where(valid, reward, torch.zeros_like(reward))


def exact_hits(path: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mark the answers that name their target: (R,) float32, 1 for a valid exact hit, else 0.

    Arguments as in `residual_sensitive_reward`.
    """
    return ((path == target).all(dim=1) & valid).float()
