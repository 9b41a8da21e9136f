"""Rows that tie names to purchases and to words (GREAM, collaborative-semantic alignment).

Every row is a prompt and an answer; the loss is on the answer alone. `next_item` is the direct prompt of
serving. `sequence` is ours: the whole training history is the answer, so one row teaches the next item
after every prefix and costs a fraction of one row for each prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gream.data.store import Catalogue, Interactions
from gream.language.prompting import Prompter

Row = tuple[list[int], list[int]]  # token ids of the prompt, of the answer


def next_item_rows(interactions: Interactions, prompter: Prompter, rng: np.random.Generator) -> list[Row]:
    """Direct prompt to next name: one row for each user, at a random place of the training part."""
    rows = []
    for sequence in interactions.training_sequences():
        if len(sequence) < 2:
            continue
        cut = int(rng.integers(1, len(sequence)))
        answer = prompter.name_ids(int(sequence[cut]))
        rows.append((prompter.direct(sequence[:cut]), [*answer, prompter.end_of_turn]))
    return rows


def sequence_rows(interactions: Interactions, prompter: Prompter) -> list[Row]:
    """The whole training history of a user as the answer, in pieces of the prompt's history length.

    A piece starts with the last purchase of the piece before it, so every purchase follows another.
    """
    question = prompter.question("sequence")
    size = prompter.max_history
    rows = []
    for sequence in filter(len, interactions.training_sequences()):
        for start in range(0, max(1, len(sequence) - 1), size):
            piece = sequence[start : start + size + 1]
            names = [token for item in piece for token in prompter.name_ids(int(item))]
            rows.append((question, [*names, prompter.end_of_turn]))
    return rows


def repeat_history_rows(
    interactions: Interactions, prompter: Prompter, rng: np.random.Generator
) -> list[Row]:
    """A history to itself, in one row for each user, cut at a random place of the training part.

    GREAM has prompt templates for this task and no code. It teaches a small model to look names up in the
    prompt, without which its chains cite purchases that never happened.
    """
    rows = []
    for sequence in filter(len, interactions.training_sequences()):
        history = sequence[: int(rng.integers(1, len(sequence) + 1))][-prompter.max_history :]
        names = [prompter.name(int(item)) for item in history]
        answer = [token for item in history for token in prompter.name_ids(int(item))]
        rows.append((prompter.question("repeat_history", history=names), [*answer, prompter.end_of_turn]))
    return rows


def title_to_name_rows(catalogue: Catalogue, prompter: Prompter) -> list[Row]:
    """An item's title to its name; items without a title give no row."""
    return [
        (prompter.question("title_to_name", title=title), [*prompter.name_ids(item), prompter.end_of_turn])
        for item, title in enumerate(catalogue.titles)
        if title
    ]


def name_to_title_rows(catalogue: Catalogue, prompter: Prompter) -> list[Row]:
    """An item's name to its title; items without a title give no row."""
    return [
        (
            prompter.question("name_to_title", name=prompter.name(item)),
            [*prompter.data(title), prompter.end_of_turn],
        )
        for item, title in enumerate(catalogue.titles)
        if title
    ]


def task_rows(
    task: str, catalogue: Catalogue, interactions: Interactions, prompter: Prompter, rng: np.random.Generator
) -> Sequence[Row]:
    """Make one pass of the rows of an alignment task by its name in `TASKS`."""
    return TASKS[task](catalogue, interactions, prompter, rng)


TASKS: dict[str, Callable[[Catalogue, Interactions, Prompter, np.random.Generator], Sequence[Row]]] = {
    "next_item": lambda c, i, p, rng: next_item_rows(i, p, rng),
    "sequence": lambda c, i, p, rng: sequence_rows(i, p),
    "repeat_history": lambda c, i, p, rng: repeat_history_rows(i, p, rng),
    "title_to_name": lambda c, i, p, rng: title_to_name_rows(c, p),
    "name_to_title": lambda c, i, p, rng: name_to_title_rows(c, p),
}
