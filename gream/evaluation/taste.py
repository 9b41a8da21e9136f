"""The preference that a chain states against the customer's true taste, which the simulator knows.

A customer of the simulated shop has one or two areas (departments), two brands and a price tier. A stated
preference is read with the catalogue's vocabulary: the areas of the categories it mentions, its brands, and
the words for prices below. Of each part precision and recall over all stated and all true values are
reported, beside two figures that need no insight: the same statements about another customer, and the
statement that the chains make most often, made about everybody. The measure is ours.

A teacher that calls the cheapest third of a catalogue low-priced states something else than the simulator's
tier, which is relative to the category (the dearest pen costs less than the cheapest tent), so that price
words cannot be all right.

Legend: G chains of all users together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from gream.data.simulate import TRUTH_FILE, load_truth
from gream.evaluation.agreement import other_user
from gream.evaluation.mentions import Phrase, Vocabulary, phrase_of
from gream.evaluation.reasoning_quality import Reading, Share

PARTS = ("areas", "brands", "prices")

_PRICED = frozenset({"price", "prices", "priced", "cost", "costs"})
_LEVELS = {"low": "budget", "middle": "standard", "high": "premium"}  # before one of the words above
_TIERS = {
    "budget": "budget", "cheap": "budget", "inexpensive": "budget", "affordable": "budget",
    "standard": "standard", "midrange": "standard", "moderate": "standard",
    "premium": "premium", "expensive": "premium", "luxury": "premium",
}  # fmt: skip

Values = frozenset[Phrase]


@dataclass(frozen=True)
class Taste:
    """A taste, true or stated, in its parts; prices as the names of tiers."""

    areas: Values
    brands: Values
    prices: Values

    def part(self, name: str) -> Values:
        """Return one of PARTS."""
        return {"areas": self.areas, "brands": self.brands, "prices": self.prices}[name]


def true_tastes(data: Path) -> list[Taste] | None:
    """Read the taste of every user from a data folder; None where it was made from real purchases."""
    if not (data / TRUTH_FILE).is_file():
        return None
    truth = load_truth(data)
    rows = zip(truth.departments, truth.brands, truth.tiers, strict=True)
    return [
        Taste(
            frozenset(map(phrase_of, departments)),
            frozenset(map(phrase_of, brands)),
            frozenset({phrase_of(tier)}),
        )
        for departments, brands, tier in rows
    ]


def stated_taste(reading: Reading, vocabulary: Vocabulary) -> Taste:
    """Read the preference step of a chain; nothing is stated where the chain is not whole."""
    said = reading.preference
    areas = frozenset(area for name in said.categories for area in vocabulary.areas[name])
    return Taste(areas, frozenset(said.brands), _prices(phrase_of(reading.preference_text)))


def taste_figures(stated: Sequence[Taste], true: Sequence[Sequence[Taste]]) -> dict[str, dict[str, Any]]:
    """Return precision and recall of what chains state, part by part.

    Args:
        stated: G tastes, one for each whole chain.
        true: for each chain the customer's taste, and another customer's.

    Returns:
        For each of PARTS `stated` (share of chains that state it), `precision` and `recall`, the same
        `_by_chance` about the other customer, and the same `_of_the_commonest` statement about everybody.
    """
    return {name: _part_figures([t.part(name) for t in stated], name, true) for name in PARTS}


def with_another(users: Sequence[int], owners: Sequence[int], tastes: Sequence[Taste]) -> list[list[Taste]]:
    """Return for each chain its customer's taste and another customer's.

    Args:
        users: of every case its user.
        owners: of every chain its case.
        tastes: of every user.
    """
    other = [other_user(case, len(users)) for case in range(len(users))]
    return [[tastes[users[case]], tastes[users[other[case]]]] for case in owners]


def _part_figures(stated: list[Values], name: str, true: Sequence[Sequence[Taste]]) -> dict[str, Any]:
    own, another = ([tastes[place].part(name) for tastes in true] for place in (0, 1))
    counted = Counter(values for values in stated if values)
    # ties by spelling
    commonest = min(counted, key=lambda values: (-counted[values], sorted(values)), default=Values())
    row: dict[str, Any] = {"stated": Share(sum(map(bool, stated)), len(stated)).value}
    for ending, said, truth in (
        ("", stated, own),
        ("_by_chance", stated, another),
        ("_of_the_commonest", [commonest] * len(stated), own),
    ):
        right = sum(len(s & t) for s, t in zip(said, truth, strict=True))
        row[f"precision{ending}"] = Share(right, sum(map(len, said))).value
        row[f"recall{ending}"] = Share(right, sum(map(len, truth))).value
    return row


def _prices(words: Phrase) -> Values:
    """Return the tiers that a text names: `budget`, or `low` before a word for prices."""
    pairs = pairwise((*words, ""))  # a text may have no word at all
    levels = {_LEVELS[word] for word, following in pairs if word in _LEVELS and following in _PRICED}
    return frozenset((tier,) for tier in levels | {_TIERS[word] for word in words if word in _TIERS})
