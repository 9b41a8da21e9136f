"""A shop whose customers' tastes are known: the embedded default, made so that gream can be measured.

Every customer prefers one or two departments, two brands and a price tier. A purchase follows from the
category of the one before along the graph in shop.py, or starts anew in a preferred department; within
the category, brand, tier and a mild popularity decide. A known share of purchases is noise: drawn from a
skewed popularity over the whole catalogue, and followed by nothing. Nobody buys an item twice. The
process is ours; no paper describes it.

Legend: U customers, T purchases of the longest sequence, N items, C categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from gream import artifacts
from gream.data.shelves import brands_of, write_items
from gream.data.shop import BRANDS, CATEGORIES, DEPARTMENTS, TIERS
from gream.data.sources import PURCHASE_SCHEMA, Source
from gream.errors import InputError

TRUTH_FILE = "truth.parquet"
CUSTOMERS_FILE = "truth_customers.parquet"

FOLLOW = 0.75  # share of purchases made on purpose that follow from the one before
_SUCCESSORS = (0.65, 0.35)  # of the two categories that a category leads to
_SHORTEST, _LONGEST = 6, 14  # purchases of one customer
_SECOND_DEPARTMENT = 0.6  # share of customers who prefer two departments
_DEPARTMENT_SHARES = (0.65, 0.35)  # of the first and second preferred department
_TIER_SHARES = (0.35, 0.40, 0.25)  # of customers, budget to premium
_TIER_WEIGHTS = (4.0, 1.0, 0.2)  # of an item whose tier is 0, 1 or 2 away from the customer's
_BRAND_WEIGHT = 8.0  # of an item of a preferred brand, against 1
_NOISE_SKEW, _TASTE_SKEW = 0.6, 0.3  # exponents of rank: popularity of noise, and within a category
_START, _DAY = 1_704_067_200, 86_400  # 2024-01-01 in UNIX seconds; seconds of a day

# With three items in every category a customer of 14 purchases can never have bought all that their
# taste leads to: the five categories of a department hold 15.
_FEWEST_ITEMS = 3 * len(CATEGORIES)


@dataclass(frozen=True, eq=False)
class Shop:
    """The simulated purchases and everything that made them."""

    items: pl.DataFrame  # ITEM_SCHEMA of sources.py
    customers: pl.DataFrame  # user_id, departments, brands, tier: the latent tastes
    category_of: np.ndarray  # (N,) category of each item
    popularity: np.ndarray  # (N,) sums to 1: where noise is drawn from
    follows: np.ndarray  # (C, C) rows sum to 1: the graph between categories
    start: np.ndarray  # (U, C) rows sum to 1: where a customer starts anew
    affinity: np.ndarray  # (U, N) sums to 1 within every category: taste for its items
    noise: float
    bought: np.ndarray  # (U, T) items, -1 after the end
    is_noise: np.ndarray  # (U, T)

    def intents(self, customers: np.ndarray, previous: np.ndarray) -> np.ndarray:
        """Probability of each category for the next purchase made on purpose, (len(customers), C).

        Args:
            customers: (n,) customers.
            previous: (n,) category of their last purchase made on purpose, -1 before the first one.
        """
        start = self.start[customers]
        following = FOLLOW * self.follows[previous] + (1 - FOLLOW) * start
        return np.where(previous[:, None] >= 0, following, start)

    def source(self) -> Source:
        """The purchases as a reader would return them, customer after customer."""
        customer, position = np.nonzero(self.bought >= 0)
        # A few days between purchases, the same for everybody: order is all that time means here.
        times = _START + (position * 9 + customer % 9) * _DAY
        purchases = pl.DataFrame(
            {
                "user_id": self.customers["user_id"].gather(customer),
                "item_id": self.items["item_id"].gather(self.bought[customer, position]),
                "timestamp": times,
                "review": pl.repeat(None, len(times), dtype=pl.String, eager=True),
            },
            schema=PURCHASE_SCHEMA,
        )
        return Source(self.items, purchases, {})


@dataclass(frozen=True, eq=False)
class Truth:
    """What only the simulator knows; position i of every field belongs to user i."""

    is_noise: list[np.ndarray]  # bool for each purchase of the user's sequence
    departments: list[tuple[str, ...]]
    brands: list[tuple[str, ...]]
    tiers: list[str]


def simulate(*, num_items: int, num_customers: int, noise: float, seed: int) -> Shop:
    """Open the shop, let the customers in, and write down what they buy.

    The catalogue depends on `num_items` and `seed` only, not on the customers.

    Raises:
        InputError: more items than the shop has words for, too few to buy from, or a noise share outside
            [0, 1).
    """
    if num_items < _FEWEST_ITEMS:
        raise InputError(
            f"`num_items` is {num_items}, but the shop needs {_FEWEST_ITEMS} to fill its shelves; raise it."
        )
    if num_customers < 1:
        raise InputError(f"`num_customers` is {num_customers}; give at least 1.")
    if not 0 <= noise < 1:
        raise InputError(f"`noise` is {noise}, but it is a share of purchases; give it as 0 <= noise < 1.")
    for_items, for_customers, for_purchases = np.random.default_rng(seed).spawn(3)
    category_of = np.arange(num_items) % len(CATEGORIES)
    item_tier = for_items.permuted(np.arange(num_items) % len(TIERS))
    item_brand = np.array([for_items.choice(brands_of(CATEGORIES[c].department)) for c in category_of])
    items = write_items(category_of, item_brand, item_tier, for_items)
    rank = for_items.permutation(num_items) + 1.0
    departments, brands, tiers = _draw_tastes(num_customers, for_customers)
    distance = np.abs(item_tier[None, :] - tiers[:, None])  # (U, N)
    preferred = (item_brand[None, None, :] == brands[:, :, None]).any(axis=1)  # (U, N)
    weights = np.where(preferred, _BRAND_WEIGHT, 1.0) * np.array(_TIER_WEIGHTS)[distance]
    weights *= rank**-_TASTE_SKEW
    shelves = np.eye(len(CATEGORIES))[category_of]  # (N, C)
    popularity = rank**-_NOISE_SKEW
    shop = Shop(
        items=items,
        customers=_customers(departments, brands, tiers),
        category_of=category_of,
        popularity=popularity / popularity.sum(),
        follows=_graph(),
        start=_starts(departments),
        affinity=weights / (weights @ shelves)[:, category_of],  # every category holds an item
        noise=noise,
        bought=np.full((num_customers, _LONGEST), -1),
        is_noise=np.zeros((num_customers, _LONGEST), dtype=bool),
    )
    _let_buy(shop, for_purchases)
    return shop


def save_truth(folder: Path, shop: Shop, rows: np.ndarray, user: np.ndarray, position: np.ndarray) -> None:
    """Write what only the simulator knows of the purchases that were kept.

    Args:
        folder: the data folder being written.
        shop: the shop that the purchases come from.
        rows: for each kept purchase its row in `shop.source().purchases`; users in ascending order.
        user: dense user of each kept purchase.
        position: its position in the user's sequence.
    """
    customer, place = np.nonzero(shop.bought >= 0)
    is_noise = shop.is_noise[customer, place][rows]
    truth = pl.DataFrame({"user": user, "position": position, "is_noise": is_noise})
    truth.write_parquet(folder / TRUTH_FILE)
    first = np.flatnonzero(np.diff(user, prepend=-1))
    tastes = shop.customers[customer[rows[first]]]
    tastes.insert_column(0, pl.Series("user", user[first])).write_parquet(folder / CUSTOMERS_FILE)


def has_truth(folder: Path) -> bool:
    """Whether a data folder was made by the simulator, which knows the truth about its customers."""
    return (folder / TRUTH_FILE).is_file() and (folder / CUSTOMERS_FILE).is_file()


def load_truth(folder: Path) -> Truth:
    """Read what only the simulator knows from a data folder that it made.

    Raises:
        InputError: no data folder, or one made from real purchases.
    """
    artifacts.read_manifest(folder, stage="data")
    if not has_truth(folder):
        raise InputError(
            f"{folder} was made from real purchases, whose truth nobody knows; run `gream data` with "
            "`source: simulator`."
        )
    purchases = pl.read_parquet(folder / TRUTH_FILE).sort("user", "position")
    customers = pl.read_parquet(folder / CUSTOMERS_FILE).sort("user")
    starts = np.flatnonzero(np.diff(purchases["user"].to_numpy(), prepend=-1))
    return Truth(
        is_noise=np.split(purchases["is_noise"].to_numpy(), starts[1:]),
        departments=[tuple(names) for names in customers["departments"].to_list()],
        brands=[tuple(names) for names in customers["brands"].to_list()],
        tiers=customers["tier"].to_list(),
    )


def _draw_tastes(num_customers: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Departments (U, 2) with -1 for no second one, brands (U, 2), tiers (U,)."""
    count = len(DEPARTMENTS)
    first = rng.integers(count, size=num_customers)
    second = (first + rng.integers(1, count, size=num_customers)) % count
    second[rng.random(num_customers) >= _SECOND_DEPARTMENT] = -1
    sold = np.zeros((count, len(BRANDS)), dtype=bool)
    for number, name in enumerate(DEPARTMENTS):
        sold[number, brands_of(name)] = True
    # The two largest random numbers among the brands that the preferred departments sell.
    offered = sold[first] | (sold[second] & (second >= 0)[:, None])  # (U, brands)
    brands = np.argsort(np.where(offered, -rng.random(offered.shape), 1.0), axis=1, kind="stable")[:, :2]
    tiers = rng.choice(len(TIERS), size=num_customers, p=_TIER_SHARES)
    return np.stack([first, second], axis=1), brands, tiers


