"""Stage `data`: from purchases as they came to a catalogue, sequences and a leave-one-out split.

Deduplication, iterated k-core and split follow the usual preparation of the Amazon review sets (5-core;
last purchase = test, last but one = validation). Dense item ids follow the order of the item file (of
first appearance in the purchases where there is none), dense users their first appearance in the
purchases; both count only what is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream import artifacts
from gream.arguments import StageConfig, input_files, option
from gream.data import oracle, simulate
from gream.data.simulate import Shop
from gream.data.sources import Source, read_jsonl
from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions, save_dataset
from gream.data.tables import COLUMNS, read_table
from gream.errors import InputError

logger = logging.getLogger(__name__)

STAGE = "data"
SOURCES = ("simulator", "jsonl", "table")
FEWEST_PURCHASES = 3  # one each to learn from, to validate and to test


@dataclass(kw_only=True)
class DataConfig(StageConfig):
    """Settings of `gream data`."""

    output: str = option("data", doc="name of the folder that this stage writes inside run_dir")
    source: str = option("simulator", doc="simulator, jsonl (folder) or table (CSV or Parquet)")
    path: str = input_files("", doc="folder (jsonl) or purchases file (table)")
    items_path: str = input_files("", doc="table: file with one item a row; empty: texts are in `path`")
    columns: dict[str, str] = option({}, doc=f"table: our name to the file's column ({', '.join(COLUMNS)})")
    core: int = option(5, doc="keep users and items with at least this many purchases, iterated; 1 keeps all")
    deduplicate: bool = option(True, doc="keep only the first purchase of the same item by the same user")
    num_items: int = option(400, doc="simulator: items in the shop")
    num_customers: int = option(3000, doc="simulator: customers")
    noise: float = option(0.12, doc="simulator: share of purchases that follow no taste")


CONFIG = DataConfig


@dataclass(frozen=True, eq=False)
class Prepared:
    """What is kept of a source: `rows` are the kept rows of its purchases, user after user."""

    catalogue: Catalogue
    interactions: Interactions
    rows: np.ndarray
    items: np.ndarray  # kept rows of the source's items, in the order of dense ids
    timestamps: pl.Series
    counts: dict[str, int]


def run(config: DataConfig) -> None:
    """Read or simulate purchases, prepare them and write the data folder.

    Raises:
        InputError: settings that contradict each other, anything the readers refuse, or nothing left.
    """
    _check(config)
    with artifacts.writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        shop = _simulated(config) if config.source == "simulator" else None
        source = shop.source() if shop else _read(config)
        prepared = prepare(source, core=config.core, deduplicate=config.deduplicate)
        draft.counts.update(prepared.counts)
        save_dataset(draft.path, prepared.catalogue, prepared.interactions, timestamps=prepared.timestamps)
        if shop:
            draft.counts.update(_save_truth(draft.path, shop, prepared))
    _log(draft.counts)


def prepare(source: Source, *, core: int, deduplicate: bool) -> Prepared:
    """Clean, filter and split what a reader found.

    Users left with fewer than 3 purchases are dropped and counted; items that nobody kept bought leave
    the catalogue.

    Raises:
        InputError: nothing is left.
    """
    user_ids, user = _codes(source.purchases["user_id"])
    item = _positions(source.purchases["item_id"], source.items["item_id"])
    first = _first_of_pair(user, item) if deduplicate else np.ones(len(user), dtype=bool)
    kept, in_core = _filter(user, item, first, core)
    if not kept.any():
        raise InputError(
            f"Nothing is left of {len(user):,} purchases after keeping users and items with at least {core} "
            f"purchases and users with at least {FEWEST_PURCHASES}; lower `core`, or give more data."
        )
    rows = np.flatnonzero(kept)
    rows = rows[np.argsort(user[rows], kind="stable")]  # user after user; the order within one is kept
    kept_users, dense_user = np.unique(user[rows], return_inverse=True)
    kept_items, dense_item = np.unique(item[rows], return_inverse=True)
    sequences = np.split(dense_item.astype(np.int64), np.cumsum(np.bincount(dense_user))[:-1])
    interactions = Interactions(
        [user_ids[u] for u in kept_users], sequences, [_leave_one_out(len(items)) for items in sequences]
    )
    bought_at_all = len(np.unique(item))
    core_users = len(np.unique(user[in_core]))
    counts = {
        "users_in": len(user_ids),
        "items_in": len(source.items),
        "interactions_in": len(user),
        **source.counts,
        "items_dropped_never_bought": len(source.items) - bought_at_all,
        "interactions_dropped_repeated": int((~first).sum()),
        "interactions_dropped_by_core": int((first & ~in_core).sum()),
        "interactions_dropped_short_users": int((in_core & ~kept).sum()),
        "users_dropped_by_core": len(user_ids) - core_users,
        "users_dropped_short": core_users - len(kept_users),
        "items_dropped_by_core": bought_at_all - len(kept_items),
        "users": len(kept_users),
        "items": len(kept_items),
        "interactions": len(rows),
    }
    timestamps = source.purchases["timestamp"].gather(rows)
    catalogue = _catalogue(source.items[kept_items])
    return Prepared(catalogue, interactions, rows, kept_items, timestamps, counts)


def k_core(user: np.ndarray, item: np.ndarray, kept: np.ndarray, core: int) -> np.ndarray:
    """Return the largest part of `kept` in which every user and every item has at least `core` purchases.

    Args:
        user: (n,) user of each purchase.
        item: (n,) its item.
        kept: (n,) bool, the purchases to begin with.
        core: fewest purchases of a user, and of an item.
    """
    while True:
        users = np.bincount(user[kept], minlength=user.max(initial=0) + 1)
        items = np.bincount(item[kept], minlength=item.max(initial=0) + 1)
        still: np.ndarray = kept & (users[user] >= core) & (items[item] >= core)
        if still.sum() == kept.sum():
            return still
        kept = still


def _filter(
    user: np.ndarray, item: np.ndarray, first: np.ndarray, core: int
) -> tuple[np.ndarray, np.ndarray]:
    """Purchases kept in the end, and those that are in the core (with users too short to be split)."""
    in_core = k_core(user, item, first, core)
    # Users below 3 only exist for core < 3; without them an item can fall below the core again.
    kept, before = in_core, None
    while before is None or kept.sum() < before:
        before = kept.sum()
        lengths = np.bincount(user[kept], minlength=user.max(initial=0) + 1)
        kept = k_core(user, item, kept & (lengths[user] >= FEWEST_PURCHASES), core)
    return kept, in_core


def _codes(values: pl.Series) -> tuple[list[str], np.ndarray]:
    """Distinct values in the order of first appearance, and the place of each value among them."""
    distinct = values.unique(maintain_order=True)
    return distinct.to_list(), _positions(values, distinct)


def _positions(values: pl.Series, distinct: pl.Series) -> np.ndarray:
    """(n,) place of each value among `distinct`; readers have made sure that each one is there."""
    table = pl.DataFrame({"value": distinct}).with_row_index("place")
    joined = pl.DataFrame({"value": values}).join(table, on="value", how="left", maintain_order="left")
    return np.asarray(joined["place"].to_numpy(), dtype=np.int64)


def _first_of_pair(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """(n,) bool: true for the first purchase of an item by a user."""
    pairs = user * (item.max(initial=0) + 1) + item
    first = np.zeros(len(pairs), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


def _leave_one_out(length: int) -> np.ndarray:
    marks = np.full(length, TRAIN, dtype=np.int8)
    marks[-2:] = VALIDATION, TEST
    return marks


def _catalogue(items: pl.DataFrame) -> Catalogue:
    return Catalogue(
        item_ids=items["item_id"].to_list(),
        titles=items["title"].to_list(),
        descriptions=items["description"].to_list(),
        brands=items["brand"].to_list(),
        categories=[tuple(path) for path in items["categories"].to_list()],
        prices=items["price"].fill_null(float("nan")).to_numpy().astype(np.float32),
    )


def _simulated(config: DataConfig) -> Shop:
    return simulate.simulate(
        num_items=config.num_items, num_customers=config.num_customers, noise=config.noise, seed=config.seed
    )


def _read(config: DataConfig) -> Source:
    if config.source == "jsonl":
        return read_jsonl(config.locate("path"))
    items_path = config.locate("items_path") if config.items_path else None
    return read_table(config.locate("path"), items_path, config.columns)


def _save_truth(folder: Path, shop: Shop, prepared: Prepared) -> dict[str, Any]:
    """Write the simulator's truth; return the noise kept and what the oracle reaches on the test."""
    lengths = [len(items) for items in prepared.interactions.sequences]
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    simulate.save_truth(folder, shop, prepared.rows, user, position)
    customer, place = np.nonzero(shop.bought >= 0)
    tested = prepared.rows[np.cumsum(lengths) - 1]
    kept = np.zeros(len(shop.category_of), dtype=bool)
    kept[prepared.items] = True
    best = oracle.best_reachable(shop, customer[tested], place[tested], kept=kept)
    is_noise = shop.is_noise[customer, place][prepared.rows]
    counts: dict[str, Any] = {"noise_interactions": int(is_noise.sum())}
    return counts | {f"best_reachable_{name}": round(value, 4) for name, value in best.items()}


