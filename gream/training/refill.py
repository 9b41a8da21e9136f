"""Groups without signal are replaced, and no group with signal is thrown away.

A group whose completions are all worth the same has zero advantage and teaches nothing. Such dead groups of a
batch are replaced by live groups that earlier batches had to spare, those of other devices too; if some are
still dead on any device, all devices ask as many new prompts as a batch has. Live groups beyond the need wait
for the next batch. After `rounds` rounds of new prompts the rest stays dead.

GREAM's authors (https://arxiv.org/abs/2510.20815, dynamic sampling as in DAPO) draw nine batches, keep the
first live groups and throw the surplus away, up to 89 % of the completions (dossier 4.4). Here each live
group is trained on once. New prompts are asked only when all buffers are empty, so a buffer never holds more
than the surplus of one round, and the oldest goes first: nothing grows stale.

A group that waited was written by an older policy: it brings the log-probabilities from when it was written,
and the loss corrects and clips the ratio. A batch that holds one on any device gets old log-probabilities for
all its rows; other batches stay without, and TRL takes their ratio as 1.

Every decision is made from numbers gathered over all devices, so all make the same calls in the same order.

Legend: B rows of a device, P groups of a device, G generations, T tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gream.training.groups import (
    OLD_LOGPS,
    TOTAL,
    Batch,
    Group,
    fill,
    live_groups,
    num_loss_tokens,
    select,
    split,
)


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What refilling asks of a trainer. All devices make each call equally often, with equal work."""

    rank: int  # of this device
    score: Callable[[], Batch]  # ask as many new prompts as a batch has, and score their completions
    logps_of: Callable[[Batch], Tensor]  # (B, T) log-probabilities of a batch's completions, as they are now
    gather: Callable[[list[int]], list[list[int]]]  # numbers of every device, by rank
    share: Callable[[list[Group]], list[list[Group]]]  # groups that every device gives away, by rank


@dataclass(frozen=True)
class Refilled:
    """What one batch took, over all devices; every field is a number for the log."""

    generated_groups: int  # whose completions were written
    live_groups: int  # of these, with a signal
    used_groups: int  # live groups of the batch as it is trained on
    buffered_groups: int  # live groups that wait
    refill_rounds: int  # rounds of new prompts


class GroupBuffer:
    """Live groups of one mode that wait for a batch, the oldest first; each device has its own."""

    def __init__(self) -> None:
        self._groups: list[Group] = []

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, groups: Sequence[Group]) -> None:
        """Let groups wait, behind those that do already."""
        self._groups += groups

    def take(self, most: int) -> list[Group]:
        """Take the oldest groups out, at most so many."""
        taken, self._groups = self._groups[:most], self._groups[most:]
        return taken

    def save(self, path: Path) -> None:
        """Write the groups to one safetensors file: all rows of a key in one vector, and their lengths."""
        rows = [row for group in self._groups for row in group.rows]
        tensors, scalars = {}, []
        for key in rows[0] if rows else ():
            values = [row[key] for row in rows]
            tensors[key] = torch.cat([value.reshape(-1) for value in values])
            tensors[f"{key}.lengths"] = torch.tensor([value.numel() for value in values])
            if values[0].ndim == 0:
                scalars.append(key)
        about = {"rows": [len(group.rows) for group in self._groups], "scalars": scalars}
        save_file(tensors, path, metadata={"groups": json.dumps(about)})

    def load(self, path: Path) -> None:
        """Hold the groups of a file that `save` wrote, and no others."""
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no dict
            about = json.loads(file.metadata()["groups"])
        columns = {}
        for key in [key for key in tensors if f"{key}.lengths" in tensors]:
            column = tensors[key].split(tensors[f"{key}.lengths"].tolist())
            columns[key] = [value.clone().reshape(() if key in about["scalars"] else -1) for value in column]
        rows = iter([{key: columns[key][row] for key in columns} for row in range(sum(about["rows"]))])
        self._groups = [Group([next(rows) for _ in range(size)]) for size in about["rows"]]


def refill(
    batch: Batch, buffer: GroupBuffer, calls: Calls, *, num_generations: int, pad_id: int, rounds: int
) -> tuple[Batch, Refilled]:
    """Replace the dead groups of a batch; what is live and not needed goes to the buffer.

    Args:
        batch: a scored batch, as TRL's trainer makes it; left as it is.
        buffer: this device's waiting groups of the batch's mode.
        calls: what the trainer does.
        num_generations: G.
        pad_id: the tokenizer's token that pads.
        rounds: rounds of new prompts at the most; 0 takes from the buffers alone.

    Returns:
        The batch, with `num_items_in_batch` counted anew, and what it took.
    """
    work = _Refilling(batch, calls, num_generations, pad_id)
    work.from_buffers(buffer)
    asked = 0
    while any(work.lacks) and asked < rounds:
        asked += 1
        buffer.add(work.from_new_prompts())
    used = sum(live_groups(work.batch, num_generations))
    mine = [num_loss_tokens(work.batch), work.generated, work.live, used, len(buffer)]
    tokens, generated, live, used, waiting = map(sum, zip(*calls.gather(mine), strict=True))
    total = torch.full_like(work.batch[TOTAL], tokens)
    return work.batch | {TOTAL: total}, Refilled(generated, live, used, waiting, asked)


