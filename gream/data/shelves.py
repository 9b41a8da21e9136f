"""The catalogue of the simulated shop: titles, descriptions and prices made of the words in shop.py."""

from __future__ import annotations

import numpy as np
import polars as pl

from gream.data.shop import BRANDS, CATEGORIES, CLOSINGS, DEPARTMENTS, OPENINGS, TIERS, Category
from gream.data.sources import ITEM_SCHEMA
from gream.errors import InputError

_TIER_PRICES = (0.55, 1.0, 1.9)  # of the category's middling price
_CLOSED = 0.8  # share of descriptions that have a second sentence


def write_items(
    category_of: np.ndarray, brand_of: np.ndarray, tier_of: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    """Write title, description and price of every item; no two titles are the same.

    Args:
        category_of: (N,) place of each item's category in CATEGORIES.
        brand_of: (N,) place of its brand in BRANDS.
        tier_of: (N,) place of its price tier in TIERS.
        rng: draws words and prices.

    Returns:
        One row an item, as ITEM_SCHEMA says.

    Raises:
        InputError: more items than the shop has words for.
    """
    fewest_titles = min(len(_titles(category)) for category in CATEGORIES)
    if len(category_of) > fewest_titles * len(CATEGORIES):
        raise InputError(
            f"`num_items` is {len(category_of)}, but the shop has words for "
            f"{fewest_titles * len(CATEGORIES)} different titles; lower it."
        )
    unused = [list(rng.permutation(len(_titles(category)))) for category in CATEGORIES]
    rows = []
    for item, (c, b, tier) in enumerate(zip(category_of, brand_of, tier_of, strict=True)):
        category, brand, tier_name = CATEGORIES[c], BRANDS[b], TIERS[tier]
        title, words = _titles(category)[unused[c].pop()]
        drawn = {key: str(rng.choice(options)) for key, options in _words(category)}
        words = {"brand": brand, **drawn, **words}  # the title's own words win
        opening = str(rng.choice(OPENINGS)).format(**words)
        closing = str(rng.choice(CLOSINGS[tier_name])).format(**words)
        text = f"{opening} {closing}" if rng.random() < _CLOSED else opening
        price = round(category.price * _TIER_PRICES[tier] * rng.uniform(0.85, 1.15)) - 0.05
        path = [category.department, category.name]
        rows.append((f"item-{item:04d}", title, text[0].upper() + text[1:], brand, path, price))
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def brands_of(department: str) -> list[int]:
    """Return the places in BRANDS of what a department sells; every brand sells in three departments."""
    wanted, count = DEPARTMENTS.index(department), len(DEPARTMENTS)
    shifts = [(0, 1 + b // count, 4 + b // count) for b in range(len(BRANDS))]
    return [b for b in range(len(BRANDS)) if wanted in [(b + shift) % count for shift in shifts[b]]]


def _words(category: Category) -> list[tuple[str, tuple[str, ...]]]:
    return [("material", category.materials), ("adjective", category.adjectives), ("use", category.uses)]


def _titles(category: Category) -> list[tuple[str, dict[str, str]]]:
    """Every title that a category's words can make, with the words it used."""
    found = []
    for noun in category.nouns:
        for adjective in category.adjectives:
            for material in category.materials:
                words = {"noun": noun, "adjective": adjective, "material": material}
                found.append((f"{adjective} {material} {noun}".title(), words))
            for use in category.uses:
                words = {"noun": noun, "adjective": adjective, "use": use}
                found.append((f"{adjective.title()} {noun.title()} for {use.title()}", words))
    return found
