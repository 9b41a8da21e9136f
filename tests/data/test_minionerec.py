"""Reader of MiniOneRec's CSV files: sequences rebuilt from rows that each show a part of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.minionerec import Row, read_minionerec, rebuilt
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.errors import InputError

HEADER = [
    "user_id",
    "history_item_title",
    "item_title",
    "history_item_id",
    "item_id",
    "history_item_sid",
    "item_sid",
]
TITLES = {7: "Gorilla &amp; Glue", 8: 'Tape, 2"', 9: 'Kid\'s "Base"', 10: "Saw"}


def _row(user: str, history: list[int], item: int) -> list[str]:
    titles = [TITLES.get(i, f"Title {i}") for i in history]
    sids = [f"<a_{i}><b_1>" for i in history]
    return [
        user,
        str(titles),
        TITLES.get(item, f"Title {item}"),
        str(history),
        str(item),
        str(sids),
        f"<a_{item}><b_1>",
    ]


def _write(path: Path, rows: list[list[str]], header: list[str] = HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([header, *rows])


def _folder(
    folder: Path, train: Any, valid: Any, test: Any, name: str = "Office_5_2016-10-2018-11.csv"
) -> Path:
    for split, rows in (("train", train), ("valid", valid), ("test", test)):
        _write(folder / split / name, rows)
    return folder


def _sequences(source: Source) -> dict[str, list[str]]:
    return {
        str(user): rows["item_id"].to_list()
        for (user,), rows in source.purchases.group_by(["user_id"], maintain_order=True)
    }


def test_each_purchase_stands_once_in_the_sequence(tmp_path: Path) -> None:
    # Training rows run backwards, as the published files have them; the first item of all is no row's target.
    train = [_row("A1", [7, 8], 9), _row("A1", [7], 8)]
    source = read_minionerec(
        _folder(tmp_path, train, [_row("A1", [7, 8, 9], 7)], [_row("A1", [7, 8, 9, 7], 10)]), None
    )
    assert _sequences(source) == {"A1": ["7", "8", "9", "7", "10"]}
    assert dict(source.items.schema) == ITEM_SCHEMA and dict(source.purchases.schema) == PURCHASE_SCHEMA
    assert source.purchases["timestamp"].null_count() == 5
    titles = dict(source.items.select("item_id", "title").rows())
    assert titles == {"7": "Gorilla & Glue", "8": 'Tape, 2"', "9": 'Kid\'s "Base"', "10": "Saw"}
    assert source.counts["sequences_with_gaps"] == 0 and source.unusable.rows == 4


def test_a_history_that_was_cut_is_joined_to_what_came_before(tmp_path: Path) -> None:
    # Histories of at most 3: 1 2 3 4 5 6 7.
    train = [_row("u", [2, 3, 4], 5), _row("u", [1, 2, 3], 4), _row("u", [1, 2], 3), _row("u", [1], 2)]
    folder = _folder(tmp_path, train, [_row("u", [3, 4, 5], 6)], [_row("u", [4, 5, 6], 7)])
    assert _sequences(read_minionerec(folder, None)) == {"u": list("1234567")}


def test_rows_that_are_missing_are_bridged_or_told(tmp_path: Path) -> None:
    joined = _folder(
        tmp_path / "a", [_row("u", [1], 2)], [_row("u", [1, 2, 3], 4)], [_row("u", [3, 4, 5], 6)]
    )
    source = read_minionerec(joined, None)
    assert _sequences(source) == {"u": list("123456")} and source.counts["sequences_with_gaps"] == 0
    apart = _folder(tmp_path / "b", [_row("u", [1], 2)], [_row("u", [1, 2], 3)], [_row("u", [7, 8, 9], 6)])
    source = read_minionerec(apart, None)
    assert _sequences(source) == {"u": list("1237896")} and source.counts["sequences_with_gaps"] == 1


def test_times_are_kept_where_they_are_known(tmp_path: Path) -> None:
    header = ["user_id", "item_id", "history_item_id", "timestamp", "history_timestamp"]
    rows = [
        ["u", "2", "[1]", "20", "[10]"],
        ["u", "3", "[1, 2]", "30.0", "[10, 20]"],
        ["u", "4", "[1, 2, 3]", "", "[10, 20, 30]"],
    ]
    for split, row in zip(("train", "valid", "test"), rows, strict=True):
        _write(tmp_path / f"toys.{split}.csv", [row], header)
    source = read_minionerec(tmp_path, None)
    assert source.purchases["timestamp"].to_list() == [10, 20, 30, None]
    assert source.items["title"].to_list() == [""] * 4


def test_one_of_several_sets_is_named_by_its_train_file(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        _folder(tmp_path, [_row(name, [7], 8)], [_row(name, [7, 8], 9)], [_row(name, [7, 8, 9], 10)], name)
    with pytest.raises(InputError, match="one CSV file of `train` rows, but has `a.csv`, `b.csv`"):
        read_minionerec(tmp_path, None)
    assert list(_sequences(read_minionerec(tmp_path / "train" / "b.csv", None))) == ["b.csv"]
    with pytest.raises(InputError, match="is no file of `train` rows"):
        read_minionerec(tmp_path / "test" / "b.csv", None)


def test_an_item_file_adds_what_the_rows_lack(tmp_path: Path) -> None:
    folder = _folder(tmp_path, [_row("u", [7], 8)], [_row("u", [7, 8], 9)], [_row("u", [7, 8, 9], 10)])
    items = tmp_path / "Office.item.json"
    items.write_text(
        json.dumps({"7": {"title": "Better", "brand": "K"}, "8": {"title": "", "categories": "A,B"}})
    )
    rows = {row[0]: row[1:] for row in read_minionerec(folder, items).items.rows()}
    assert rows["7"] == ("Better", "", "K", [], None)
    assert rows["8"] == ('Tape, 2"', "", "", ["A", "B"], None)
    assert rows["10"] == ("Saw", "", "", [], None)


@pytest.mark.parametrize(
    "history",
    [
        "__import__('os').system('touch {path}')", "[__import__('os').system('touch {path}')]", "[" * 10_000,
        "[" + "-" * 90_000 + "1]", "[1, None]", "[1.5]", "(1,)", "{1}", "", "[1", "1",
    ],
)  # fmt: skip
def test_hostile_histories_are_counted_and_not_run(tmp_path: Path, history: str) -> None:
    target = tmp_path / "run"
    bad = _row("u", [7], 8)
    bad[3] = history.replace("{path}", str(target))
    source = read_minionerec(_folder(tmp_path, [bad], [_row("u", [7], 8)], [_row("u", [7, 8], 9)]), None)
    assert source.unusable.counts == {"no list of earlier items": 1}
    assert _sequences(source) == {"u": ["7", "8", "9"]} and not target.exists()


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    good = _row("u", [7], 8)
    rows = [good, good, ["", *good[1:]], [*good[:4], "", *good[5:]], good[:3], [*good, "more"]]
    folder = _folder(tmp_path, rows, [_row("u", [7, 8], 9)], [_row("u", [7, 8, 9], 10)])
    with (folder / "train" / "Office_5_2016-10-2018-11.csv").open("a") as handle:
        handle.write('u,"an open quote\nswallows\nlines')
    source = read_minionerec(folder, None)
    assert source.unusable.counts == {
        "the same row again": 1, "no user id": 1, "no item id": 1, "not 7 fields": 5,
    }  # fmt: skip
    assert source.unusable.rows == 11


def test_missing_files_and_columns_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one CSV file of `train` rows, but has none"):
        read_minionerec(tmp_path, None)
    _folder(tmp_path, [], [], [])
    with pytest.raises(InputError, match="No row can be used"):
        read_minionerec(tmp_path, None)
    _write(tmp_path / "train" / "Office_5_2016-10-2018-11.csv", [], ["user_id", "item_id"])
    with pytest.raises(InputError, match="has no column `history_item_id`; it has user_id, item_id"):
        read_minionerec(tmp_path, None)
    (tmp_path / "train" / "Office_5_2016-10-2018-11.csv").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_minionerec(tmp_path, None)


SEQUENCE = st.lists(st.integers(0, 30), min_size=2, max_size=14, unique=True)


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), SEQUENCE, min_size=1),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_sequences_are_rebuilt_from_rows_in_any_order(
    sequences: dict[str, list[int]], longest: int, random: Any
) -> None:
    """Every row but a user's first purchase, histories cut to `longest`, training rows shuffled."""
    splits: dict[str, list[list[str]]] = {"train": [], "valid": [], "test": []}
    for user, items in sequences.items():
        for place in range(1, len(items)):
            split = {len(items) - 1: "test", len(items) - 2: "valid"}.get(place, "train")
            splits[split].append(_row(user, items[max(0, place - longest) : place], items[place]))
    random.shuffle(splits["train"])
    with TemporaryDirectory() as folder:
        source = read_minionerec(_folder(Path(folder), **splits), None)
    assert _sequences(source) == {user: list(map(str, items)) for user, items in sequences.items()}
    assert source.unusable.rows == sum(map(len, splits.values())) and source.unusable.total == 0
    assert source.counts["sequences_with_gaps"] == 0 and source.counts["items_without_metadata"] == 0


