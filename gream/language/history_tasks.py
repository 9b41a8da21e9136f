"""Rows that tie purchases to each other and to words (GREAM, arXiv 2510.20815).

Three of its families: sequential recommendation, fused sequences (names to the next item's words, titles to
the next name) and history reconstruction, for which the reference implementation has prompt templates and
no code. It makes a row for every prefix of every history; ours makes one for each user and pass, cut at a
random place, which later passes cut anew. Only training purchases are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gream.language.item_tasks import description_of
from gream.language.prompting import num_phrasings
from gream.language.rows import Row, Source, ask, served_phrasing

MOST_TITLES = 8  # newest purchases that a row spells as titles, each of which costs several names


def next_item_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The direct prompt of serving, or another phrasing of it, to the next name."""
    prompter = source.prompter
    return [
        (
            prompter.direct(history, served_phrasing("direct", rng)),
            [*prompter.name_ids(target), prompter.end_of_turn],
        )
        for history, target in _next_purchases(source, rng)
    ]


def sequence_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The whole training history of a user as the answer, in pieces of the prompt's history length (ours).

    A piece starts with the last purchase of the piece before it, so every purchase follows another. One row
    teaches the next item after every prefix and costs a fraction of one row for each prefix.
    """
    prompter = source.prompter
    questions = [prompter.question("sequence", phrasing) for phrasing in range(num_phrasings("sequence"))]
    rows = []
    for sequence in filter(len, source.interactions.training_sequences()):
        for start in range(0, max(1, len(sequence) - 1), prompter.max_history):
            names = _names(source, sequence[start : start + prompter.max_history + 1])
            question = questions[int(rng.integers(len(questions)))]
            rows.append((question, [*names, prompter.end_of_turn]))
    return rows


def names_to_next_title_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The names of a history to the title of the next item; a next item without one gives no row."""
    return _words_of_next(source, rng, "names_to_next_title", lambda item: source.catalogue.titles[item])


def names_to_next_description_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The names of a history to the description of the next item; one without it gives no row."""
    return _words_of_next(source, rng, "names_to_next_description", lambda item: description_of(source, item))


def titles_to_next_name_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The titles of a history to the next name; a history without a title gives no row."""
    prompter, titles = source.prompter, source.catalogue.titles
    rows = []
    for history, target in _next_purchases(source, rng):
        if shown := _titled(source, history):
            spelled = [titles[item] for item in shown]
            rows.append(ask(prompter, rng, "titles_to_next_name", prompter.name_ids(target), titles=spelled))
    return rows


def repeat_history_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """A history to itself.

    It teaches a small model to look names up in the prompt, without which its chains cite purchases that
    never happened.
    """
    prompter = source.prompter
    rows = []
    for history in _histories(source, rng):
        shown = history[-prompter.max_history :]
        answer = _names(source, shown)
        rows.append(ask(prompter, rng, "repeat_history", answer, history=prompter.names_of(shown)))
    return rows


def titles_to_names_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The titles of a history to its names; purchases without a title are left out."""
    rows = []
    for history in _histories(source, rng):
        if shown := _titled(source, history):
            titles = [source.catalogue.titles[item] for item in shown]
            rows.append(ask(source.prompter, rng, "titles_to_names", _names(source, shown), titles=titles))
    return rows


def names_to_titles_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """The names of a history to its titles, one on each line; purchases without a title are left out."""
    prompter, titles = source.prompter, source.catalogue.titles
    rows = []
    for history in _histories(source, rng):
        if shown := _titled(source, history):
            answer = prompter.data("\n".join(titles[item] for item in shown))
            rows.append(ask(prompter, rng, "names_to_titles", answer, history=prompter.names_of(shown)))
    return rows


def _words_of_next(
    source: Source, rng: np.random.Generator, template: str, words_of: Callable[[int], str]
) -> list[Row]:
    prompter = source.prompter
    rows = []
    for history, target in _next_purchases(source, rng):
        if words := words_of(target):
            names = prompter.names_of(history)
            rows.append(ask(prompter, rng, template, prompter.data(words), history=names))
    return rows


def _next_purchases(source: Source, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, int]]:
    """Each user's purchases before a random one, and that one; users with fewer than two give none."""
    for sequence in source.interactions.training_sequences():
        if len(sequence) > 1:
            cut = int(rng.integers(1, len(sequence)))
            yield sequence[:cut], int(sequence[cut])


def _histories(source: Source, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Each user's purchases up to a random one, and with it."""
    for sequence in filter(len, source.interactions.training_sequences()):
        yield sequence[: int(rng.integers(1, len(sequence) + 1))]


def _titled(source: Source, history: np.ndarray) -> list[int]:
    """The newest purchases of a history that have a title, as many as a row spells."""
    newest = history[-min(MOST_TITLES, source.prompter.max_history) :]
    return [int(item) for item in newest if source.catalogue.titles[item]]


def _names(source: Source, items: np.ndarray | list[int]) -> list[int]:
    return [token for item in items for token in source.prompter.name_ids(int(item))]
