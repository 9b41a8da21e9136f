"""Stage `data`: from purchases as they came to a catalogue, sequences and splits.

Deduplication, iterated k-core (keep.py) and leave-one-out (split.py) follow the usual preparation of the
Amazon review sets: 5-core; last purchase = test, last but one = validation. Dense item ids follow the order
of the item file (of first appearance in the purchases where there is none), dense users their first
appearance in the purchases; both count only what is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gream import artifacts
from gream.arguments import StageConfig, input_files, option
from gream.data import oracle, simulate
from gream.data.amazon import read_amazon_2014, read_amazon_2018, read_amazon_2023
from gream.data.keep import Prepared, prepare
from gream.data.lcrec import read_lcrec
from gream.data.minionerec import read_minionerec
from gream.data.movielens import read_movielens
from gream.data.recbole import read_recbole
from gream.data.simulate import Shop
from gream.data.sources import Source, read_jsonl
from gream.data.split import SPLITS
from gream.data.store import TEST, save_dataset
from gream.data.tables import COLUMNS, read_table
from gream.errors import InputError

logger = logging.getLogger(__name__)

STAGE = "data"
READERS: dict[str, Callable[[Path, Path | None], Source]] = {
    "jsonl": read_jsonl,
    "amazon2014": read_amazon_2014,
    "amazon2018": read_amazon_2018,
    "amazon2023": read_amazon_2023,
    "lcrec": read_lcrec,
    "minionerec": read_minionerec,
    "recbole": read_recbole,
    "movielens": read_movielens,
}
SOURCES = ("simulator", "table", *READERS)


@dataclass(kw_only=True)
class DataConfig(StageConfig):
    """Settings of `gream data`."""

    output: str = option("data", doc="name of the folder that this stage writes inside run_dir")
    source: str = option(
        "simulator", doc="who made the files; `gream data --inspect FILE` tells", from_environment=True
    )
    path: str = input_files("", doc="purchases: a file, or the folder of a set that has several")
    items_path: str = input_files("", doc="file with the items, where they are not in `path`")
    columns: dict[str, str] = option({}, doc=f"table: our name to the file's column ({', '.join(COLUMNS)})")
    max_unusable: float = option(0.05, doc="largest share of rows that may be unusable")
    core: int = option(5, doc="keep users and items with at least this many purchases, iterated; 1 keeps all")
    deduplicate: bool = option(True, doc="keep only the first purchase of the same item by the same user")
    shuffle_ties: bool = option(False, doc="whether purchases of a user at one time are put in random order")
    split: str = option("leave_one_out", doc="leave_one_out, or temporal: 8:1:1 by time over all purchases")
    validation_users: int = option(
        0, doc="leave_one_out: users, drawn at random, whose last purchase but one validates; 0: all"
    )
    num_items: int = option(400, doc="simulator: items in the shop")
    num_customers: int = option(3000, doc="simulator: customers")
    noise: float = option(0.12, doc="simulator: share of purchases that follow no taste")


CONFIG = DataConfig


def run(config: DataConfig) -> None:
    """Read or simulate purchases, prepare them and write the data folder.

    Raises:
        InputError: settings that contradict each other, anything the readers refuse, too many rows that
            cannot be used, or nothing left.
    """
    _check(config)
    with artifacts.writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        shop = _simulated(config) if config.source == "simulator" else None
        source = shop.source() if shop else _read(config)
        for line in source.unusable.lines():
            logger.info("%s", line)
        source.unusable.check(config.max_unusable, "max_unusable")
        draft.counts["rows_unusable"] = source.unusable.counts
        prepared = _prepared(source, config)
        draft.counts.update(prepared.counts)
        save_dataset(
            draft.path,
            prepared.catalogue,
            prepared.interactions,
            timestamps=prepared.timestamps,
            reviews=prepared.reviews,
        )
        if shop:
            draft.counts.update(_save_truth(draft.path, shop, prepared))
    _log(draft.counts, config.shuffle_ties)


def look(config: DataConfig) -> Prepared:
    """Read or simulate purchases and prepare them, and write nothing.

    Raises:
        InputError: as `run`.
    """
    _check(config)
    source = _simulated(config).source() if config.source == "simulator" else _read(config)
    source.unusable.check(config.max_unusable, "max_unusable")
    return _prepared(source, config)


def _prepared(source: Source, config: DataConfig) -> Prepared:
    return prepare(
        source,
        core=config.core,
        deduplicate=config.deduplicate,
        split=config.split,
        validation_users=config.validation_users,
        seed=config.seed,
        shuffle_ties=config.shuffle_ties,
    )


def _simulated(config: DataConfig) -> Shop:
    return simulate.simulate(
        num_items=config.num_items, num_customers=config.num_customers, noise=config.noise, seed=config.seed
    )


def _read(config: DataConfig) -> Source:
    path, items_path = config.locate("path"), config.locate("items_path") if config.items_path else None
    if config.source == "table":
        return read_table(path, items_path, config.columns)
    return READERS[config.source](path, items_path)


def _save_truth(folder: Path, shop: Shop, prepared: Prepared) -> dict[str, Any]:
    """Write the simulator's truth; return the noise kept and what the oracle reaches on the test."""
    lengths = [len(items) for items in prepared.interactions.sequences]
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    simulate.save_truth(folder, shop, prepared.rows, user, position)
    customer, place = np.nonzero(shop.bought >= 0)
    is_noise = shop.is_noise[customer, place][prepared.rows]
    counts: dict[str, Any] = {"noise_interactions": int(is_noise.sum())}
    tested = prepared.rows[(np.concatenate(prepared.interactions.splits) == TEST) & (position > 0)]
    if not len(tested):
        return counts
    kept = np.zeros(len(shop.category_of), dtype=bool)
    kept[prepared.items] = True
    best = oracle.best_reachable(shop, customer[tested], place[tested], kept=kept)
    return counts | {f"best_reachable_{name}": round(value, 4) for name, value in best.items()}


