"""The prefixes that one search holds: how they are chosen, copied, merged and ordered.

Legend: B users, W beams, P beams of a pool out of which some are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Beams:
    """Paths of one level. The columns ascend in the key that breaks ties.

    A log-probability of -inf marks padding: a user with few legal paths. It repeats the values of a
    legal path, so that engine and guidance only ever see real ones; its children inherit the -inf.
    """

    nodes: Tensor  # (B, W) int64, numbers of the constraint; -1 only where a user has no legal path at all
    logps: Tensor  # (B, W) cumulative, float32
    parents: Tensor  # (B, W) column of the beam that it continues
    tokens: Tensor  # (B, W) vocabulary id of its last code
    scores: Tensor | None = None  # (B, W) float32, the scorer's

    @classmethod
    def roots(cls, num_users: int, device: torch.device) -> Beams:
        """One empty path for each user."""
        zeros = torch.zeros(num_users, 1, dtype=torch.int64, device=device)
        return cls(zeros, torch.zeros(num_users, 1, device=device), zeros, zeros)

    def take(self, columns: Tensor) -> Beams:
        """Choose columns (B, W') for each user, with padding turned into copies of a legal column."""
        logps = self.logps.gather(1, columns)
        columns = without_padding(columns, logps)
        return Beams(
            nodes=self.nodes.gather(1, columns),
            logps=logps,
            parents=self.parents.gather(1, columns),
            tokens=self.tokens.gather(1, columns),
            scores=None if self.scores is None else self.scores.gather(1, columns),
        )


def without_padding(columns: Tensor, logps: Tensor) -> Tensor:
    """Replace columns (B, W) whose log-probability is -inf by the first whose is not."""
    legal = logps > -torch.inf
    first_legal = columns.gather(1, legal.long().argmax(dim=1, keepdim=True))
    return torch.where(legal, columns, first_legal)


def best(values: Tensor, width: int, keys: Tensor | None = None) -> Tensor:
    """Choose the `width` largest of each row: (B, P) values to (B, min(width, P)) columns.

    torch.topk takes any of several equal values. Here those with the lower key (B, P) win, without keys the
    leftmost, and the columns come in ascending order of their keys. No answer of the device is waited for.
    """
    width = min(width, values.shape[1])
    places = torch.arange(values.shape[1], dtype=torch.int32, device=values.device).expand_as(values)
    keys = places if keys is None else keys
    least = values.topk(width, dim=1).values[:, -1:]
    # First what is above the least value, whatever its key; then of the least ones those of lower key.
    first, last = torch.iinfo(keys.dtype).min, torch.iinfo(keys.dtype).max
    turn = torch.where(values > least, first, torch.where(values == least, keys, last))
    columns = turn.topk(width, dim=1, largest=False).indices
    return columns.gather(1, keys.gather(1, columns).argsort(dim=1, stable=True))


def merged(beams: Beams) -> Beams:
    """Unite the beams of a user that are the same path, reached in another order: (B, P) to (B, P).

    The log-probabilities of the orders are added up (log-sum-exp), because a name may be written in any of
    them; the most probable order, of equals the first, goes on for all. What becomes superfluous is padding.
    """
    by_logp = beams.logps.argsort(dim=1, descending=True, stable=True)
    by_node = beams.nodes.gather(1, by_logp).argsort(dim=1, stable=True)
    columns = by_logp.gather(1, by_node)
    nodes, logps = beams.nodes.gather(1, columns), beams.logps.gather(1, columns)
    is_first = torch.ones_like(nodes, dtype=torch.bool)
    is_first[:, 1:] = nodes[:, 1:] != nodes[:, :-1]
    group = is_first.cumsum(dim=1) - 1  # (B, P)
    peaks = torch.full_like(logps, -torch.inf).scatter_reduce(1, group, logps, "amax")  # by group
    peak = peaks.gather(1, group)
    shares = torch.where(peak > -torch.inf, (logps - peak).exp(), 0.0)
    sums = torch.zeros_like(logps).scatter_add(1, group, shares).gather(1, group)
    united = torch.where(is_first, peak + sums.log(), -torch.inf)
    return replace(beams, logps=beams.logps.scatter(1, columns, united)).take(columns)