def _starts(departments: np.ndarray) -> np.ndarray:
    """(U, 2) departments to (U, C): the shares of the departments, even over their categories."""
    home = np.array([DEPARTMENTS.index(category.department) for category in CATEGORIES])
    lone = departments[:, 1] < 0
    shares = np.where(lone[:, None], (1.0, 0.0), _DEPARTMENT_SHARES)  # (U, 2)
    liked = (home[None, None, :] == departments[:, :, None]) * shares[:, :, None]  # (U, 2, C)
    start: np.ndarray = liked.sum(axis=1)
    start /= start.sum(axis=1, keepdims=True)  # above 0: every customer has a department
    return start


def _graph() -> np.ndarray:
    number = {category.name: c for c, category in enumerate(CATEGORIES)}
    follows = np.zeros((len(CATEGORIES), len(CATEGORIES)))
    for c, category in enumerate(CATEGORIES):
        follows[c, [number[name] for name in category.leads_to]] = _SUCCESSORS
    return follows


def _customers(departments: np.ndarray, brands: np.ndarray, tiers: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [f"customer-{number:05d}" for number in range(len(tiers))],
            "departments": [[DEPARTMENTS[d] for d in pair if d >= 0] for pair in departments],
            "brands": [[BRANDS[b] for b in pair] for pair in brands],
            "tier": [TIERS[tier] for tier in tiers],
        }
    )


