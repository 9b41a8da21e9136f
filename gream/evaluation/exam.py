"""The questions that every row of a report answers, and the row of figures that its answers get.

Legend: B users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gream.data.store import Case
from gream.errors import InputError
from gream.evaluation import metrics

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Exam:
    """The questions that every row answers: B cases over N items."""

    cases: list[Case]
    num_items: int
    k: int
    seed: int
    also_at: tuple[int, ...] = ()  # further lengths of lists, for recall and NDCG
    exclude_seen: bool = False  # whether lists leave out what was bought
    purchases: np.ndarray | None = None  # (N,) how often each item was bought in training

    @property
    def depth(self) -> int:
        """Items that a list must have for all figures."""
        return max(self.k, *self.also_at, 1)

    @property
    def histories(self) -> list[np.ndarray]:
        """What each user bought before the target, oldest first."""
        return [case.history for case in self.cases]

    def allowed(self, part: slice) -> torch.Tensor | None:
        """Return the items that may be recommended to each user of a part: (B', N) bool; None: all may."""
        if not self.exclude_seen:
            return None
        cases = self.cases[part]
        mask = torch.ones(len(cases), self.num_items, dtype=torch.bool)
        for row, case in enumerate(cases):
            mask[row, torch.from_numpy(case.history)] = False
        return mask

    @property
    def targets(self) -> list[int]:
        """What each user bought next."""
        return [case.target for case in self.cases]

    @property
    def users(self) -> list[int]:
        """The user of each case; one may have several."""
        return [case.user for case in self.cases]

    def ranks(self, lists: Sequence[np.ndarray]) -> np.ndarray:
        """Return the place of each case's target: (B,) float64, 1 is first, inf is absent."""
        return metrics.ranks_of_targets(lists, self.targets)

    def recall(self, lists: Sequence[np.ndarray]) -> float:
        """Return recall@k of B lists."""
        return metrics.recall(self.ranks(lists), self.k)

    def row(self, lists: Sequence[np.ndarray], seconds: float) -> Row:
        """Return the metrics of B lists that took `seconds` to make."""
        row = metrics.summarise(
            lists,
            self.targets,
            num_items=self.num_items,
            k=self.k,
            also_at=self.also_at,
            seed=self.seed,
            users=self.users,
            purchases=self.purchases,
        )
        seconds = max(seconds, 1e-9)  # a clock without that resolution must not divide by zero
        row["users_per_second"] = float(f"{len(lists) / seconds:.4g}")
        row["seconds_per_user"] = float(f"{seconds / len(lists):.4g}")
        return row


def draw_cases(cases: list[Case], max_users: int, seed: int) -> list[Case]:
    """Return all cases, or `max_users` of them drawn without replacement, in the order of users.

    Raises:
        InputError: there is no case.
    """
    if not cases:
        raise InputError("The split has no purchase to predict; check the counts of `gream data`.")
    if not 0 < max_users < len(cases):
        return cases
    drawn = np.random.default_rng(seed).choice(len(cases), size=max_users, replace=False)
    return [cases[i] for i in np.sort(drawn)]
