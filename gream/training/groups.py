"""Groups of completions inside the padded batches of TRL's trainer: find the live ones, take out, put in.

A batch is the dict of tensors that `GRPOTrainer._generate_and_score_completions` returns on one device:
prompts are padded at the left, completions and all that belongs to their tokens at the right. Group g holds
the rows g * G to (g + 1) * G.

Legend: B rows of a device, P groups of a device, G generations, T tokens of the longest completion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Batch = dict[str, Tensor]

OLD_LOGPS = "old_per_token_logps"
TOTAL = "num_items_in_batch"  # the one entry that has no rows: tokens of all devices

# What stands where a row has no token. An importance ratio there must be 1: VESPO multiplies them unmasked.
_PADDING: dict[str, float] = {
    "prompt_mask": 0,
    "completion_mask": 0,
    "tool_mask": 1,
    "advantages": 0.0,
    OLD_LOGPS: 0.0,
    "ref_per_token_logps": 0.0,
    "sampling_per_token_logps": 0.0,
    "importance_sampling_ratio": 1.0,
}
_TOKENS = ("prompt_ids", "completion_ids")  # padded with the tokenizer's token
_OF_PROMPT = ("prompt_ids", "prompt_mask")  # padded at the left


@dataclass(frozen=True)
class Group:
    """The G rows of one prompt without padding, on the CPU: each key to a vector, or a number."""

    rows: list[dict[str, Tensor]]


def live_groups(batch: Batch, num_generations: int) -> list[bool]:
    """Say of each group whether it has a signal: an advantage, (B,) or (B, T), that is not zero.

    Raises:
        ValueError: the rows are no whole number of groups.
    """
    advantages = batch["advantages"]
    if len(advantages) % num_generations:
        raise ValueError(
            f"{len(advantages)} rows on one device are no whole number of groups of {num_generations}"
        )
    found: list[bool] = (advantages != 0).view(len(advantages) // num_generations, -1).any(dim=1).tolist()
    return found


def select(batch: Batch, groups: Iterable[int], num_generations: int) -> Batch:
    """Make a batch of some groups, in the given order, as wide as before."""
    rows = _rows_of(groups, num_generations)
    return {key: batch[key][rows] for key in _row_keys(batch)}


def split(batch: Batch, groups: Iterable[int], num_generations: int) -> list[Group]:
    """Take copies of some groups, in the given order, without padding."""
    part = {key: value.cpu() for key, value in select(batch, groups, num_generations).items()}
    prompts = part["prompt_mask"].sum(dim=1).tolist()
    completions = part["completion_mask"].sum(dim=1).tolist()
    rows = [
        {key: _cut(value[row], key, prompt, completion) for key, value in part.items()}
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
    ]
    return [Group(rows[start : start + num_generations]) for start in range(0, len(rows), num_generations)]


def fill(
    batch: Batch, places: Sequence[int], groups: Sequence[Group], num_generations: int, pad_id: int
) -> Batch:
    """Put groups at the given places of a batch; it becomes wider where they need it.

    Args:
        batch: the batch, which is left as it is.
        places: where each group goes.
        groups: as many groups, with the same keys as the batch.
        num_generations: G.
        pad_id: the token that pads.

    Raises:
        ValueError: other keys in the groups than in the batch.
    """
    if not groups:
        return batch
    keys = _row_keys(batch)
    rows = [row for group in groups for row in group.rows]
    odd = [row for row in rows if set(row) != set(keys)]
    if odd:
        raise ValueError(f"a group with {sorted(odd[0])} was put into a batch with {sorted(keys)}")
    index = _rows_of(places, num_generations)
    return batch | {key: _put(batch[key], index, [row[key] for row in rows], key, pad_id) for key in keys}


def num_loss_tokens(batch: Batch) -> int:
    """Count the tokens of this device that the loss is taken over."""
    mask = batch["completion_mask"]
    return int((mask * batch["tool_mask"] if "tool_mask" in batch else mask).sum())


def _row_keys(batch: Batch) -> list[str]:
    unknown = set(batch) - {TOTAL, *_TOKENS, *_PADDING}
    if unknown:
        raise ValueError(f"a batch of the trainer holds {sorted(unknown)}, which refilling cannot move")
    return [key for key in batch if key != TOTAL]


def _rows_of(groups: Iterable[int], num_generations: int) -> Tensor:
    starts = torch.tensor(list(groups), dtype=torch.int64) * num_generations
    return (starts[:, None] + torch.arange(num_generations)).flatten()


def _cut(value: Tensor, key: str, prompt: int, completion: int) -> Tensor:
    """Cut one row, a vector or a number, to its real tokens; cloned, or it would hold its whole batch."""
    if value.ndim == 0:
        return value.clone()
    return (value[len(value) - prompt :] if key in _OF_PROMPT else value[:completion]).clone()


def _put(batch: Tensor, index: Tensor, rows: list[Tensor], key: str, pad_id: int) -> Tensor:
    """Write rows over those at `index`: (B,) or (B, T) in, the same or wider out."""
    if batch.ndim == 1:
        filled = batch.clone()
        filled[index] = torch.stack(rows).to(batch)
        return filled
    # A ratio for each sequence, (B, 1), stays so: its rows hold one number, whatever the completion's length.
    width = max(batch.shape[1], *(len(row) for row in rows))
    filled = _widened(batch, width, key, pad_id)
    filled[index] = torch.stack([_widened(row, width, key, pad_id) for row in rows]).to(batch)
    return filled


def _widened(value: Tensor, width: int, key: str, pad_id: int) -> Tensor:
    """Pad copies of rows, or of one row, to a width, on the side of their key."""
    missing = width - value.shape[-1]
    sides = (missing, 0) if key in _OF_PROMPT else (0, missing)
    padded = F.pad(value, sides, value=pad_id if key in _TOKENS else _PADDING[key])
    return padded.clone() if padded is value else padded
