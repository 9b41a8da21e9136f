"""The data folder: what is written is what is read, and splits say what a purchase may be used for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream import artifacts
from gream.data.store import (
    SPLITS_FILE,
    TEST,
    TRAIN,
    VALIDATION,
    Catalogue,
    Interactions,
    load_catalogue,
    load_interactions,
    save_dataset,
)
from gream.errors import InputError

SHOP = Catalogue(
    item_ids=["item-9", "a1", "007"],
    titles=["Printer", "", "Tent"],
    descriptions=["Prints.", "", "Caf\u00e9 tent."],
    brands=["Volta", "", "Kesk"],
    categories=[("office", "printers"), (), ("camping",)],
    prices=np.array([19.5, np.nan, 3.0], dtype=np.float32),
)
# User 0 buys 2, 0, 1, 2; user 1 buys 1, 0, 2.
BOUGHT = Interactions(
    user_ids=["zoe", "al"],
    sequences=[np.array([2, 0, 1, 2]), np.array([1, 0, 2])],
    splits=[
        np.array([TRAIN, TRAIN, VALIDATION, TEST], dtype=np.int8),
        np.array([TRAIN, VALIDATION, TEST], dtype=np.int8),
    ],
)


def _save(
    folder: Path,
    stage: str = "data",
    *,
    bought: Interactions = BOUGHT,
    timestamps: pl.Series | None = None,
    reviews: pl.Series | None = None,
) -> Path:
    with artifacts.writing(folder, stage=stage, config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, SHOP, bought, timestamps=timestamps, reviews=reviews)
    return folder


def test_catalogue_reads_back_as_it_was_written(tmp_path: Path) -> None:
    read = load_catalogue(_save(tmp_path / "data"))
    assert read.item_ids == SHOP.item_ids
    assert (read.titles, read.descriptions, read.brands) == (SHOP.titles, SHOP.descriptions, SHOP.brands)
    assert read.categories == SHOP.categories
    assert read.prices.dtype == np.float32
    np.testing.assert_array_equal(read.prices, SHOP.prices)


def test_interactions_read_back_as_they_were_written(tmp_path: Path) -> None:
    read = load_interactions(_save(tmp_path / "data"))
    assert read.user_ids == ["zoe", "al"]
    assert [items.tolist() for items in read.sequences] == [[2, 0, 1, 2], [1, 0, 2]]
    assert [marks.tolist() for marks in read.splits] == [[0, 0, 1, 2], [0, 1, 2]]
    assert {items.dtype for items in read.sequences} == {np.dtype(np.int64)}
    assert {marks.dtype for marks in read.splits} == {np.dtype(np.int8)}


def test_files_hold_positions_split_names_and_unknown_times(tmp_path: Path) -> None:
    times = pl.Series([5, 6, None, 8, 1, 2, 3])
    folder = _save(tmp_path / "data", timestamps=times)
    rows = pl.read_parquet(folder / "interactions.parquet")
    assert rows.columns == ["user", "user_id", "item", "position", "timestamp"]
    assert rows["position"].to_list() == [0, 1, 2, 3, 0, 1, 2]
    assert rows["timestamp"].to_list() == [5, 6, None, 8, 1, 2, 3]
    assert pl.read_parquet(folder / SPLITS_FILE)["split"].to_list() == [
        "train", "train", "validation", "test", "train", "validation", "test",
    ]  # fmt: skip


def test_training_sequences_hold_no_validation_or_test_purchase() -> None:
    assert [items.tolist() for items in BOUGHT.training_sequences()] == [[2, 0], [1]]


def test_test_case_sees_the_validation_purchase_and_validation_case_does_not_see_the_test() -> None:
    test = [(case.user, case.history.tolist(), case.target) for case in BOUGHT.cases(TEST)]
    validation = [(case.user, case.history.tolist(), case.target) for case in BOUGHT.cases(VALIDATION)]
    assert test == [(0, [2, 0, 1], 2), (1, [1, 0], 2)]
    assert validation == [(0, [2, 0], 1), (1, [1], 0)]


# User 0 has only test purchases, user 1 one purchase, user 2 none to learn from and one of each other part.
UNEVEN = Interactions(
    user_ids=["a", "b", "c", "d"],
    sequences=[np.array([0, 1, 2]), np.array([1]), np.array([2, 0]), np.array([0, 1])],
    splits=[
        np.array([TEST, TEST, TEST], dtype=np.int8),
        np.array([TRAIN], dtype=np.int8),
        np.array([VALIDATION, TEST], dtype=np.int8),
        np.array([TRAIN, TRAIN], dtype=np.int8),
    ],
)


def test_users_may_have_no_or_several_test_purchases_and_nothing_to_learn_from() -> None:
    assert [items.tolist() for items in UNEVEN.training_sequences()] == [[], [1], [], [0, 1]]
    assert [(c.user, c.history.tolist(), c.target) for c in UNEVEN.cases(TEST)] == [
        (0, [0], 1), (0, [0, 1], 2), (2, [2], 0),
    ]  # fmt: skip


def test_a_purchase_that_nothing_came_before_is_no_case() -> None:
    assert UNEVEN.cases(VALIDATION) == []


def test_uneven_interactions_read_back_as_they_were_written(tmp_path: Path) -> None:
    read = load_interactions(_save(tmp_path / "data", bought=UNEVEN))
    assert [items.tolist() for items in read.sequences] == [[0, 1, 2], [1], [2, 0], [0, 1]]
    assert [marks.tolist() for marks in read.splits] == [[2, 2, 2], [0], [1, 2], [0, 0]]


def test_reviews_stand_beside_their_purchases(tmp_path: Path) -> None:
    reviews = pl.Series(["good", None, "", "caf\u00e9", None, None, "x"])
    rows = pl.read_parquet(_save(tmp_path / "data", reviews=reviews) / "interactions.parquet")
    assert rows["review"].to_list() == reviews.to_list()


def test_lookup_translates_in_order() -> None:
    assert SHOP.lookup(["007", "item-9", "007"], "the history") == [2, 0, 2]


def test_lookup_names_unknown_ids_and_the_nearest_known_one() -> None:
    with pytest.raises(
        InputError,
        match=r"the history names `item-8`, which the catalogue of 3 items does not have .*`item-9`",
    ):
        SHOP.lookup(["a1", "item-8"], "the history")


def test_lookup_counts_unknown_ids_beyond_the_fifth() -> None:
    with pytest.raises(InputError, match=r"`u0`, `u1`, `u2`, `u3`, `u4` and 2 more"):
        SHOP.lookup([f"u{i}" for i in range(7)], "the history")


def test_folder_of_another_stage_is_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path / "text", stage="text")
    with pytest.raises(InputError, match=r"was written by `gream text`, but the output of `gream data`"):
        load_catalogue(folder)
    with pytest.raises(InputError, match=r"was written by `gream text`"):
        load_interactions(folder)


def test_missing_file_is_named(tmp_path: Path) -> None:
    folder = _save(tmp_path / "data")
    (folder / SPLITS_FILE).unlink()
    with pytest.raises(InputError, match=r"splits\.parquet is missing, damaged or changed since"):
        load_interactions(folder)


def test_splits_of_other_purchases_are_refused(tmp_path: Path) -> None:
    folder = _save(tmp_path / "data")
    shorter = pl.read_parquet(folder / SPLITS_FILE).head(6)
    with artifacts.writing(tmp_path / "other", stage="data", config={}, inputs={}, seed=0) as draft:
        for file in folder.glob("*.parquet"):
            (draft.path / file.name).write_bytes(file.read_bytes())
        shorter.write_parquet(draft.path / SPLITS_FILE)
    with pytest.raises(InputError, match=r"splits\.parquet does not list the purchases of interactions"):
        load_interactions(tmp_path / "other")
