"""The catalogue's words: what an item is called, how rare a word is, and which items hold a phrase.

Texts are compared as words: case, accents, punctuation and the plural are taken away, so that a title is
known again however it is spelled. A word's information is measured in bits, log2 of N over the number of
items whose text holds it.

Legend: N items.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

from gream.data.store import Catalogue

_WORD = re.compile(r"[^\W_]+")
_COMMON = 0.02  # share of the items that hold a common word, at least
_REMEMBERED = 1 << 16  # texts: titles and phrases are asked for again and again
_ALONE = 0.01  # a brand tells itself only where at most this share of the other items hold its words

Words = tuple[str, ...]


@lru_cache(maxsize=_REMEMBERED)
def words_of(text: str) -> Words:
    """Words of a text in order: folded, without accents and punctuation, in the singular.

    >>> words_of("The Café-Knife's 2 CASES!")
    ('the', 'cafe', 'knife', '2', 'case')
    """
    return tuple(_singular(word) for word in _WORD.findall(_folded(text).replace("'s", "")))


@lru_cache(maxsize=_REMEMBERED)
def squeezed(text: str) -> str:
    """A text without anything but letters and digits, so that no space or dash can hide a word.

    >>> squeezed("TRA-708 T")
    'tra708t'
    """
    return "".join(_WORD.findall(_folded(text)))


def is_model(word: str) -> bool:
    """Whether a word is a model number: it begins with a letter, and two digits or more stand in it."""
    return len(word) > 4 and word[0].isalpha() and sum(letter.isdigit() for letter in word) > 1


def holds(text: Words, phrase: Words) -> bool:
    """Whether a phrase of at least one word stands in a text as it is, word after word."""
    size = len(phrase)
    return size > 0 and any(text[i : i + size] == phrase for i in range(len(text) - size + 1))


class CatalogueWords:
    """The words of every item, counted over the catalogue.

    Args:
        catalogue: the items.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.titles = [words_of(title) for title in catalogue.titles]
        self.brands = [words_of(brand) for brand in catalogue.brands]
        self.paths = [tuple(words_of(name) for name in path) for path in catalogue.categories]
        self.descriptions = [words_of(text) for text in catalogue.descriptions]
        self.bags = [
            frozenset((*title, *brand, *text, *(word for name in path for word in name)))
            for title, brand, text, path in zip(
                self.titles, self.brands, self.descriptions, self.paths, strict=True
            )
        ]
        self.frequency = Counter(word for bag in self.bags for word in bag)
        self.few = max(1, len(catalogue) // 1000)  # a word or phrase in so few items is rare
        self.bits_of_an_item = math.log2(max(len(catalogue), 1))  # enough to single one out

    def __len__(self) -> int:
        return len(self.bags)

    def bits(self, words: Iterable[str]) -> float:
        """Bits that words tell about which item is meant; a word that the catalogue lacks tells none."""
        return sum(math.log2(len(self.bags) / self.frequency[word]) for word in words if self.frequency[word])

    def is_rare(self, word: str) -> bool:
        """Whether at most one item in a thousand (at least one item) has the word."""
        return 0 < self.frequency[word] <= self.few

    def is_common(self, word: str) -> bool:
        """Whether so many items have the word that it tells nothing about one of them."""
        return self.frequency[word] >= max(_COMMON * len(self.bags), self.few + 1)

    def said_of(self, items: Iterable[int]) -> frozenset[str]:
        """All words of some items: those that their history explains."""
        return frozenset().union(*(self.bags[item] for item in items))

    def titles_with(self, phrase: Words) -> int:
        """How many titles hold a phrase of at least one word."""
        rarest = min(phrase, key=lambda word: len(self._title_places[word]))
        return sum(holds(self.titles[item], phrase) for item in self._title_places[rarest])

    def titles_with_all(self, told: Iterable[str], brand: Words = ()) -> int:
        """How many titles hold all of some words, in any order; of one brand, where one is given."""
        places = set.intersection(*(set(self._title_places[word]) for word in told))
        return sum(not brand or self.brands[item] == brand for item in places)

    def quoted_in(self, text: Words, fewest: int = 3) -> list[int]:
        """Items whose title of at least `fewest` words stands in a text, ascending."""
        said = frozenset(text)
        places = (item for word in said for item in self._by_rarest.get(word, ()))
        return sorted(i for i in places if len(self.titles[i]) >= fewest and holds(text, self.titles[i]))

    def brands_in(self, text: Words) -> list[Words]:
        """Brands named in a text, of those that are known by their words alone, sorted."""
        said = frozenset(text)
        possible = (brand for word in said for brand in self._telling_brands.get(word, ()))
        return sorted(brand for brand in possible if said.issuperset(brand) and holds(text, brand))

    @cached_property
    def models(self) -> frozenset[str]:
        """Every word of the catalogue that is a model number."""
        return frozenset(word for word in self.frequency if is_model(word))

    @cached_property
    def _title_places(self) -> dict[str, list[int]]:
        places = defaultdict(list)
        for item, title in enumerate(self.titles):
            for word in frozenset(title):
                places[word].append(item)
        return places

    @cached_property
    def _by_rarest(self) -> dict[str, list[int]]:
        """Items by the rarest word of their title."""
        places = defaultdict(list)
        categories = {name for path in self.paths for name in path}
        for item, title in enumerate(self.titles):
            if title and title not in categories:
                places[min(title, key=lambda word: (self.frequency[word], word))].append(item)
        return places

    @cached_property
    def _telling_brands(self) -> dict[str, list[Words]]:
        """By first word: brands that are no category, and whose words hardly another item holds.

        `Small Parts` is none.
        """
        others: Counter[Words] = Counter()
        categories = {frozenset(name) for path in self.paths for name in path}
        named = {brand for brand in self.brands if brand}
        brands = sorted(brand for brand in named if not any(name.issuperset(brand) for name in categories))
        by_word = _by_first_word(brands)
        for bag, own in zip(self.bags, self.brands, strict=True):
            others.update(
                brand
                for word in bag
                for brand in by_word.get(word, ())
                if brand != own and bag.issuperset(brand)
            )
        telling = [brand for brand in brands if others[brand] <= _ALONE * len(self.bags)]
        return _by_first_word(telling)


def runs(text: Words, title: Words, shortest: int) -> list[Words]:
    """The longest phrases of a title, of at least `shortest` words, that stand in a text."""
    found: list[Words] = []
    end = 0
    for start in range(len(title)):
        first = stop = max(
            start + shortest, end + 1
        )  # what lies inside a phrase found before is not told again
        while stop <= len(title) and holds(text, title[start:stop]):
            stop += 1
        if stop > first:
            end = stop - 1
            found.append(title[start:end])
    return found


def _by_first_word(brands: Sequence[Words]) -> dict[str, list[Words]]:
    places: dict[str, list[Words]] = defaultdict(list)
    for brand in brands:
        places[brand[0]].append(brand)
    return places


def _folded(text: str) -> str:
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter)).casefold()


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("sses", "shes", "ches", "xes", "zes")) else word[:-1]