def test_purchases_of_the_same_item_are_told_apart_by_their_histories() -> None:
    # a b a a c, histories of at most 2
    shown = ["ab", "aba", "baa", "aac"]
    rows = [Row(tuple(items), (None,) * len(items)) for items in reversed(shown)]
    assert rebuilt(rows) == (list("abaac"), [None] * 5, True)


FIELD = st.sampled_from(["u", "v", "", "1", "2", "[1]", "[1, 2]", "[", '"', "x\ny"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(FIELD, min_size=6, max_size=8), max_size=12))
def test_rows_in_are_rows_used_and_rows_left_out(rows: list[list[str]]) -> None:
    """A user's first row brings its history and its target, so rows are counted by what was read."""
    with TemporaryDirectory() as folder:
        source = read_minionerec(_folder(Path(folder), rows, [_row("w", [7], 8)], []), None)
    lines = sum(1 if len(row) == 7 else 1 + sum(field.count("\n") for field in row) for row in rows) + 1
    good = {
        (row[0], row[3], row[4]) for row in rows
        if len(row) == 7 and row[0] and row[4] and row[3] in ("[1]", "[1, 2]")
    }  # fmt: skip
    assert source.unusable.rows == lines
    assert source.unusable.rows - source.unusable.total == len(good) + 1
    assert set(source.purchases["item_id"]) == set(source.items["item_id"])
