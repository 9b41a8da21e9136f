"""What is kept of a source: deduplication, the iterated k-core, dense ids, and the split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from gream.data.columns import cut, encode, order_by, places_among
from gream.data.sources import Source
from gream.data.split import FEWEST_PURCHASES, count_parts, leave_one_out, temporal
from gream.data.store import TEST, Catalogue, Interactions
from gream.errors import InputError


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is kept of a source: `rows` are the kept rows of its purchases, user after user."""

    catalogue: Catalogue
    interactions: Interactions
    rows: np.ndarray
    items: np.ndarray  # kept rows of the source's items, in the order of dense ids
    timestamps: pl.Series
    reviews: pl.Series | None  # None where the source has none
    counts: dict[str, int]


def prepare(
    source: Source,
    *,
    core: int,
    deduplicate: bool,
    split: str = "leave_one_out",
    validation_users: int = 0,
    seed: int = 0,
    shuffle_ties: bool = False,
) -> Prepared:
    """Clean, filter and split what a reader found.

    For leave-one-out, users left with fewer than 3 purchases are dropped. For the temporal split, purchases
    without a time are dropped first, since nothing says where they belong, and every user's purchases are
    put in the order of their times, ties as the reader has them. Items that nobody kept bought leave the
    catalogue. With `shuffle_ties` purchases of a user at one time are put in random order. The seed draws it,
    and the `validation_users` of leave-one-out (0: all).

    Raises:
        InputError: nothing is left, or the times cannot be split.
    """
    purchases = source.purchases
    user_ids, user = encode(purchases["user_id"])
    item = places_among(purchases["item_id"], source.items["item_id"])
    by_time = split == "temporal"
    placed = purchases["timestamp"].is_not_null().to_numpy() if by_time else np.ones(len(user), dtype=bool)
    first = _first_of_pair(user, item, placed) if deduplicate else placed
    in_core = k_core(user, item, first, core)
    kept = in_core if by_time else _without_short_users(user, item, in_core, core, FEWEST_PURCHASES)
    if not kept.any():
        raise InputError(_nothing_left(len(user), core, int((~placed).sum()), by_time))
    rows = np.flatnonzero(kept)
    rows, ties = _in_order(rows, user, purchases["timestamp"], by_time, seed if shuffle_ties else None)
    times = purchases["timestamp"].gather(rows)
    kept_users, dense_user = _dense(user[rows])
    kept_items, dense_item = _dense(item[rows])
    marks = temporal(times.to_numpy()) if by_time else leave_one_out(dense_user, validation_users, seed)
    of_users = user_ids.gather(kept_users).to_list()
    lengths = np.bincount(dense_user)
    interactions = Interactions(of_users, cut(dense_item, lengths), cut(marks, lengths))
    bought_at_all, core_users = (int(np.count_nonzero(np.bincount(x))) for x in (item, user[in_core]))
    counts = {
        "users_in": len(user_ids),
        "items_in": len(source.items),
        "interactions_in": len(user),
        **source.counts,
        "items_dropped_never_bought": len(source.items) - bought_at_all,
        **_dropped(placed, first, in_core, kept),
        "users_dropped_by_core": len(user_ids) - core_users,
        "users_dropped_short": core_users - len(kept_users),
        "items_dropped_by_core": bought_at_all - len(kept_items),
        "users": len(kept_users),
        "items": len(kept_items),
        "interactions": len(rows),
        "targets_tied": int(((np.diff(ties, prepend=-1) == 0) & (marks == TEST)).sum()),
        **count_parts(dense_user, marks),
    }
    reviews = purchases["review"].gather(rows) if purchases["review"].is_not_null().any() else None
    items = _catalogue(source.items[kept_items])
    return Prepared(items, interactions, rows, kept_items, times, reviews, counts)


def _dropped(placed: np.ndarray, first: np.ndarray, in_core: np.ndarray, kept: np.ndarray) -> dict[str, int]:
    """Count the purchases that each step left out: (n,) bool of those that passed it."""
    return {
        "interactions_dropped_without_time": int((~placed).sum()),
        "interactions_dropped_repeated": int((placed & ~first).sum()),
        "interactions_dropped_by_core": int((first & ~in_core).sum()),
        "interactions_dropped_short_users": int((in_core & ~kept).sum()),
    }


