"""Reads completions, token by token, into paths; decides what is malformed.

Everything is read from token ids. Text is never tokenised again: a model can spell `<a_1>` in letters, and
that is no answer.

What is well formed, by mode:

- direct: the L codes of a name, each from its own codebook, then the end of the turn, and nothing else. Names
  whose codes have no order may be answered in any order of their codebooks, each used once; a disambiguation
  code comes last. Paths are given in the order of the codebooks all the same.
- reasoning: a think block with words in it, `</think>`, the line break and `<answer>` that were taught,
  the L codes, `</answer>`, the end of the turn.

GREAM's authors (https://arxiv.org/abs/2510.20815) read the first `<answer>...</answer>` of the decoded
text, which can be gamed; here each of these is malformed: an incomplete or too long name, codes of a wrong
codebook, an answer inside the think block, two answers, anything between or after the parts, a name
without a think block or with a blank one, and a completion that was cut before its end. Names of items
inside the think block are wanted (evidence, rewritten history) in the order of the codebooks, but a piece of
a name there is malformed, so that a chain cannot hide unfinished answers.

Legend: R completions, L codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gream.language.prompting import ANSWER_START, THINK_START, Prompter
from gream.semantic_ids.layout import SidLayout
from gream.semantic_ids.paths import Constraint

Mode = Literal["direct", "reasoning"]


@dataclass(frozen=True)
class Rollout:
    """One completion as it was read: the codes of its answer, or None when it is malformed."""

    path: tuple[int, ...] | None
    well_formed: bool


@dataclass(frozen=True)
class Answers:
    """A batch of completions as the rewards need it."""

    path: Tensor  # (R, L) int64 codes, -1 in the rows of malformed completions
    well_formed: Tensor  # (R,) bool
    valid: Tensor  # (R,) bool: well formed, and the path is an item


def read_completion(token_ids: Sequence[int], prompter: Prompter, mode: Mode) -> Rollout:
    """Read one completion.

    Args:
        token_ids: what the model wrote after the prompt, the end of the turn included, without padding.
        prompter: the prompter that wrote the prompt.
        mode: which of its two prompts that was.

    Raises:
        ValueError: an unknown mode.
    """
    ids = list(token_ids)
    if mode == "direct":
        path = _direct_path(ids, prompter)
    elif mode == "reasoning":
        path = _reasoning_path(ids, prompter)
    else:
        raise ValueError(f"Unknown mode {mode!r}; known modes: direct, reasoning.")
    return Rollout(path, path is not None)


def read_completions(
    completions: Sequence[Sequence[int]],
    prompter: Prompter,
    constraint: Constraint,
    modes: Sequence[Mode],
) -> Answers:
    """Read a batch of completions and look up which of their paths are items.

    Args:
        completions: R lists of token ids, as `read_completion` takes them.
        prompter: the prompter that wrote the prompts.
        constraint: the catalogue's names.
        modes: R modes, one for each completion.
    """
    malformed = (-1,) * prompter.names.layout.num_codebooks
    paths, valid = [], []
    for token_ids, mode in zip(completions, modes, strict=True):
        path = read_completion(token_ids, prompter, mode).path
        paths.append(malformed if path is None else path)
        valid.append(path is not None and constraint.item(path) is not None)
    path_rows = torch.tensor(paths, dtype=torch.int64)
    return Answers(path_rows, path_rows[:, 0] >= 0, torch.tensor(valid, dtype=torch.bool))


def _direct_path(ids: list[int], prompter: Prompter) -> tuple[int, ...] | None:
    return _name_path(ids[:-1], prompter) if ids[-1:] == [prompter.end_of_turn] else None


def _reasoning_path(ids: list[int], prompter: Prompter) -> tuple[int, ...] | None:
    if ids.count(prompter.think_end) != 1:
        return None
    end = ids.index(prompter.think_end)
    before = prompter.encode(f"\n{ANSWER_START}")  # what was taught between `</think>` and the name
    after = [prompter.answer_end, prompter.end_of_turn]
    answer = ids[end + 1 :]
    if answer[: len(before)] != before or answer[-len(after) :] != after:
        return None
    if not _is_chain(ids[:end], prompter):
        return None
    return _name_path(answer[len(before) : -len(after)], prompter)


def _name_path(ids: list[int], prompter: Prompter) -> tuple[int, ...] | None:
    """Codes of exactly one name in the order of the codebooks, or None."""
    layout = prompter.names.layout
    if len(ids) != layout.num_codebooks or any(token not in prompter.item_block for token in ids):
        return None
    in_order = sorted(ids)  # the codebooks lie one after the other in the item block
    if layout.ordered and ids != in_order:
        return None
    if layout.disambiguation and ids[-1] != in_order[-1]:
        return None
    blocks = [prompter.level_block(level) for level in range(layout.num_codebooks)]
    if any(token not in block for token, block in zip(in_order, blocks, strict=True)):
        return None
    return tuple(token - block.start for token, block in zip(in_order, blocks, strict=True))


def _is_chain(ids: list[int], prompter: Prompter) -> bool:
    """Say whether a think block holds words, whole names only, and no marker of an answer or a turn."""
    think_start = prompter.tokenizer.convert_tokens_to_ids(THINK_START)
    banned = {think_start, prompter.answer_start, prompter.answer_end, prompter.end_of_turn}
    if banned.intersection(ids) or not _names_are_whole(ids, prompter.item_block, prompter.names.layout):
        return False
    words = [token for token in ids if token not in prompter.item_block]
    return bool(prompter.tokenizer.decode(words).strip())


def _names_are_whole(ids: list[int], item_block: range, layout: SidLayout) -> bool:
    """Say whether the item tokens of a text come as whole names: levels 0..L-1 without a gap."""
    tokens = np.asarray(ids, dtype=np.int64)
    places = np.flatnonzero((tokens >= item_block.start) & (tokens < item_block.stop))
    if len(places) % layout.num_codebooks:
        return False
    levels = np.searchsorted(layout.offsets, tokens[places] - item_block.start, side="right") - 1
    names = places.reshape(-1, layout.num_codebooks)
    in_order = levels.reshape(names.shape) == np.arange(layout.num_codebooks)
    return bool(in_order.all() and (np.diff(names, axis=1) == 1).all())
