"""Which brands and categories of a catalogue a text mentions.

A name is looked for word by word, so that no part of a word counts, and the longest name that begins at a
word goes before the shorter ones inside it: "3D Printing Filament" is that category and not the brand "3D".
What a text means by a word is decided here, and is ours:

- Categories are ordinary words, which free text writes small: capital letters do not count.
- Brands are often ordinary words too (Peak, Grip, Ideal): a brand counts only where it is written as the
  catalogue writes it. On Amazon's Industrial and Scientific catalogue 66 of 850 brands of one word are also
  found in small letters in its texts, nearly all of them as coined words that begin small ("uxcell").
- Where a brand is called what a category is called, the category is meant.
- A category that every item has says nothing, and is not counted.

The catalogue is read once, a text costs its words and not the catalogue's size.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass

from gream.data.store import Catalogue

Phrase = tuple[str, ...]  # the words of a name, in small letters

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Mentions:
    """What a text mentions, in the order of the text, repetitions kept."""

    brands: tuple[Phrase, ...]
    categories: tuple[Phrase, ...]


def words_of(text: str) -> Phrase:
    """Return the words of a text as they are written, without what stands between them.

    >>> words_of("Halvorn's 3-in-1 Pens")
    ('Halvorn', 's', '3', 'in', '1', 'Pens')
    """
    return tuple(_WORD.findall(text))


def phrase_of(text: str) -> Phrase:
    """Return the words of a name in small letters, which is what names are compared by."""
    return tuple(word.casefold() for word in words_of(text))


class Vocabulary:
    """The brands and category names of a catalogue, ready to be found in texts.

    Attributes:
        areas: for each category name the outermost names of the paths that hold it, itself among them where
            it is one.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        """Read the catalogue's names; brands of a single letter or digit are left out."""
        paths = Counter(path for path in catalogue.categories if path)
        items_with: Counter[Phrase] = Counter()
        areas: defaultdict[Phrase, set[Phrase]] = defaultdict(set)
        for path, number in paths.items():
            phrases = [phrase for name in path if (phrase := phrase_of(name))]
            items_with.update(dict.fromkeys(phrases, number))
            for phrase in phrases:
                areas[phrase].add(phrases[0])
        everywhere = {phrase for phrase, number in items_with.items() if number == paths.total()} | {()}
        self.areas: dict[Phrase, frozenset[Phrase]] = {k: frozenset(v) for k, v in areas.items()}
        self._paths = {path: frozenset(map(phrase_of, path)) - everywhere for path in [*paths, ()]}
        self._categories = frozenset(items_with) - everywhere
        self._spellings: defaultdict[Phrase, set[Phrase]] = defaultdict(set)  # of each brand, as written
        for brand in set(catalogue.brands):
            if len("".join(words_of(brand))) > 1:
                self._spellings[phrase_of(brand)].add(words_of(brand))
        self._lengths = _lengths([*self._categories, *self._spellings])
        self._written = {phrase_of(name): name for path in paths for name in path}
        self._catalogue = catalogue

    def brand(self, item: int) -> Phrase:
        """Return an item's brand, () where it has none."""
        return phrase_of(self._catalogue.brands[item])

    def categories(self, item: int) -> frozenset[Phrase]:
        """Return the names in an item's category path that do not hold for every item."""
        return self._paths[self._catalogue.categories[item]]

    def spell(self, category: Phrase) -> str:
        """Return a category's name as the catalogue writes it."""
        return self._written[category]

    def mentions(self, text: str) -> Mentions:
        """Return what a text mentions; item names in it should be taken out before."""
        written = words_of(text)
        words = tuple(word.casefold() for word in written)
        brands: list[Phrase] = []
        categories: list[Phrase] = []
        place = 0
        while place < len(words):
            length = self._longest(written, words, place)
            phrase = words[place : place + length]
            if length:
                (categories if phrase in self._categories else brands).append(phrase)
            place += max(length, 1)
        return Mentions(tuple(brands), tuple(categories))

    def _longest(self, written: Phrase, words: Phrase, place: int) -> int:
        """Return how many words the longest name has that begins at a place, 0 for none."""
        for length in self._lengths.get(words[place], ()):
            part = slice(place, place + length)
            if words[part] in self._categories or written[part] in self._spellings.get(words[part], ()):
                return length
        return 0


def _lengths(phrases: list[Phrase]) -> dict[str, list[int]]:
    """Return the lengths of the names that begin with a word, the longest first."""
    found: defaultdict[str, set[int]] = defaultdict(set)
    for phrase in phrases:
        found[phrase[0]].add(len(phrase))
    return {word: sorted(lengths, reverse=True) for word, lengths in found.items()}
