"""Batches as TRL's trainer makes them, written by hand: every group tells by its numbers who it is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gream.training.groups import Batch, Group, live_groups
from gream.training.refill import Calls, GroupBuffer, Refilled, refill

PAD = 99
G, P = 2, 3  # generations, groups of a device


def make_batch(identities: list[int], live: list[bool], num_generations: int, width: int = 0) -> Batch:
    """A batch whose row r of group i has prompts and completions of lengths that depend on both.

    Token j of the prompt is 1000 i + 10 r + j, and so on: any row out of place, or cut wrongly, shows.
    """
    rows = [(i, r, on) for i, on in zip(identities, live, strict=True) for r in range(num_generations)]
    prompts = [torch.arange(1 + i % 4) + 1000 * i + 10 * r for i, r, _ in rows]
    completions = [torch.arange(1 + (2 * i + r) % 5) + 1000 * i + 10 * r + 5 for i, r, _ in rows]
    longest, deepest = max(map(len, prompts)), max(width, *map(len, completions))
    left = [[PAD] * (longest - len(p)) + p.tolist() for p in prompts]
    right = [c.tolist() + [PAD] * (deepest - len(c)) for c in completions]
    mask = [[1] * len(c) + [0] * (deepest - len(c)) for c in completions]
    signs = [(1.0 if r % 2 else -1.0) * on * (i + 1) for i, r, on in rows]
    ids = torch.tensor(right)
    return {
        "prompt_ids": torch.tensor(left),
        "prompt_mask": torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
        "completion_ids": ids,
        "completion_mask": torch.tensor(mask),
        "ref_per_token_logps": ids * torch.tensor(mask) / 7.0,
        "advantages": torch.tensor(signs),
        "num_items_in_batch": torch.tensor(sum(map(sum, mask))),
    }


def identity(group: Group) -> int:
    """Who a group is."""
    return int(group.rows[0]["prompt_ids"][0]) // 1000


def identities(batch: Batch, num_generations: int) -> list[int]:
    """Who the groups of a batch are, by the last token of each group's first prompt."""
    return (batch["prompt_ids"][::num_generations, -1] // 1000).tolist()


def random_live(generator: random.Random, size: int, rate: float) -> list[bool]:
    return [generator.random() < rate for _ in range(size)]


def live_ids(device: Device, batch: Batch) -> list[int]:
    flags = live_groups(batch, G)
    return [number for number, live in zip(identities(batch, G), flags, strict=True) if live]


class Device:
    """A trainer without a model: scores what was scripted, and keeps a diary of the calls."""

    def __init__(
        self, rank: int, num_ranks: int, flags: Callable[[], list[bool]], gather: Any = None
    ) -> None:
        self.rank = rank
        self.flags = flags
        self.numbers = itertools.count(rank, num_ranks)  # groups of different devices have different numbers
        self.diary: list[tuple[Any, ...]] = []
        self.born: dict[int, bool] = {}
        self.step = 0.0
        self.buffer = GroupBuffer()
        self.leave: Callable[[], None] = lambda: None  # tells the other devices that this one has failed
        self._gather = gather or (lambda value: [value])

    def score(self) -> Batch:
        live = self.flags()
        numbers = [next(self.numbers) for _ in live]
        self.born.update(zip(numbers, live, strict=True))
        self.diary.append(("score", len(live)))
        return make_batch(numbers, live, G)

    def logps_of(self, batch: Batch) -> Tensor:
        """The policy of step n gives -n everywhere: a number tells when it was computed."""
        self.diary.append(("logps", len(batch["prompt_ids"])))
        return torch.full(batch["completion_ids"].shape, -self.step)

    def gather(self, numbers: list[int]) -> list[list[int]]:
        self.diary.append(("gather", len(numbers)))
        found: list[list[int]] = self._gather(numbers)
        return found

    def share(self, groups: list[Group]) -> list[list[Group]]:
        self.diary.append(("share",))
        found: list[list[Group]] = self._gather(groups)
        return found

    def train(self, rounds: int) -> tuple[Batch, Refilled]:
        """One batch: score, refill; the policy moves afterwards."""
        calls = Calls(
            rank=self.rank, score=self.score, logps_of=self.logps_of, gather=self.gather, share=self.share
        )
        batch = self.score()
        filled = refill(batch, self.buffer, calls, num_generations=G, pad_id=PAD, rounds=rounds)
        self.step += 1
        return filled

    def waiting(self) -> list[int]:
        return [identity(group) for group in self.buffer._groups]