def _check(config: DataConfig) -> None:
    """Refuse settings that cannot work before anything is read."""
    if config.source not in SOURCES:
        raise InputError(f"`source` is {config.source!r}; choose one of {_listed(SOURCES)}.")
    if config.split not in SPLITS:
        raise InputError(f"`split` is {config.split!r}; choose one of {_listed(SPLITS)}.")
    if not 0 <= config.max_unusable <= 1:
        raise InputError(f"`max_unusable` is {config.max_unusable}, but it is a share of rows; give 0 to 1.")
    if config.validation_users < 0 or (config.validation_users and config.split != "leave_one_out"):
        raise InputError(
            f"`validation_users` is {config.validation_users} and `split` is `{config.split}`; give a number "
            "of at least 0, and one above it with `split: leave_one_out` alone."
        )
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


def _log(counts: dict[str, Any], shuffled: bool) -> None:
    dropped = [f"{key} {value}" for key, value in counts.items() if "dropped" in key and value]
    logger.info(
        "%d users, %d items, %d interactions kept of %d, %d, %d; dropped: %s",
        *(counts[key] for key in ("users", "items", "interactions")),
        *(counts[key] for key in ("users_in", "items_in", "interactions_in")),
        ", ".join(dropped) or "nothing",
    )
    if counts["targets_tied"] and not shuffled:
        logger.info(
            "%d test purchases have the same time as the one before: their order is that of the file, "
            "which may tell what comes next; `shuffle_ties: true` puts them in random order",
            counts["targets_tied"],
        )
    if "best_reachable_recall@10" in counts:
        logger.info(
            "the tastes are known: the best reachable is recall@10 %.4f, ndcg@10 %.4f (%d noise purchases)",
            *(counts[f"best_reachable_{name}"] for name in ("recall@10", "ndcg@10")),
            counts["noise_interactions"],
        )
