"""In which order an answer spells the codes of a name whose codes have none (REG4Rec, arXiv 2508.15308).

Histories, and the names inside a chain of thought, are always written in codebook order, as the input of
the paper's encoder. An answer may name the codes in any order, and a model must be taught to: every name
of an answer, those of a `sequence` row too, is an answer to what stands before it. Only a history that is
repeated is a copy and stays as it was shown. A disambiguation code always comes last, because it numbers
the items that share all others.

Which order the paper trains on could not be found. Ours: drawn at random for every name of every row; or
the paper's order of decoding, by confidence, which needs a model that has learnt random orders already.

Legend: R rows, T tokens of the longest row, H hidden size, L codebooks, M codes without an order (L, or one
less).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gream.errors import InputError
from gream.language.alignment import Row
from gream.language.prompting import Prompter

NAME_ORDERS = ("random", "canonical", "confidence")
COPIES = ("repeat_history",)  # tasks whose answer is a copy of the prompt
_ROWS_AT_ONCE = 64


def check_name_order(name_order: str, prompter: Prompter) -> None:
    """Refuse an order that is unknown, or that these names do not have.

    Raises:
        InputError: either.
    """
    if name_order not in NAME_ORDERS:
        raise InputError(f"name_order is {name_order!r}; give one of {', '.join(NAME_ORDERS)}.")
    if prompter.names.layout.ordered and name_order == "confidence":
        raise InputError(
            "name_order is 'confidence', but the codes of these names have an order; leave name_order out, "
            "or make names with `method: mpq`."
        )


def shuffle_answers(rows: Sequence[Row], prompter: Prompter, rng: np.random.Generator) -> list[Row]:
    """Spell every name of every answer in an order of its own; ordered names stay, and draw nothing.

    Args:
        rows: prompts and answers with names in codebook order.
        prompter: the prompter that wrote them.
        rng: draws the orders.
    """
    if prompter.names.layout.ordered:
        return list(rows)
    return [(prompt, _shuffled(answer, prompter, rng)) for prompt, answer in rows]


@torch.inference_mode()
def sort_answers(rows: Sequence[Row], prompter: Prompter, model: Any) -> list[Row]:
    """Spell every name of every answer by the model's confidence: the most probable code first.

    Of the codes that are left the most probable one after those that are chosen comes next; ties go to the
    code that stood first. All names of a row are sorted at once, one pass of the model for each code, so
    earlier names of the row stand in the order that the passes before have given them.

    Args:
        rows: prompts and answers; names in any order.
        prompter: the prompter that wrote them.
        model: a causal language model that was trained on random orders.
    """
    sorted_rows = list(rows)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row][0]) + len(rows[row][1]))  # less padding
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = order[start : start + _ROWS_AT_ONCE]
        for row, done in zip(part, _sorted([rows[row] for row in part], prompter, model), strict=True):
            sorted_rows[row] = done
    return sorted_rows


def free_places(answer: Sequence[int], prompter: Prompter) -> np.ndarray:
    """Find the codes of an answer that may change places: one row for each name, (names, M) positions.

    The names of a chain of thought are not among them.
    """
    ids = np.asarray(answer, dtype=np.int64)
    block, layout = prompter.item_block, prompter.names.layout
    places = np.flatnonzero((ids >= block.start) & (ids < block.stop))
    opened = np.flatnonzero(ids == prompter.answer_start)
    if len(opened):
        places = places[places > opened[-1]]
    return places.reshape(-1, layout.num_codebooks)[:, : layout.num_codebooks - layout.disambiguation]


def _shuffled(answer: Sequence[int], prompter: Prompter, rng: np.random.Generator) -> list[int]:
    ids, places = np.asarray(answer, dtype=np.int64), free_places(answer, prompter)
    if places.size:
        ids[places] = rng.permuted(ids[places], axis=1)
    shuffled: list[int] = ids.tolist()
    return shuffled


def _sorted(rows: Sequence[Row], prompter: Prompter, model: Any) -> list[Row]:
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.int64)  # (R, T), padded on the right
    owners, places = [], []
    for number, (prompt, answer) in enumerate(rows):
        ids[number, : lengths[number]] = torch.tensor([*prompt, *answer])
        free = free_places(answer, prompter) + len(prompt)
        owners += [number] * len(free)
        places += free.tolist()
    if not places:
        return list(rows)
    owner = torch.tensor(owners)[:, None]  # (names, 1)
    place = torch.tensor(places)  # (names, M)
    for step in range(place.shape[1] - 1):
        states = model.get_decoder()(ids.to(model.device), use_cache=False).last_hidden_state  # (R, T, H)
        before = states[owner[:, 0], place[:, step] - 1]  # (names, H); logits of all T would fill the memory
        left = ids[owner, place[:, step:]]  # (names, M - step)
        likely = model.get_output_embeddings()(before).gather(1, left.to(before.device)).float().cpu()
        best = likely.argmax(dim=1, keepdim=True)
        kept = torch.arange(left.shape[1])[None] != best  # the others keep their order
        others = left[kept].reshape(len(left), -1)
        ids[owner, place[:, step:]] = torch.cat([left.gather(1, best), others], dim=1)
    tokens = ids.tolist()
    return [
        (list(prompt), tokens[number][len(prompt) : lengths[number]])
        for number, (prompt, _) in enumerate(rows)
    ]
