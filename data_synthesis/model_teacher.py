"""A model as teacher: a history and its next purchase shown, five steps asked for as JSON, a `Trace` read.

GREAM (arXiv 2510.20815, construction of the reasoning data in its reference implementation) shows the teacher
the target too, and takes four steps as free text. Ours asks for fields. Purchases are given as numbers of the
shown history, so that no item can be invented; what a cited item is comes from the catalogue; a category must
be one that the catalogue has. The fifth step, the history without what does not fit, is the teacher's, where
GREAM's code copies the history.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from data_synthesis.asking import Question, Unusable
from data_synthesis.questions import plain, question
from gream.data.store import Catalogue
from gream.language.reasoning import STEPS, Trace

# What takes a chain apart again must not stand inside a step, nor what spells names and tags.
_STRUCTURE = re.compile(rf"[<>]|\b(?:{'|'.join(STEPS)})\s*:", re.IGNORECASE)


@dataclass(frozen=True)
class Purchase:
    """What a trace explains: after `history`, oldest first, `user` bought `target`."""

    user: int
    history: tuple[int, ...]
    target: int


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _Steps:
    """The object that the teacher writes; numbers count the shown purchases from 1."""

    evidence: list[int]
    preference: str
    intent: str
    category: str
    recommendation: str
    keep: list[int]


class ModelTeacher:
    """Asks for explanations of purchases, and reads them.

    Args:
        catalogue: the items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        leaves = sorted({path[-1] for path in catalogue.categories if path})
        self._categories = {plain(leaf).casefold(): leaf for leaf in leaves}

    def question(self, purchase: Purchase) -> Question[Trace]:
        """What to ask about one purchase."""
        history = [self._shown(item) for item in purchase.history]
        messages = question("trace", history=history, target=self._shown(purchase.target))
        return Question(messages, lambda text: self.read(text, purchase))

    def read(self, text: str, purchase: Purchase) -> Trace:
        """Read the teacher's answer as a trace.

        Raises:
            Unusable: no JSON, a field that is missing or empty, a number or a category that there is not.
        """
        steps = _parse(text)
        evidence = tuple(dict.fromkeys(_items(steps.evidence, purchase.history)))
        category = self._categories.get(plain(steps.category).casefold())
        if category is None:
            raise Unusable("the category is none of the shop's")
        kinds = tuple(self.kind(item) for item in evidence)
        return Trace(
            user=purchase.user,
            history=purchase.history,
            target=purchase.target,
            evidence=evidence,
            kinds=kinds,
            preference=_line(steps.preference),
            # Ends as the rule-based teacher's does, so that one filter and one measure read both.
            intent=f"{_line(steps.intent)}; after {kinds[-1]} comes {category}",
            recommendation=_line(steps.recommendation),
            rewritten=_items(steps.keep, purchase.history),
        )

    def kind(self, item: int) -> str:
        """What an item is, in the catalogue's words: its finest category, else its brand, else its title."""
        categories = self._catalogue.categories[item]
        return (
            (categories[-1] if categories else "")
            or self._catalogue.brands[item]
            or self._catalogue.titles[item]
        )

    def _shown(self, item: int) -> dict[str, str]:
        categories = self._catalogue.categories[item]
        return {
            "title": self._catalogue.titles[item],
            "brand": self._catalogue.brands[item],
            "category": categories[-1] if categories else "",
        }


def schema() -> dict[str, Any]:
    """The request's `response_format` that lets a server hold the answer to the fields."""
    fields = TypeAdapter(_Steps).json_schema() | {"additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "steps", "schema": fields}}


def _parse(text: str) -> _Steps:
    """Read the outermost object of an answer, whatever stands around it: thoughts, a fence, a greeting."""
    answer = text.rpartition("</think>")[2]
    start, end = answer.find("{"), answer.rfind("}")
    try:
        return TypeAdapter(_Steps).validate_json(answer[max(start, 0) : end + 1])
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise Unusable("the answer holds no JSON object") from error
        raise Unusable(
            f"the field {'.'.join(map(str, first['loc'][:1]))} is missing or of a wrong type"
        ) from error


def _items(numbers: Sequence[int], history: Sequence[int]) -> tuple[int, ...]:
    """The purchases with these numbers, oldest first."""
    if not numbers:
        raise Unusable("a list of purchases is empty")
    if not all(1 <= number <= len(history) for number in numbers):
        raise Unusable("a number is none of the purchases shown")
    return tuple(item for number, item in enumerate(history, start=1) if number in numbers)


def _line(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    if not line:
        raise Unusable("a text is empty")
    if _STRUCTURE.search(line):
        raise Unusable("a text holds < or > or the name of a step")
    return line
