"""What each of several processes does of a scorer's training: its rows of every batch.

The losses are sums over rows, so that gradients that are added up are those of the whole batch. Every process
holds the whole scorer, which is small, whatever accelerate shares out of a language model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from gream.processes import find_team


@dataclass(frozen=True)
class Share:
    """The part of one process; alone it has all rows."""

    rank: int = 0
    size: int = 1

    def has(self, rows: Tensor) -> Tensor:
        """Say which rows of a batch are this process's: numbers from 0, to bool of the same shape."""
        return rows % self.size == self.rank

    def add_up(self, number: Tensor) -> Tensor:
        """Add a number over all processes."""
        if self.size > 1:
            number = number.detach().cpu().clone()
            distributed.all_reduce(number)
        return number

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add the gradients over all processes; one that a process has none of is 0 there."""
        if self.size == 1:
            return
        for parameter in parameters:
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total = found.cpu()
            distributed.all_reduce(total)
            parameter.grad = total.to(parameter.device)


ALONE = Share()


def find_share() -> Share:
    """Join the processes that were started together.

    Raises:
        InputError: the processes do not find each other.
    """
    team = find_team()
    return Share(team.rank, team.size)
