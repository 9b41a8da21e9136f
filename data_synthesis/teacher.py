"""The rule-based teacher: a five-step chain from the history alone.

It knows the catalogue and the training purchases, from which it learns which category follows which.
It never sees the next item: the intent is drawn from what usually follows, and a later filter drops the
traces whose intent the customer did not have. GREAM's teacher is a large model that is shown the target
and told to argue as if it were not.

Legend: C categories, N items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data_synthesis.denoise import Coherence
from data_synthesis.filters import Facts
from data_synthesis.words import CatalogueWords
from gream.data.store import Catalogue

_DECAY = 0.5  # weight of a purchase against the one after it, when the intent is inferred
_PRICE_WORDS = ("low price", "middle price", "high price")


@dataclass(frozen=True)
class Explanation:
    """The five steps about one history, before they are spelled as text and names."""

    evidence: tuple[int, ...]
    kinds: tuple[str, ...]
    preference: str
    intent: str
    recommendation: str
    rewritten: tuple[int, ...]


class RuleTeacher:
    """Explains histories by category transitions, shared brands and price tiers.

    Args:
        catalogue: items with their category paths.
        sequences: training purchases, one array for each user.
        denoise: whether the rewritten history leaves out what does not fit; else it is a copy, as in GREAM's
            code. The other steps look at what fits in either case.
    """

    def __init__(
        self, catalogue: Catalogue, sequences: Iterable[np.ndarray], *, denoise: bool = True
    ) -> None:
        self.catalogue = catalogue
        self.facts = Facts(CatalogueWords(catalogue))
        bought = list(sequences)
        self.coherence = Coherence(catalogue, bought)
        self._denoise = denoise
        leaves = [path[-1] if path else "" for path in catalogue.categories]
        self.categories = sorted(set(leaves))
        index = {name: i for i, name in enumerate(self.categories)}
        self.category_of = np.asarray([index[leaf] for leaf in leaves])  # (N,)
        self._tiers = _price_tiers(catalogue.prices)
        self._follows = self._learn(bought)

    def explain(
        self, history: Sequence[int], rng: np.random.Generator, attempts: int = 1
    ) -> list[Explanation]:
        """Explain one history, with up to `attempts` different intents in the order they were drawn."""
        fitting = self.coherence.fitting(history)
        chance = self._next_category(fitting)
        possible = min(attempts, int((chance > 0).sum()))
        drawn = rng.choice(len(chance), size=possible, replace=False, p=chance)
        preference, brand, tier = self._preference(fitting)
        evidence = tuple(fitting[-2:])
        kinds = tuple(self.categories[self.category_of[i]] for i in evidence)
        return [
            Explanation(
                evidence,
                kinds,
                preference,
                f"after {kinds[-1]} comes {self.categories[category]}",
                " ".join(part for part in (self.categories[category], brand and f"by {brand}", tier) if part),
                tuple(fitting if self._denoise else map(int, history)),
            )
            for category in drawn
        ]

    def _next_category(self, history: Sequence[int]) -> np.ndarray:
        """(C,) probability of the next category: transitions from all purchases, the newest heaviest."""
        weights = _DECAY ** np.arange(len(history) - 1, -1, -1)
        chance = weights @ self._follows[self.category_of[list(history)]]
        return np.asarray(chance / chance.sum())

    def _preference(self, history: Sequence[int]) -> tuple[str, str, str]:
        """The stated preference, the brand (empty when none is shared) and the price tier (or empty)."""
        paths = [self.catalogue.categories[i] for i in history if self.catalogue.categories[i]]
        area = _most_common([path[-2 if len(path) > 1 else -1] for path in paths])[0]
        brand, times = _most_common([self.catalogue.brands[i] for i in history if self.catalogue.brands[i]])
        brand = brand if times > 1 else ""
        tier = _most_common([_PRICE_WORDS[self._tiers[i]] for i in history if self._tiers[i] >= 0])[0]
        return ", ".join(part for part in (area or "mixed", brand, tier) if part), brand, tier

    def _learn(self, sequences: list[np.ndarray]) -> np.ndarray:
        """(C, C) transition probabilities; rows sum to 1."""
        follows = np.zeros((len(self.categories), len(self.categories)))
        for sequence in sequences:
            categories = self.category_of[sequence]
            np.add.at(follows, (categories[:-1], categories[1:]), 1)
        popular = np.bincount(self.category_of, minlength=len(self.categories)) + follows.sum(axis=0)
        # One pseudo-purchase, spread by popularity, keeps categories without successors usable.
        follows += popular / popular.sum()
        transitions: np.ndarray = follows / follows.sum(axis=1, keepdims=True)
        return transitions


def _most_common(values: list[str]) -> tuple[str, int]:
    """The commonest value and its number; ties by spelling; an empty list gives ("", 0)."""
    counts = Counter(values)
    return min(counts.items(), key=lambda pair: (-pair[1], pair[0])) if counts else ("", 0)


def _price_tiers(prices: np.ndarray) -> np.ndarray:
    """Third of the catalogue's prices that each item falls into: 0, 1, 2, or -1 without a price."""
    known = np.isfinite(prices)
    tiers = np.full(len(prices), -1)
    if known.any():
        tiers[known] = np.searchsorted(np.quantile(prices[known], [1 / 3, 2 / 3]), prices[known])
    return tiers
