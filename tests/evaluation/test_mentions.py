"""What a text mentions of a catalogue made by hand, and all that looks like a mention and is none."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.evaluation.mentions import Phrase, Vocabulary, phrase_of, words_of


def shop(rows: list[tuple[str, tuple[str, ...]]]) -> Catalogue:
    """A catalogue of brands and category paths."""
    brands, paths = [brand for brand, _ in rows], [path for _, path in rows]
    texts = [""] * len(rows)
    ids = [str(item) for item in range(len(rows))]
    return Catalogue(ids, texts, texts, brands, paths, np.zeros(len(rows), dtype=np.float32))


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(
        shop(
            [
                ("3D", ("Shop", "Printing", "3D Printing Filament")),
                ("Grip", ("Shop", "Printing", "Printers")),
                ("O'Keeffe & Sons", ("Shop", "Tents")),
                ("Tents", ("Shop", "Sleeping", "Tents")),
                ("X", ("Shop", "Sleeping", "-")),
                ("", ()),
            ]
        )
    )


def test_the_longest_name_goes_before_the_names_inside_it(vocabulary: Vocabulary) -> None:
    found = vocabulary.mentions("3D Printing Filament, 3D printing; 3D")
    assert found.categories == (("3d", "printing", "filament"), ("printing",))
    assert found.brands == (("3d",), ("3d",))


def test_categories_may_be_written_small_and_brands_only_as_in_the_catalogue(vocabulary: Vocabulary) -> None:
    found = vocabulary.mentions("a good grip for PRINTERS, by Grip")
    assert (found.brands, found.categories) == ((("grip",),), (("printers",),))


@pytest.mark.parametrize("text", ["Printersville", "myPrinters", "print", "Grips", "tent"])
def test_a_part_of_a_word_is_no_mention(vocabulary: Vocabulary, text: str) -> None:
    found = vocabulary.mentions(text)
    assert found.brands == found.categories == ()


def test_what_stands_between_the_words_of_a_name_does_not_count(vocabulary: Vocabulary) -> None:
    assert vocabulary.mentions("by O'Keeffe-Sons.").brands == (("o", "keeffe", "sons"),)


def test_a_brand_that_is_called_like_a_category_means_the_category(vocabulary: Vocabulary) -> None:
    found = vocabulary.mentions("Tents")
    assert (found.brands, found.categories) == ((), (("tents",),))


def test_names_that_say_nothing_are_no_mentions(vocabulary: Vocabulary) -> None:
    """Every item with a category is in `Shop`; `X` is a single letter and `-` has no word at all."""
    assert vocabulary.mentions("Shop X - Shop") == vocabulary.mentions("")


def test_an_item_has_its_brand_and_the_names_of_its_path(vocabulary: Vocabulary) -> None:
    assert vocabulary.brand(2) == ("o", "keeffe", "sons") and vocabulary.brand(5) == ()
    assert vocabulary.categories(3) == {("sleeping",), ("tents",)}
    assert vocabulary.categories(4) == {("sleeping",)} and vocabulary.categories(5) == frozenset()


def test_a_category_knows_its_areas_and_its_spelling(vocabulary: Vocabulary) -> None:
    assert vocabulary.areas[("tents",)] == {("shop",)}
    assert vocabulary.spell(("3d", "printing", "filament")) == "3D Printing Filament"


def by_hand(vocabulary: Vocabulary, known: list[Phrase], text: str) -> list[Phrase]:
    """Try every name at every word, the longest first."""
    words, found, place = phrase_of(text), [], 0
    while place < len(words):
        fits = [name for name in known if words[place : place + len(name)] == name]
        found += [max(fits, key=len)] if fits else []
        place += len(max(fits, key=len)) if fits else 1
    return found


def test_mentions_equal_those_of_trying_every_name_at_every_word() -> None:
    """Names of one to four words out of three letters meet and overlap in every way."""
    rng = random.Random(4)
    for _ in range(200):
        drawn = [" ".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(5)]
        vocabulary = Vocabulary(shop([("", (name, f"only {i}")) for i, name in enumerate(drawn)]))
        shared = {phrase_of(drawn[0])} if len(set(drawn)) == 1 else set()
        known = [phrase_of(name) for name in drawn if phrase_of(name) not in shared]
        text = " ".join(rng.choices("abcd", k=12))
        assert list(vocabulary.mentions(text).categories) == by_hand(vocabulary, known, text)


def test_words_keep_their_case_and_phrases_do_not() -> None:
    assert words_of("A_b, C-3's") == ("A", "b", "C", "3", "s")
    assert phrase_of("STRASSE Größe") == ("strasse", "grösse")