def metrics(refilled: Refilled) -> dict[str, float]:
    """Name the numbers for the log; of the live groups their share of those that were generated."""
    figures = {field.name: float(getattr(refilled, field.name)) for field in fields(refilled)}
    return figures | {"live_groups": refilled.live_groups / refilled.generated_groups}


def moves(lacks: Sequence[int], spare: Sequence[int]) -> tuple[list[int], list[int]]:
    """Decide how many groups each device gives away, and how many it gets: the lower ranks come first."""
    total = min(sum(lacks), sum(spare))
    return _dealt(spare, total), _dealt(lacks, total)


def _dealt(limits: Sequence[int], total: int) -> list[int]:
    dealt = []
    for limit in limits:
        dealt.append(min(limit, total))
        total -= dealt[-1]
    return dealt


class _Refilling:
    """One batch while its dead groups are replaced."""

    def __init__(self, batch: Batch, calls: Calls, num_generations: int, pad_id: int) -> None:
        self.batch = batch
        self.lacks: list[int] = []  # dead groups of every device, by rank
        self._calls = calls
        self._size = num_generations
        self._pad_id = pad_id
        self._stale = False  # whether any device's batch holds a group that waited
        alive = live_groups(batch, num_generations)
        self._dead = [place for place, live in enumerate(alive) if not live]
        self.generated, self.live = len(alive), sum(alive)

    def from_buffers(self, buffer: GroupBuffer) -> None:
        """Put waiting groups into the batch: this device's own, then those that others do not need."""
        ready = buffer.take(len(self._dead))
        mine = [len(self._dead) - len(ready), len(buffer), len(ready)]
        lacks, spare, taken = zip(*self._calls.gather(mine), strict=True)
        give, get = moves(lacks, spare)
        self._stale = any(taken) or any(give)
        if self._stale:
            self.batch = self._with_old_logps(self.batch)
        ready += self._exchanged(buffer.take(give[self._calls.rank]), give, get)
        self._put(ready, lacks, get)

    def from_new_prompts(self) -> list[Group]:
        """Ask new prompts, put their live groups into the batches, and return those that nobody needs."""
        extra = self._calls.score()
        if self._stale:
            extra = self._with_old_logps(extra)
        alive = live_groups(extra, self._size)
        places = [place for place, live in enumerate(alive) if live]
        self.generated += len(alive)
        self.live += len(places)
        own, others = places[: len(self._dead)], places[len(self._dead) :]
        mine = [len(self._dead) - len(own), len(others)]
        lacks, spare = zip(*self._calls.gather(mine), strict=True)
        give, get = moves(lacks, spare)
        given = others[: give[self._calls.rank]]
        ready = split(extra, own, self._size)
        self._put(ready + self._exchanged(split(extra, given, self._size), give, get), lacks, get)
        most = max(s - g for s, g in zip(spare, give, strict=True))
        return self._surplus(extra, others[len(given) :], most)

    def _put(self, ready: list[Group], lacks: Sequence[int], get: Sequence[int]) -> None:
        places, self._dead = self._dead[: len(ready)], self._dead[len(ready) :]
        self.batch = fill(self.batch, places, ready, self._size, self._pad_id)
        self.lacks = [lack - got for lack, got in zip(lacks, get, strict=True)]

    def _exchanged(self, groups: list[Group], give: Sequence[int], get: Sequence[int]) -> list[Group]:
        """Give groups to all devices, and return those that are for this one."""
        if not any(give):
            return []
        offered = [group for of_rank in self._calls.share(groups) for group in of_rank]
        start = sum(get[: self._calls.rank])
        return offered[start : start + get[self._calls.rank]]

    def _surplus(self, extra: Batch, places: list[int], most: int) -> list[Group]:
        """Take out the groups that will wait, with the log-probabilities of today's policy.

        Args:
            extra: the batch that they are in.
            places: where they are.
            most: how many the device with the most of them has; all compute as many, so that none waits.
        """
        if most and OLD_LOGPS not in extra:
            others = [place for place in range(len(live_groups(extra, self._size))) if place not in places]
            extra = self._with_old_logps(select(extra, (places + others)[:most], self._size))
            places = list(range(len(places)))
        return split(extra, places, self._size)

    def _with_old_logps(self, batch: Batch) -> Batch:
        """Add what the policy gives to the completions now; where TRL has done so already, it stays."""
        return batch if OLD_LOGPS in batch else batch | {OLD_LOGPS: self._calls.logps_of(batch)}