def _check(config: DataConfig) -> None:
    """Refuse settings that cannot work before anything is read."""
    if config.source not in SOURCES:
        raise InputError(f"`source` is {config.source!r}; choose one of {_listed(SOURCES)}.")
    if config.core < 1:
        raise InputError(f"`core` is {config.core}; give at least 1, which keeps every user and item.")
    if config.source == "simulator":
        return
    if not config.path:
        raise InputError(f"`path` is empty; `source: {config.source}` reads files, so say where they are.")
    for name, path in config.inputs().items():
        if not path.exists():
            raise InputError(f"{path} does not exist; correct `{name}`.")
    if config.source == "table":
        _check_columns(config.columns)


def _check_columns(columns: dict[str, str]) -> None:
    unknown = [key for key in columns if key not in COLUMNS]
    if unknown:
        raise InputError(f"`columns` has the unknown key {_listed(unknown)}; known keys: {_listed(COLUMNS)}.")
    missing = [key for key in ("user", "item") if key not in columns]
    if missing:
        raise InputError(f"`columns` lacks {_listed(missing)}; say which column of the file holds it.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _log(counts: dict[str, Any]) -> None:
    dropped = [f"{key} {value}" for key, value in counts.items() if "dropped" in key and value]
    logger.info(
        "%d users, %d items, %d interactions kept of %d, %d, %d; dropped: %s",
        *(counts[key] for key in ("users", "items", "interactions")),
        *(counts[key] for key in ("users_in", "items_in", "interactions_in")),
        ", ".join(dropped) or "nothing",
    )
    if "best_reachable_recall@10" in counts:
        logger.info(
            "the tastes are known: the best reachable is recall@10 %.4f, ndcg@10 %.4f (%d noise purchases)",
            *(counts[f"best_reachable_{name}"] for name in ("recall@10", "ndcg@10")),
            counts["noise_interactions"],
        )
