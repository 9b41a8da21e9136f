"""Rows that tie an item's name to its words, both ways (GREAM, arXiv 2510.20815, semantic reconstruction).

As in the reference implementation: title, description or both, to the name and back; an item without the
text gives no row. Ours cuts long descriptions.
"""

from __future__ import annotations

import numpy as np

from gream.language.rows import Row, Source, ask

DESCRIPTION_WORDS = 32  # of a description that a row shows; what an item is stands in its first sentences


def title_to_name_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's title to its name."""
    return [
        ask(source.prompter, rng, "title_to_name", source.prompter.name_ids(item), title=title)
        for item, title in enumerate(source.catalogue.titles)
        if title
    ]


def description_to_name_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's description to its name."""
    return [
        ask(source.prompter, rng, "description_to_name", source.prompter.name_ids(item), description=words)
        for item, words in _described(source)
    ]


def item_to_name_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's title and description to its name."""
    prompter, titles = source.prompter, source.catalogue.titles
    return [
        ask(prompter, rng, "item_to_name", prompter.name_ids(item), title=titles[item], description=words)
        for item, words in _described(source)
        if titles[item]
    ]


def name_to_title_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's name to its title."""
    prompter = source.prompter
    return [
        ask(prompter, rng, "name_to_title", prompter.data(title), name=prompter.name(item))
        for item, title in enumerate(source.catalogue.titles)
        if title
    ]


def name_to_description_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's name to its description."""
    prompter = source.prompter
    return [
        ask(prompter, rng, "name_to_description", prompter.data(words), name=prompter.name(item))
        for item, words in _described(source)
    ]


def name_to_item_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """An item's name to its title and, on the next line, its description."""
    prompter, titles = source.prompter, source.catalogue.titles
    return [
        ask(
            prompter,
            rng,
            "name_to_item",
            prompter.data(f"{titles[item]}\n{words}"),
            name=prompter.name(item),
        )
        for item, words in _described(source)
        if titles[item]
    ]


def description_of(source: Source, item: int) -> str:
    """The first words of an item's description; empty where it has none."""
    return " ".join(source.catalogue.descriptions[item].split()[:DESCRIPTION_WORDS])


def _described(source: Source) -> list[tuple[int, str]]:
    cut = [(item, description_of(source, item)) for item in range(len(source.catalogue))]
    return [(item, words) for item, words in cut if words]
