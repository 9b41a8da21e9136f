"""What the search asks of the names of a catalogue, whether their codes are ordered or not.

A path is a part of a name; a node is the number of a path, and all that a search has to remember of it. Every
question is pure: no constraint keeps state for a request, and none waits for a device.

Legend: B users, W beams, N items, L codebooks, K columns of a level's block (its tokens, in their order).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from gream.errors import InputError
from gream.semantic_ids.layout import Names

Kind = TypeVar("Kind", bound="Constraint")


class DeadPathError(ValueError):
    """A path of codes that leads to no item; raised, because an empty choice must never go unnoticed."""


@dataclass(frozen=True)
class Narrowing:
    """The subset of the items that each of B users may get; made by `Constraint.narrow`, opaque to others."""

    table: Tensor  # one row for each user

    def take(self, users: Sequence[int]) -> Narrowing:
        """Repeat or reorder the users: one row for each entry of `users`."""
        return Narrowing(self.table[torch.as_tensor(users, device=self.table.device)])


class Constraint(Protocol):
    """Which codes may follow a path, and which items a path leads to.

    `level` counts from 0 and is the place of a code in the search: nodes handed to `legal` and `follow` have
    `level` codes, nodes handed to `reach` and `holds` have `level` + 1. The root of every name is node 0.
    """

    names: Names
    depth: int  # codes of a name, L
    num_items: int  # N

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""

    def to(self, device: torch.device | str) -> Constraint:
        """Return it with its tensors on another device."""

    def legal(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Mark the columns that may follow every beam: (B, W) nodes to (B, W, K) bool."""

    def finish(self, nodes: Tensor, narrowing: Narrowing | None = None) -> Tensor:
        """Say which item every column of the last level completes: (B, W, K) integers, -1 where none."""

    def follow(self, nodes: Tensor, columns: Tensor, level: int) -> Tensor:
        """Add a code to every beam: (B, W) nodes and columns to (B, W) nodes; -1 where the path is dead."""

    def reach(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Count the (allowed) items that have every path: (B, W) int64."""

    def holds(self, nodes: Tensor, level: int, items: Tensor) -> Tensor:
        """Say whether a user's item (B,) has each of its paths: (B, W) bool."""

    def orders(self, level: int) -> int:
        """Give the number of beams that may lead to one and the same path of `level` + 1 codes."""

    def narrow(self, mask: Tensor) -> Narrowing:
        """Allow each user a subset of the items: (B, N) bool.

        Raises:
            InputError: a user for whom no item is allowed.
        """

    def item_of(self, nodes: Tensor) -> Tensor:
        """Translate the nodes of whole names to items, in any shape; -1 stays -1."""

    def item(self, codes: Sequence[int]) -> int | None:
        """Give the item of a whole name, codes in the order of the codebooks, or None."""


def moved(constraint: Kind, device: torch.device | str) -> Kind:
    """Copy a constraint of either kind with its tensors on another device."""
    there = copy.copy(constraint)
    for name, value in vars(constraint).items():
        if isinstance(value, Tensor):
            setattr(there, name, value.to(device))
    return there


def refuse_empty(left: Tensor, num_items: int) -> None:
    """Refuse a user for whom a filter leaves nothing: (B,) bool, or numbers of items.

    Raises:
        InputError: there is such a user; the first is named.
    """
    empty = torch.nonzero(left == 0).flatten()
    if len(empty):
        raise InputError(
            f"The filter of user {int(empty[0])} of this request leaves none of {num_items:,} "
            "items; allow at least one."
        )


def check_extended(names: Names, more: Names) -> None:
    """Refuse names that are not these with items added behind them.

    Raises:
        ValueError: another layout, or other names for the items that are known.
    """
    if more.layout != names.layout or not np.array_equal(more.codes[: len(names)], names.codes):
        raise ValueError("The new names do not begin with the names that this constraint was built from")


def without_items(constraint: Constraint, standing: Tensor | None, items: Sequence[int]) -> Tensor:
    """Take items out of a constraint's (1, N) standing mask; None stands for all items."""
    shape, device = (1, constraint.num_items), constraint.device
    allowed = torch.ones(shape, dtype=torch.bool, device=device) if standing is None else standing.clone()
    allowed[0, torch.as_tensor(items, dtype=torch.int64, device=device)] = False
    return allowed
