"""The data folder: the catalogue, who bought what in which order, and which purchase is for what.

Items are dense integers 0..N-1 everywhere in gream; raw ids live in the catalogue only. Legend: N items.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from gream import artifacts
from gream.data.columns import cut, text_lists
from gream.errors import InputError, NotFoundError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "validation", "test")

CATALOGUE_FILE = "catalogue.parquet"
INTERACTIONS_FILE = "interactions.parquet"
SPLITS_FILE = "splits.parquet"

_NAMED_IDS = 5  # unknown ids that an error message spells out before it only counts them


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What is known of every item; position i of every field belongs to dense item i.

    Text may be empty and categories may be (); categories run coarse to fine.
    """

    item_ids: list[str]
    titles: list[str]
    descriptions: list[str]
    brands: list[str]
    categories: list[tuple[str, ...]]
    prices: np.ndarray  # (N,) float32, NaN where unknown

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def index(self) -> dict[str, int]:
        """Raw id to dense item."""
        return {raw: item for item, raw in enumerate(self.item_ids)}

    def lookup(self, raw_ids: Sequence[str], where: str, *, suggest: bool = True) -> list[int]:
        """Translate raw ids to dense items, in order.

        Args:
            raw_ids: ids as the user's files spell them.
            where: what holds them, for the message: "the history", a file and line.
            suggest: name the nearest known id, which compares with all of them: worth its time where a
                person typed the id, not where a service may be flooded.

        Raises:
            NotFoundError: an id that the catalogue does not have.
        """
        unknown = list(dict.fromkeys(raw for raw in raw_ids if raw not in self.index))
        if unknown:
            named = ", ".join(f"`{raw}`" for raw in unknown[:_NAMED_IDS])
            more = f" and {len(unknown) - _NAMED_IDS} more" if len(unknown) > _NAMED_IDS else ""
            near = difflib.get_close_matches(str(unknown[0]), self.item_ids, n=1) if suggest else []
            hint = f" (nearest: `{near[0]}`)" if near else ""
            raise NotFoundError(
                f"{where} names {named}{more}, which the catalogue of {len(self):,} items does not have"
                f"{hint}; correct the ids, or run `gream data` on files that hold them."
            )
        return [self.index[raw] for raw in raw_ids]


@dataclass(frozen=True, eq=False)
class Case:
    """One question of an evaluation: after `history`, oldest first, `user` bought `target`."""

    user: int
    history: np.ndarray  # int64
    target: int


@dataclass(frozen=True, eq=False)
class Interactions:
    """Every user's purchases in order; `splits` says what each purchase may be used for."""

    user_ids: list[str]
    sequences: list[np.ndarray]  # one int64 array of items a user
    splits: list[np.ndarray]  # one int8 array a user: TRAIN, VALIDATION or TEST for each purchase

    def training_sequences(self) -> list[np.ndarray]:
        """Return every user's purchases that may be learnt from, and no other."""
        return [items[marks == TRAIN] for items, marks in zip(self.sequences, self.splits, strict=True)]

    def cases(self, split: int) -> list[Case]:
        """Return one case for each purchase of `split` that another one came before, in the order of users.

        The history is everything the user bought before; for TEST it includes the validation purchases, as
        in the papers' leave-one-out evaluation. A user may have no case, or several.
        """
        return [
            Case(user, items[:position], int(items[position]))
            for user, (items, marks) in enumerate(zip(self.sequences, self.splits, strict=True))
            for position in np.flatnonzero(marks == split)
            if position > 0
        ]


