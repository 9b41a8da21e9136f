"""Which category a text speaks of: read off exactly where it names one, else weighed word by word.

A text that a rule-based teacher wrote begins with the category's name. Free text is weighed as naive Bayes
does, with one document for every item: a word speaks for a category as far as its items, and its own name,
hold the word more often than the catalogue does. Ours.

Legend: N items, C categories, V words.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from scipy.sparse import csc_array

from data_synthesis.words import CatalogueWords, Words, words_of

_NAME_WEIGHT = 8  # a category's name counts as so many items that hold it
_PRIOR_WEIGHT = 4.0  # and the whole catalogue as so many items of every category
_NAMED = 3.0  # nats for a category all words of whose name are said
_MARGIN = 2.0  # nats by which another category must be likelier before a text contradicts one


class KindReader:
    """Tells whether a text speaks of another category than an item's.

    Args:
        words: the catalogue's words; the finest category of an item is its kind.
    """

    def __init__(self, words: CatalogueWords) -> None:
        leaves = [path[-1] if path else "" for path in words.catalogue.categories]
        self.names = sorted(set(leaves) - {""})
        number = {name: i for i, name in enumerate(self.names)}
        self.kind_of = np.asarray([number.get(leaf, -1) for leaf in leaves])  # (N,) -1: none
        self._paths = [{name.casefold() for name in path} for path in words.catalogue.categories]
        self._folded = {name.casefold() for name in self.names}
        self._spellings = [frozenset(words_of(name)) for name in self.names]
        self.words_of_names = frozenset[str]().union(*self._spellings)
        self._weights = self._weigh(words)

    def states_another(self, text: str, item: int) -> bool | None:
        """Whether a text is the name of another category than the item's, with a brand or price at most.

        None where the text is no category's name.
        """
        lead = text.strip().casefold()
        for stop in (" by ", " low price", " middle price", " high price"):
            if lead in self._folded:
                break
            lead = lead.partition(stop)[0]
        return lead not in self._paths[item] if lead in self._folded else None

    def speaks_of_another(self, text: Words, item: int) -> bool:
        """Whether another category explains a text better than the item's by a wide margin."""
        own = self.kind_of[item]
        if own < 0:
            return False
        said = frozenset(text)
        columns = sorted(self._column[word] for word in said if word in self._column)
        names = {spelling for spelling in self._spellings if spelling <= said}
        # The longest names alone: who says `duct tape` does not say `tape`.
        longest = {name for name in names if not any(name < other for other in names)}
        named = np.asarray([spelling in longest for spelling in self._spellings])
        named[own] |= any(frozenset(words_of(name)) in longest for name in self._paths[item])
        scores = self._weights[:, columns].sum(axis=1) + _NAMED * named  # (C,)
        return bool(scores.max() - scores[own] > _MARGIN)

    def _weigh(self, words: CatalogueWords) -> csc_array:
        """(C, V) log of a word's share in a category over its share in the catalogue, where that is above 0.

        A word that a category's texts lack does not speak against it: the teacher's words are others than the
        shop's. Descriptions are left out, for they hold too many words by chance, and so are brands.
        """
        bags = [
            frozenset((*title, *(word for name in path for word in name)))
            for title, path in zip(words.titles, words.paths, strict=True)
        ]
        held = Counter((int(c), w) for c, bag in zip(self.kind_of, bags, strict=True) if c >= 0 for w in bag)
        held.subtract(list(held))  # a word of a single item may stand there by chance
        for c, spelling in enumerate(self._spellings):
            held.update({(c, word): _NAME_WEIGHT for word in spelling})
        size = np.bincount(self.kind_of[self.kind_of >= 0], minlength=len(self.names))
        frequency = Counter(word for bag in bags for word in bag)
        self._column = {word: i for i, word in enumerate(sorted(frequency))}
        pairs = sorted(held)
        rows, columns = np.asarray([(c, self._column[word]) for c, word in pairs], dtype=int).reshape(-1, 2).T
        share = np.asarray([frequency[word] for _, word in pairs]) / len(bags)
        here = np.asarray([held[pair] for pair in pairs]) + _PRIOR_WEIGHT * share
        weights = np.log(here / (share * (size[rows] + _NAME_WEIGHT + _PRIOR_WEIGHT)))
        return csc_array((np.maximum(weights, 0), (rows, columns)), shape=(len(self.names), len(frequency)))
