"""In which order an answer spells the codes of a name whose codes have none (REG4Rec, arXiv 2508.15308).

Histories, and the names inside a chain of thought, are always written in codebook order, as the input of
the paper's encoder. An answer may name the codes in any order, and a model must be taught to: every name
of an answer, those of a `sequence` row too, is an answer to what stands before it. Only a history that is
repeated, whole or without what does not fit, is a copy and stays as it was shown. A disambiguation code
always comes last, because it numbers the items that share all others.

Which order the paper trains on could not be found. Ours: drawn at random for every name of every row. To go
on with the paper's order of decoding, by confidence, was tried and gained nothing over more of the random
ones (recipes/scientific-reg4rec).

Legend: L codebooks, M codes without an order (L, or one less).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gream.errors import InputError
from gream.language.alignment import REASONING
from gream.language.prompting import Prompter
from gream.language.rows import Row

NAME_ORDERS = ("random", "canonical")
# Tasks whose answers hold no names but copies: of the prompt, or inside a chain that has no answer yet.
COPIES = ("repeat_history", "denoise_history", *list(REASONING)[:-1])


def check_name_order(name_order: str) -> None:
    """Refuse an order that is unknown.

    Raises:
        InputError: it is.
    """
    if name_order not in NAME_ORDERS:
        raise InputError(f"name_order is {name_order!r}; give one of {', '.join(NAME_ORDERS)}.")


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