def save_dataset(
    folder: Path,
    catalogue: Catalogue,
    interactions: Interactions,
    *,
    timestamps: pl.Series | None = None,
    reviews: pl.Series | None = None,
) -> None:
    """Write the three files of a data folder.

    Args:
        folder: an existing folder, usually a draft of `artifacts.writing`.
        catalogue: the items.
        interactions: the users' purchases.
        timestamps: UNIX seconds of all purchases, user after user; null where unknown.
        reviews: what the users wrote of all purchases, user after user; null where nothing is known. Without
            it the interactions have no column `review`.
    """
    pl.DataFrame(
        {
            "item": np.arange(len(catalogue), dtype=np.int64),
            "item_id": pl.Series(catalogue.item_ids, dtype=pl.String),
            "title": pl.Series(catalogue.titles, dtype=pl.String),
            "description": pl.Series(catalogue.descriptions, dtype=pl.String),
            "brand": pl.Series(catalogue.brands, dtype=pl.String),
            "categories": text_lists(catalogue.categories),
            "price": pl.Series(np.asarray(catalogue.prices, dtype=np.float32)),
        }
    ).write_parquet(folder / CATALOGUE_FILE)
    lengths = np.array([len(items) for items in interactions.sequences], dtype=np.int64)
    user = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if timestamps is None:
        timestamps = pl.repeat(None, len(user), dtype=pl.Int64, eager=True)
    columns = {
        "user": pl.Series(user),
        "user_id": pl.Series(interactions.user_ids, dtype=pl.String).gather(user),
        "item": pl.Series(_flat(interactions.sequences, np.int64)),
        "position": pl.Series(position),
        "timestamp": timestamps.cast(pl.Int64),
    }
    if reviews is not None:
        columns["review"] = reviews.cast(pl.String)
    pl.DataFrame(columns).write_parquet(folder / INTERACTIONS_FILE)
    split = pl.Series(SPLIT_NAMES, dtype=pl.String).gather(_flat(interactions.splits, np.int64))
    pl.DataFrame({"user": user, "position": position, "split": split}).write_parquet(folder / SPLITS_FILE)


def load_catalogue(folder: Path) -> Catalogue:
    """Read the catalogue of a folder that `gream data` wrote.

    Raises:
        InputError: no such folder, or another stage's.
    """
    artifacts.read_manifest(folder, stage="data")
    frame = _read(folder / CATALOGUE_FILE).sort("item")
    return Catalogue(
        item_ids=frame["item_id"].to_list(),
        titles=frame["title"].to_list(),
        descriptions=frame["description"].to_list(),
        brands=frame["brand"].to_list(),
        categories=[tuple(path) for path in frame["categories"].to_list()],
        prices=frame["price"].to_numpy().astype(np.float32),
    )


def load_interactions(folder: Path) -> Interactions:
    """Read the purchases and splits of a folder that `gream data` wrote.

    Raises:
        InputError: no such folder, another stage's, or splits that do not fit the interactions.
    """
    artifacts.read_manifest(folder, stage="data")
    frame = _read(folder / INTERACTIONS_FILE).sort("user", "position")
    splits = _read(folder / SPLITS_FILE).sort("user", "position")
    if not frame.select("user", "position").equals(splits.select("user", "position")):
        raise InputError(
            f"{folder / SPLITS_FILE} does not list the purchases of {INTERACTIONS_FILE}; "
            "run `gream data` again."
        )
    marks = splits["split"].replace_strict(SPLIT_NAMES, [TRAIN, VALIDATION, TEST], return_dtype=pl.Int8)
    lengths = np.bincount(frame["user"].to_numpy())  # users are dense
    return Interactions(
        user_ids=frame["user_id"].gather(np.cumsum(lengths) - lengths).to_list(),
        sequences=cut(frame["item"].to_numpy().astype(np.int64), lengths),
        splits=cut(marks.to_numpy().astype(np.int8), lengths),
    )


def load_training_reviews(folder: Path) -> dict[int, list[str]]:
    """Read what was written of each item in purchases that may be learnt from, and no other.

    Returns:
        Dense item to its reviews, in the order of users; items without any are left out, which all are where
        the source knew no reviews.

    Raises:
        InputError: no such folder, or another stage's.
    """
    artifacts.read_manifest(folder, stage="data")
    frame = _read(folder / INTERACTIONS_FILE)
    if "review" not in frame.columns:
        return {}
    splits = _read(folder / SPLITS_FILE).filter(pl.col("split") == SPLIT_NAMES[TRAIN])
    written = (
        frame.join(splits, on=["user", "position"])
        .filter(pl.col("review").str.strip_chars() != "")
        .sort("user", "position")
        .group_by("item", maintain_order=True)
        .agg("review")
    )
    return dict(zip(written["item"].to_list(), written["review"].to_list(), strict=True))


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} is missing; run `gream data` again.")
    return pl.read_parquet(path)


def _flat(arrays: list[np.ndarray], dtype: type[np.generic]) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype=dtype)
