"""Chains for people: titles in place of names."""

from __future__ import annotations

import re
from collections.abc import Callable

from gream.data.store import Catalogue
from gream.language.reasoning import Chain, split_chain
from gream.semantic_ids.layout import Names

_NAME = re.compile(r"(?:<[a-z]+_\d+>)+")


def item_titles(names: Names, catalogue: Catalogue) -> dict[str, str]:
    """Spelled name to title, for `readable_chain`."""
    return {names.spell(item): title for item, title in enumerate(catalogue.titles)}


def readable_chain(text: str, titles: dict[str, str], split: Callable[[str], Chain] = split_chain) -> Chain:
    """Split a chain into its steps with titles in place of names; a name that no item has stays as it is."""
    return split(_NAME.sub(lambda match: _spelled_out(match[0], titles), text))


def _spelled_out(names: str, titles: dict[str, str]) -> str:
    """Replace a run of names written without separators, such as the rewritten history."""
    level_one = [m.start() for m in re.finditer(r"<a_", names)] or [0]
    pieces = [names[i:j] for i, j in zip(level_one, [*level_one[1:], len(names)], strict=True)]
    return ", ".join(titles.get(piece, piece) for piece in pieces)
