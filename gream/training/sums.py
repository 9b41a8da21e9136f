"""Sums over the processes that train a scorer together: each has its rows of every batch.

The losses are sums over rows, so that gradients that are added up are those of the whole batch. Every process
holds the whole scorer, which is small, whatever accelerate shares out of a language model.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed

from gream.processes import Team


def has_rows(team: Team, rows: Tensor) -> Tensor:
    """Say which rows of a batch are this process's: numbers from 0, to bool of the same shape."""
    return rows % team.size == team.rank


def add_up(team: Team, number: Tensor) -> Tensor:
    """Add a number over all processes."""
    if team.size > 1:
        number = number.detach().cpu().clone()
        distributed.all_reduce(number)
    return number


def add_gradients(team: Team, parameters: Iterable[Tensor]) -> None:
    """Add the gradients over all processes; one that a process has none of is 0 there."""
    if team.size == 1:
        return
    for parameter in parameters:
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        total = found.cpu()
        distributed.all_reduce(total)
        parameter.grad = total.to(parameter.device)
