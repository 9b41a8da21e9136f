"""What a path scorer with an encoder of its own learns from: every purchase of every training sequence.

One pass encodes a sequence, and each of its purchases is a target for the state before it.

Legend: U sequences, S purchases, B targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gream.data.store import Case
from gream.decoding.neighbours import FOLDS, HeldOut, Neighbours
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext
from gream.processes import ALONE, Team
from gream.training.path_loss import draw_negatives, path_loss
from gream.training.sums import has_rows


@dataclass(frozen=True)
class Window:
    """A stretch of one training sequence; purchases from `first_target` on are learned from it."""

    user: int
    items: np.ndarray  # (S,)
    first_target: int


@dataclass(frozen=True)
class Batch:
    """Windows padded at the end to one length."""

    users: Tensor  # (U,)
    items: Tensor  # (U, S)
    is_target: Tensor  # (U, S) bool


class HistoryTargets:
    """The training purchases of all users, each a target once an epoch.

    Args:
        sequences: purchases of each user, oldest first.
        max_history: newest purchases that a target may look at.
        batch_size: windows of sequences in a batch.
        tables: of `held_out_copurchased` of these sequences, on the device of a scorer that counts
            co-purchases.
        team: of processes that share the windows of every batch.
    """

    trained: tuple[Any, ...] = ()  # no module beside the scorer

    def __init__(
        self,
        sequences: list[np.ndarray],
        max_history: int,
        batch_size: int,
        tables: Neighbours | None = None,
        team: Team = ALONE,
    ) -> None:
        self._windows = [w for user, s in enumerate(sequences) for w in split_windows(user, s, max_history)]
        self._batch_size = batch_size
        self._tables = tables
        self._team = team

    def __len__(self) -> int:
        """Return the number of targets of one epoch."""
        return sum(len(w.items) - w.first_target for w in self._windows)

    @property
    def num_batches(self) -> int:
        """Batches of one epoch."""
        return -(-len(self._windows) // self._batch_size)

    def batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """Give one epoch."""
        for rows in batches_of_like_length(
            [len(w.items) for w in self._windows], self._batch_size, generator
        ):
            yield collate([self._windows[row] for row in rows])

    def losses(
        self, scorer: PrefixPathScorer, num_negatives: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Give the summed loss of every batch of one epoch, each when the step before it was made."""
        for batch in self.batches(generator):
            yield self.loss(scorer, batch, num_negatives, generator)

    def loss(
        self, scorer: PrefixPathScorer, batch: Batch, num_negatives: int, generator: torch.Generator
    ) -> Tensor:
        """Add the losses of a batch's targets, each scored against the purchases strictly before it.

        Of several processes each adds those of its own windows; the draws are those of all of them.
        """
        device = scorer.item_nodes.device
        items, users = batch.items.to(device), batch.users.to(device)
        rows, counts = batch.is_target.to(device).nonzero(as_tuple=True)
        targets = items[rows, counts]
        negatives = draw_negatives(scorer, targets, num_negatives, generator)
        mine = has_rows(self._team, rows)
        if not mine.any():
            return torch.zeros((), device=device)
        rows, counts = rows[mine], counts[mine]
        held_out = None if self._tables is None else HeldOut(self._tables, users[rows] % FOLDS)
        windows = items[self._team.rank :: self._team.size, :-1]
        context = scorer.contexts_at(windows, rows // self._team.size, counts, held_out)
        return path_loss(scorer, context, targets[mine], [drawn[mine] for drawn in negatives])

    def contexts(self, scorer: PrefixPathScorer, cases: list[Case]) -> ScorerContext:
        """Encode the histories of cases as serving does."""
        return scorer.context([case.history.tolist() for case in cases])


def split_windows(user: int, sequence: np.ndarray, max_history: int) -> list[Window]:
    """Cut a sequence into stretches of at most max_history + 1 purchases; each is a target once.

    The stretches overlap by half, so that a target of a later one has half a history at least.
    """
    windows = [Window(user, sequence[: max_history + 1], 0)] if len(sequence) else []
    start, end = 0, max_history + 1
    while end < len(sequence):
        start += max(1, max_history // 2)
        windows.append(Window(user, sequence[start : start + max_history + 1], end - start))
        end = start + max_history + 1
    return windows


def collate(windows: list[Window]) -> Batch:
    """Pad windows at the end with item 0, which is no target and which nothing before it sees."""
    width = max(len(w.items) for w in windows)
    items = torch.zeros(len(windows), width, dtype=torch.int64)
    is_target = torch.zeros(len(windows), width, dtype=torch.bool)
    for row, window in enumerate(windows):
        items[row, : len(window.items)] = torch.as_tensor(window.items, dtype=torch.int64)
        is_target[row, window.first_target : len(window.items)] = True
    return Batch(torch.tensor([w.user for w in windows]), items, is_target)


def batches_of_like_length(
    lengths: list[int], batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """Shuffle, put rows of like length together, and give the batches in random order."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    order.sort(key=lambda row: lengths[row])
    groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    for group in torch.randperm(len(groups), generator=generator).tolist():
        yield groups[group]