def _let_buy(shop: Shop, rng: np.random.Generator) -> None:
    """Fill `bought` and `is_noise`, one position of all customers at a time."""
    everyone = np.arange(len(shop.bought))
    lengths = rng.integers(_SHORTEST, _LONGEST + 1, size=len(everyone))
    left = np.ones(shop.affinity.shape, dtype=bool)  # (U, N) what the customer has not bought yet
    previous = np.full(len(everyone), -1)
    for position in range(_LONGEST):
        wanted = shop.intents(everyone, previous)[:, shop.category_of] * shop.affinity  # (U, N)
        stray = rng.random(len(everyone)) < shop.noise
        weights = np.where(stray[:, None], shop.popularity, wanted) * left
        items = _draw(weights, rng)
        left[everyone, items] = False
        previous = np.where(stray, previous, shop.category_of[items])
        open_ = position < lengths
        shop.bought[open_, position] = items[open_]
        shop.is_noise[open_, position] = stray[open_]


def _draw(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one column a row, (U, N) weights to (U,), by inverting the cumulative weights."""
    edges = np.cumsum(weights, axis=1)
    below = np.nextafter(edges[:, -1], 0)  # so that rounding cannot put the draw on the last edge itself
    drawn = rng.random(len(weights)) * below
    items: np.ndarray = np.argmax(edges > drawn[:, None], axis=1)
    return items
