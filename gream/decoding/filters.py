"""What may be recommended at all: the state of the shelf, and the filters of one request.

Legend: N items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gream.data.store import Catalogue
from gream.errors import InputError, NotFoundError


@dataclass(frozen=True)
class Shelf:
    """What changes while a recommender is in use: prices, and what there is of each item.

    Immutable: a change makes a new shelf, so that nobody ever sees half of one.
    """

    prices: np.ndarray  # (N,) float64, NaN where unknown
    available: np.ndarray  # (N,) bool

    @classmethod
    def of(cls, catalogue: Catalogue) -> Shelf:
        """Everything is there, at the price of the catalogue."""
        return cls(np.asarray(catalogue.prices, dtype=np.float64), np.ones(len(catalogue), dtype=bool))

    def changed(self, item: int, *, price: float | None = None, available: bool | None = None) -> Shelf:
        """Return the shelf after a change of one item; None leaves as it is."""
        prices, there = self.prices, self.available
        if price is not None:
            prices = prices.copy()
            prices[item] = price
        if available is not None:
            there = there.copy()
            there[item] = available
        return replace(self, prices=prices, available=there)


@dataclass(frozen=True)
class Filters:
    """What one request wants to see; every field narrows, an empty one does not.

    An item without a known price passes no bound on prices: what it costs is not known to be within.
    """

    categories: Sequence[str] = ()  # an item is in one of these, at any level, whatever the case
    brands: Sequence[str] = ()  # an item is of one of these, whatever the case
    min_price: float | None = None
    max_price: float | None = None
    allow: Sequence[str] | None = None  # raw item ids; only these
    deny: Sequence[str] = ()  # raw item ids; none of these

    def __post_init__(self) -> None:
        for name in ("min_price", "max_price"):
            bound = getattr(self, name)
            if bound is not None and not (math.isfinite(bound) and bound >= 0):
                raise InputError(f"{name} is {bound}; give a price of at least 0.")
        if None not in (self.min_price, self.max_price) and self.min_price > self.max_price:  # type: ignore[operator]
            raise InputError(
                f"min_price is {self.min_price} and max_price {self.max_price}; give the lower one first."
            )


class Aisles:
    """Where the items of every category and of every brand stand, looked up by name."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Sort the items of a catalogue, once."""
        self._catalogue = catalogue
        self._by_category: dict[str, list[int]] = {}
        self._by_brand: dict[str, list[int]] = {}
        for item, path in enumerate(catalogue.categories):
            for name in {category.casefold() for category in path}:
                self._by_category.setdefault(name, []).append(item)
        for item, brand in enumerate(catalogue.brands):
            if brand:
                self._by_brand.setdefault(brand.casefold(), []).append(item)

    def mask(self, filters: Filters, shelf: Shelf) -> np.ndarray:
        """Mark the items that a request may be answered with: (N,) bool.

        Raises:
            InputError: an unknown category, brand or item id, or filters that leave nothing.
        """
        mask = shelf.available.copy()
        if filters.categories:
            mask &= self._any(self._by_category, filters.categories, "category")
        if filters.brands:
            mask &= self._any(self._by_brand, filters.brands, "brand")
        with np.errstate(invalid="ignore"):  # a comparison with NaN is false, which is what is meant
            if filters.min_price is not None:
                mask &= shelf.prices >= filters.min_price
            if filters.max_price is not None:
                mask &= shelf.prices <= filters.max_price
        if filters.allow is not None:
            allowed = np.zeros(len(mask), dtype=bool)
            allowed[self._items(filters.allow, "`allow`")] = True
            mask &= allowed
        if filters.deny:
            mask[self._items(filters.deny, "`deny`")] = False
        if not mask.any():
            raise InputError(
                "The filters leave no item that is there; take one of them away, or widen its bounds."
            )
        return mask

    def _items(self, raw_ids: Sequence[str], where: str) -> list[int]:
        return self._catalogue.lookup(list(raw_ids), where, suggest=False)

    def _any(self, known: dict[str, list[int]], names: Sequence[str], what: str) -> np.ndarray:
        mask = np.zeros(len(self._catalogue), dtype=bool)
        for name in names:
            items = known.get(name.casefold())
            if items is None:
                raise NotFoundError(f"No item has the {what} {name!r}; give a {what} of the catalogue.")
            mask[items] = True
        return mask
