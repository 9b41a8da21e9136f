"""Single cases of the filters, worked by hand; how many they catch is in test_planted_traces."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_synthesis.filters import reason_to_drop
from data_synthesis.near_copies import near_copies
from data_synthesis.teacher import RuleTeacher
from data_synthesis.words import CatalogueWords, holds, runs, words_of
from gream.data.store import Catalogue
from gream.language.reasoning import Trace

GOOD = Trace(
    0,
    (0, 5),
    9,
    (0, 5),
    ("a printer by Volta", "ink"),
    "Keeps an office going and likes plain things",
    "With ink at hand, sheets to print on come next",
    "paper that is plain and does its job",
    (0, 5),
)


@pytest.fixture(scope="module")
def shop(catalogue: Catalogue) -> Catalogue:
    """The toy shop: item 9 is a `Volta paper model 9`; here its title has more to betray."""
    titles = list(catalogue.titles)
    titles[9] = "Orrin Élite paper XK-9000B, extra white"
    titles[13] = "Kesk tents for four people"
    brands = list(catalogue.brands)
    brands[9] = "Orrin"
    return replace(catalogue, titles=titles, brands=brands)


@pytest.fixture(scope="module")
def teacher(shop: Catalogue) -> RuleTeacher:
    return RuleTeacher(shop, [np.asarray([0, 5, 9]), np.asarray([13, 17, 20])])


def test_a_good_trace_in_free_words_is_kept(teacher: RuleTeacher) -> None:
    assert reason_to_drop(GOOD, teacher.facts) is None


def test_step_four_may_describe_the_target(teacher: RuleTeacher) -> None:
    assert reason_to_drop(replace(GOOD, recommendation="extra white paper by Orrin"), teacher.facts) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference": "..."}, "lacks a step"),
        ({"intent": "N/A"}, "lacks a step"),
        ({"recommendation": "\n"}, "lacks a step"),
        ({"kinds": ("ink",)}, "lacks a step"),
        ({"preference": "Likes ink. Intent: more ink of any sort"}, "lacks a step"),
        ({"preference": "offices", "intent": "paper", "recommendation": "it"}, "lacks a step"),
        ({"preference": "offices", "intent": "paper", "recommendation": "paper"}, "is too short"),
        ({"preference": "plain things " * 101}, "is too long"),
        ({"evidence": (0, 24)}, "invents an item"),
        ({"rewritten": (0, -1)}, "invents an item"),
        ({"intent": "After the QZ5512 they want sheets to print on"}, "invents an item"),
        ({"intent": "They will want <a_1><b_2> and sheets to print on"}, "spells a name"),
        ({"recommendation": "paper such as < A_1 > or so it seems"}, "spells a name"),
        (
            {"preference": "Likes plain things, ORRIN, elite: paper XK-9000B; extra-white!"},
            "names the target",
        ),
        ({"intent": "They want the Elite one, whatever it costs"}, "names the target"),
        ({"intent": "They want an xk9000b or the like of it"}, "names the target"),
        ({"kinds": ("a printer", "ink, unlike what Orrin sells")}, "names the target"),
        ({"evidence": (0, 9)}, "names the target"),
        ({"evidence": (0, 7)}, "cites an item outside the history"),
        ({"rewritten": (5, 0)}, "cites an item outside the history"),
        ({"kinds": ("tents", "ink")}, "cites an item outside the history"),
        (
            {"preference": "Sleeps in kesk tents for four people, likes plain things"},
            "cites an item outside the history",
        ),
        ({"recommendation": "tents"}, "contradicts the target"),
        ({"recommendation": "ink by Volta middle price"}, "contradicts the target"),
        ({"recommendation": "some stoves to cook on outside"}, "contradicts the target"),
        ({"intent": "Works a lot; after ink comes lamps"}, "contradicts the target"),
    ],
)
def test_a_bad_trace_is_dropped_for_its_reason(
    change: dict[str, object], reason: str, teacher: RuleTeacher
) -> None:
    assert reason_to_drop(replace(GOOD, **change), teacher.facts) == reason  # type: ignore[arg-type]


def test_what_the_history_says_betrays_nothing(teacher: RuleTeacher) -> None:
    """Item 4 is Orrin's too, so that the customer is known to buy from Orrin."""
    trace = replace(
        GOOD, history=(0, 4), evidence=(0, 4), rewritten=(0, 4), preference="Likes Orrin, and plain things"
    )
    assert reason_to_drop(trace, teacher.facts) is None
    assert (
        reason_to_drop(replace(trace, history=(0, 5), evidence=(0, 5), rewritten=(0, 5)), teacher.facts)
        is not None
    )


def test_words_are_compared_without_case_accents_punctuation_and_plural() -> None:
    assert words_of("The Élite's BOXES, 1/2-Inch (glass) batteries") == (
        "the", "elite", "box", "1", "2", "inch", "glass", "battery",
    )  # fmt: skip


def test_runs_are_the_longest_parts_of_a_title() -> None:
    title = ("one", "two", "three", "four", "five")
    assert runs(("x", "two", "three", "four", "y", "four", "five"), title, 2) == [
        ("two", "three", "four"),
        ("four", "five"),
    ]
    assert runs(("two", "one"), title, 2) == []
    assert holds(("a", "b"), ("b",)) and not holds(("a", "b"), ())


def test_a_brand_of_words_that_others_use_is_not_known_by_them(shop: Catalogue) -> None:
    words = CatalogueWords(
        replace(shop, brands=["Good", *shop.brands[1:]])
    )  # `Good` begins every description
    assert words.brands_in(words_of("a good thing by Orrin")) == [("orrin",)]


def _long(user: int, items: tuple[int, ...], words: str) -> Trace:
    return Trace(user, items, 9, items[-1:], ("ink",), words, f"{words[::-1]}", "paper", items)


def test_near_copies_point_to_the_first_of_many() -> None:
    one = "wants to print every day without thinking much about where the sheets come from"
    other = "collects lamps of all shapes since childhood and hangs them up between the trees"
    traces = [
        _long(0, (0, 5), one),
        _long(1, (12, 16), other),
        _long(2, (1, 6), one.upper()),  # another history
        _long(3, (0, 5), one.replace("much", "hard")),  # another word
        _long(4, (13, 16), other),
    ]
    assert near_copies(traces) == [None, None, 0, 0, 1]


def test_short_texts_about_other_items_are_no_copies() -> None:
    """The rule-based teacher says the same of all who buy ink."""
    text = ("office, low price", "after ink comes paper", "paper low price")
    assert (
        near_copies(
            [
                Trace(u, (u, u + 4, u + 8), 9, (u + 4, u + 8), ("ink", "ink"), *text, (u, u + 4, u + 8))
                for u in range(4)
            ]
        )
        == [None] * 4
    )
