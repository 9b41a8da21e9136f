"""Search of items by words: title, brand and categories, rarer words first, the last word as it is typed."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict

import numpy as np

from gream.data.store import Catalogue

_WORD = re.compile(r"\w+")
_MOST_WORDS = 20  # of a query; the others are not looked at
_MOST_ENDINGS = 200  # words that an unfinished one may become


class ItemSearch:
    """Words to the items that have them."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Read every item once."""
        found: dict[str, list[int]] = defaultdict(list)
        texts = zip(catalogue.titles, catalogue.brands, catalogue.categories, strict=True)
        for item, (title, brand, categories) in enumerate(texts):
            for word in set(_words(" ".join((title, brand, *categories)))):
                found[word].append(item)
        self._size = len(catalogue)
        self._items = {word: np.array(items) for word, items in found.items()}
        self._sorted = sorted(self._items)

    def find(self, query: str, limit: int) -> list[int]:
        """Return the items with most of the words, a rare word counting more; ties by lower item.

        Args:
            query: words in any order; the last one may be the beginning of a word.
            limit: most items.
        """
        words = _words(query)[:_MOST_WORDS]
        scores = np.zeros(self._size)
        for place, word in enumerate(words):
            items = self._with(word, beginning=place == len(words) - 1)
            scores[items] += np.log1p(self._size / max(len(items), 1))
        best = np.lexsort((np.arange(self._size), -scores))[:limit]
        return [int(item) for item in best if scores[item] > 0]

    def _with(self, word: str, *, beginning: bool) -> np.ndarray:
        known = [word] if word in self._items else []
        if beginning:
            start = bisect_left(self._sorted, word)
            near = self._sorted[start : start + _MOST_ENDINGS]
            known += [other for other in near if other.startswith(word) and other != word]
        return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(self._items[w] for w in known)]))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