def _in_order(
    rows: np.ndarray, user: np.ndarray, times: pl.Series, by_time: bool, shuffle_seed: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Put rows user by user, in one as the reader has them, or by time; return them and their ties."""
    place = times.gather(rows).to_numpy() if by_time else np.zeros(len(rows), np.int64)
    rows = rows[order_by(user[rows], place)]
    ties = runs_of_ties(user[rows], times.gather(rows))
    if shuffle_seed is not None:
        rows = rows[np.lexsort((np.random.default_rng(shuffle_seed).random(len(rows)), ties))]
    return rows, ties


def runs_of_ties(user: np.ndarray, times: pl.Series) -> np.ndarray:
    """Number the runs of neighbouring purchases that one user made at one time: (n,) int64, rising.

    A purchase without a time is a run of its own, since nothing says that it may move.

    Args:
        user: (n,) user of each purchase, user after user.
        times: their n times, in order within a user.
    """
    known, time = times.is_not_null().to_numpy(), times.fill_null(0).to_numpy()
    begins = np.ones(len(user), dtype=bool)
    begins[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1]) | ~known[1:] | ~known[:-1]
    return np.cumsum(begins)


def _first_of_pair(user: np.ndarray, item: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return (n,) bool: true for the first purchase of an item by a user among those given.

    Args:
        user: (n,) user of each purchase.
        item: (n,) its item.
        among: (n,) bool, the purchases that count.
    """
    rows = np.flatnonzero(among)
    pairs = user[rows] * (item.max(initial=0) + 1) + item[rows]
    order = np.argsort(pairs, kind="stable")
    is_first = np.diff(pairs[order], prepend=-1) != 0
    first = np.zeros(len(user), dtype=bool)
    first[rows[order[is_first]]] = True
    return first


def k_core(user: np.ndarray, item: np.ndarray, kept: np.ndarray, core: int) -> np.ndarray:
    """Return the largest part of `kept` in which every user and every item has at least `core` purchases.

    Args:
        user: (n,) user of each purchase.
        item: (n,) its item.
        kept: (n,) bool, the purchases to begin with.
        core: fewest purchases of a user, and of an item.
    """
    rows = np.flatnonzero(kept)
    while True:
        users, items = user[rows], item[rows]
        enough = (np.bincount(users)[users] >= core) & (np.bincount(items)[items] >= core)
        if enough.all():
            break
        rows = rows[enough]
    still = np.zeros(len(user), dtype=bool)
    still[rows] = True
    return still


def _without_short_users(
    user: np.ndarray, item: np.ndarray, in_core: np.ndarray, core: int, fewest: int
) -> np.ndarray:
    """Return what stays of the core when users with fewer than `fewest` purchases leave it.

    They only exist for a core below `fewest`; without them an item can fall below the core again.
    """
    kept, before = in_core, None
    while before is None or kept.sum() < before:
        before = kept.sum()
        lengths = np.bincount(user[kept], minlength=user.max(initial=0) + 1)
        kept = k_core(user, item, kept & (lengths[user] >= fewest), core)
    return kept


def _nothing_left(num_purchases: int, core: int, num_without_time: int, by_time: bool) -> str:
    least = "" if by_time else f" and users with at least {FEWEST_PURCHASES}"
    without_time = f" and dropping {num_without_time:,} without a time" if by_time else ""
    return (
        f"Nothing is left of {num_purchases:,} purchases after keeping users and items with at least {core} "
        f"purchases{least}{without_time}; lower `core`, or give more data."
    )


def _dense(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes that occur, ascending, and for each code its place among them."""
    occurs = np.bincount(codes) > 0
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[codes]


def _catalogue(items: pl.DataFrame) -> Catalogue:
    return Catalogue(
        item_ids=items["item_id"].to_list(),
        titles=items["title"].to_list(),
        descriptions=items["description"].to_list(),
        brands=items["brand"].to_list(),
        categories=[tuple(path) for path in items["categories"].to_list()],
        prices=items["price"].fill_null(float("nan")).to_numpy().astype(np.float32),
    )
