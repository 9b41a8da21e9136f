"""Readers: JSONL folders, CSV and Parquet files, and every way in which they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gream.data.sources import Source, clean_text, read_jsonl
from gream.data.tables import read_table
from gream.errors import InputError

ITEMS = [
    {"item_id": 1, "title": "Salt &amp; Pepper", "brand": "", "categories": ["Kitchen", "Spice"]},
    {"item_id": "B2", "title": "", "brand": None, "categories": [], "price": 3},
    {"item_id": "007", "title": "Two\n lines", "description": "5&#39;", "brand": "K", "price": 2.5},
]
SEQUENCES = [
    {"user_id": "u", "item_ids": ["007", 1], "timestamps": [50, None]},
    {"user_id": 7, "item_ids": ["B2", "007", 1], "timestamps": [9, 3, 3]},
]
COLUMNS = {"user": "who", "item": "sku", "time": "when", "title": "name"}


def _folder(tmp_path: Path, items: list[Any] = ITEMS, sequences: list[Any] = SEQUENCES) -> Path:
    for name, entries in (("items.jsonl", items), ("sequences.jsonl", sequences)):
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def _csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _bought(source: Source) -> list[tuple[str, str, int | None]]:
    return source.purchases.rows()


def test_jsonl_keeps_the_order_of_the_file_whatever_the_times_say(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path))
    assert _bought(source) == [
        ("u", "007", 50), ("u", "1", None), ("7", "B2", 9), ("7", "007", 3), ("7", "1", 3),
    ]  # fmt: skip


def test_jsonl_ids_become_text_and_items_keep_their_order(tmp_path: Path) -> None:
    assert read_jsonl(_folder(tmp_path)).items["item_id"].to_list() == ["1", "B2", "007"]


def test_jsonl_text_is_cleaned_and_missing_fields_are_empty(tmp_path: Path) -> None:
    items = read_jsonl(_folder(tmp_path)).items
    assert items["title"].to_list() == ["Salt & Pepper", "", "Two lines"]
    assert items["description"].to_list() == ["", "", "5'"]
    assert items["brand"].to_list() == ["", "", "K"]
    assert items["categories"].to_list() == [["Kitchen", "Spice"], [], []]
    assert items["price"].to_list() == [None, 3.0, 2.5]


def test_jsonl_counts_unknown_times_and_users_without_purchases(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path, sequences=[*SEQUENCES, {"user_id": "z", "item_ids": []}]))
    assert source.counts == {"users_without_purchases": 1, "interactions_without_time": 1}


def test_jsonl_without_any_times_counts_none_as_unknown(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path, sequences=[{"user_id": "u", "item_ids": [1]}]))
    assert source.counts["interactions_without_time"] == 0
    assert _bought(source) == [("u", "1", None)]


def test_blank_lines_are_no_lines(tmp_path: Path) -> None:
    assert len(read_jsonl(_folder(tmp_path, items=["", *ITEMS, "  "])).items) == 3


def test_text_that_is_no_valid_unicode_is_replaced() -> None:
    assert clean_text("a\ud800\u00a0&lt;b&gt;") == "a? <b>"


def test_truncated_line_is_named_by_number(tmp_path: Path) -> None:
    folder = _folder(tmp_path, sequences=[SEQUENCES[0], '{"user_id": "v", "item_ids": [1'])
    with pytest.raises(InputError, match=r"sequences\.jsonl, line 2 is no complete JSON object .*repair"):
        read_jsonl(folder)


def test_line_that_is_not_utf8_is_named_by_number(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "items.jsonl").write_bytes(b'{"item_id": "1"}\n{"item_id": "caf\xe9"}\n')
    with pytest.raises(InputError, match=r"items\.jsonl, line 2 is no complete JSON object"):
        read_jsonl(folder)


def test_unknown_item_is_named_with_file_and_line(tmp_path: Path) -> None:
    folder = _folder(tmp_path, sequences=[SEQUENCES[0], {"user_id": "v", "item_ids": [1, "B3"]}])
    with pytest.raises(InputError, match=r"sequences\.jsonl, line 2 names item `B3`, which items\.jsonl"):
        read_jsonl(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("[1]", r"line 1 is no JSON object"),
        ({"title": "x"}, r"line 1: `item_id` holds None; an id must be"),
        ({"item_id": 1.5}, r"line 1: `item_id` holds 1\.5"),
        ({"item_id": True}, r"line 1: `item_id` holds True"),
        ({"item_id": 1, "categories": "Kitchen"}, r"line 1: `categories` must be a list of texts"),
        ({"item_id": 1, "title": 5}, r"line 1: `title`, `description` and `brand` must be text"),
        ({"item_id": 1, "price": "$5"}, r"line 1: `price` is '\$5'; write a plain number"),
    ],
)
def test_faulty_item_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"items\.jsonl, " + message):
        read_jsonl(_folder(tmp_path, items=[entry]))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"user_id": "u"}, r"line 1: `item_ids` must be a list"),
        ({"item_ids": [1]}, r"line 1: `user_id` holds None"),
        ({"user_id": "u", "item_ids": [None]}, r"line 1: `item_ids` holds None"),
        ({"user_id": "u", "item_ids": [1], "timestamps": []}, r"line 1: `timestamps` must list one time"),
        ({"user_id": "u", "item_ids": [1], "timestamps": ["x"]}, r"line 1: `timestamps` must be UNIX"),
    ],
)
def test_faulty_sequence_is_refused(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"sequences\.jsonl, " + message):
        read_jsonl(_folder(tmp_path, sequences=[entry]))


def test_ids_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.jsonl gives item_id `1` twice"):
        read_jsonl(_folder(tmp_path, items=[*ITEMS, {"item_id": "1"}]))
    with pytest.raises(InputError, match=r"sequences\.jsonl gives user_id `u` twice"):
        read_jsonl(_folder(tmp_path, sequences=[SEQUENCES[0], SEQUENCES[0]]))


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.jsonl does not exist; `source: jsonl` needs a folder"):
        read_jsonl(tmp_path)
    with pytest.raises(InputError, match=r"sequences\.jsonl is empty"):
        read_jsonl(_folder(tmp_path, sequences=[]))


def test_table_sorts_each_user_by_time_and_keeps_the_order_of_ties(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "b,3,9,C", "a,1,5,A", "b,2,4,B", "a,3,5,", "b,1,4,A")
    source = read_table(path, None, COLUMNS)
    assert _bought(source) == [
        ("b", "2", 4), ("b", "1", 4), ("b", "3", 9), ("a", "1", 5), ("a", "3", 5),
    ]  # fmt: skip
    assert source.items["item_id"].to_list() == ["3", "1", "2"]  # order of first appearance in the file


def test_table_without_a_time_column_keeps_the_order_of_the_rows(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "b,3", "a,1", "b,2")
    assert _bought(read_table(path, None, {"user": "who", "item": "sku"})) == [
        ("b", "3", None), ("b", "2", None), ("a", "1", None),
    ]  # fmt: skip


def test_purchase_without_a_time_stays_behind_the_one_before_it(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "a,1,8,", "a,2,,", "a,3,2,", "b,4,,")
    source = read_table(path, None, COLUMNS)
    assert [item for _, item, _ in _bought(source)] == ["3", "1", "2", "4"]
    assert source.counts["interactions_without_time"] == 2


def test_csv_ids_stay_as_they_are_spelled(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "01,007")
    assert _bought(read_table(path, None, {"user": "who", "item": "sku"})) == [("01", "007", None)]


def test_an_items_first_text_that_is_not_empty_counts(tmp_path: Path) -> None:
    columns = {"user": "u", "item": "i", "title": "t", "category": "c", "price": "p"}
    path = _csv(tmp_path / "p.csv", "u,i,t,c,p", "a,1,,,", "b,1,Tea &amp; Co,Food > Tea,2.5", "c,1,Other,X,9")
    items = read_table(path, None, columns).items
    assert items.row(0) == ("1", "Tea & Co", "", "", ["Food", "Tea"], 2.5)


def test_items_file_gives_the_order_and_texts_of_items(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,2,1", "a,1,2")
    items = _csv(tmp_path / "i.csv", "sku,name", "9,Nine", "1,One", "2,Two")
    source = read_table(path, items, COLUMNS)
    assert source.items.select("item_id", "title").rows() == [("9", "Nine"), ("1", "One"), ("2", "Two")]
    assert [item for _, item, _ in _bought(source)] == ["2", "1"]


def test_parquet_dates_lists_and_float_ids_are_understood(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "who": [1.0, None, 2.0],
            "sku": [10, 11, 12],
            "when": pl.Series(["2024-01-02", "2024-01-01", "2024-01-01"]).str.to_date(),
            "path": [["A", "B"], ["A"], []],
        }
    )
    frame.write_parquet(tmp_path / "p.parquet")
    columns = {"user": "who", "item": "sku", "time": "when", "category": "path"}
    source = read_table(tmp_path / "p.parquet", None, columns)
    assert _bought(source) == [("1", "10", 1704153600), ("2", "12", 1704067200)]
    assert source.items["categories"].to_list() == [["A", "B"], []]
    assert source.counts["rows_without_user_or_item"] == 1


@pytest.mark.parametrize("text", ["1704164645", "2024-01-02 03:04:05", "2024-01-02T03:04:05Z"])
def test_times_of_a_csv_may_be_seconds_or_dates(tmp_path: Path, text: str) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", f"a,1,{text},")
    assert _bought(read_table(path, None, COLUMNS)) == [("a", "1", 1704164645)]


def test_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,article,when,name", "a,1,2,x")
    with pytest.raises(
        InputError, match=r"p\.csv has no column `sku` \(columns\.item\); it has who, article"
    ):
        read_table(path, None, COLUMNS)


def test_missing_column_of_the_items_file_is_named(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,1,2")
    items = _csv(tmp_path / "i.csv", "sku,label", "1,One")
    with pytest.raises(
        InputError, match=r"i\.csv has no column `name` \(columns\.title\); it has sku, label"
    ):
        read_table(path, items, COLUMNS)


def test_purchase_of_an_item_that_the_items_file_lacks_is_named_by_row(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,1,2", "a,5,3")
    items = _csv(tmp_path / "i.csv", "sku,name", "1,One")
    with pytest.raises(InputError, match=r"p\.csv, row 2 buys item `5`, which .*i\.csv does not have"):
        read_table(path, items, COLUMNS)


def test_item_given_twice_or_without_id_is_named_by_row(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,1,2")
    with pytest.raises(InputError, match=r"i\.csv, row 3 gives item `1` a second time"):
        read_table(path, _csv(tmp_path / "i.csv", "sku,name", "1,x", "2,y", "1,z"), COLUMNS)
    with pytest.raises(InputError, match=r"i\.csv, row 2 has no `sku`; name every item"):
        read_table(path, _csv(tmp_path / "i.csv", "sku,name", "1,x", ",y"), COLUMNS)


@pytest.mark.parametrize("text", ["yesterday", "nan", "inf"])
def test_value_that_is_no_time_is_named_by_row_and_column(tmp_path: Path, text: str) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "a,1,5,x", f"a,2,{text},y")
    with pytest.raises(InputError, match=rf"p\.csv, row 2: `{text}` in column `when` is no time; write UNIX"):
        read_table(path, None, COLUMNS)


def test_value_that_is_no_price_is_named_by_row_and_column(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,cost", "a,1,5", "a,2,$9")
    with pytest.raises(InputError, match=r"p\.csv, row 2: `\$9` in column `cost` is no price; write a plain"):
        read_table(path, None, {"user": "who", "item": "sku", "price": "cost"})


def test_line_with_too_many_fields_is_named_by_number(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "a,1", "a,2,3")
    with pytest.raises(InputError, match=r"p\.csv, line 3 \(3 fields, the header has 2\), cannot be read"):
        read_table(path, None, {"user": "who", "item": "sku"})


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"p\.parquet cannot be read; repair it or export it again"):
        read_table(tmp_path / "p.parquet", None, {"user": "who", "item": "sku"})


def test_column_of_lists_is_no_id(tmp_path: Path) -> None:
    pl.DataFrame({"who": [["a"]], "sku": ["1"]}).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"column `who` \(columns\.user\) holds lists"):
        read_table(tmp_path / "p.parquet", None, {"user": "who", "item": "sku"})


def test_missing_empty_and_strange_files_are_named(tmp_path: Path) -> None:
    columns = {"user": "who", "item": "sku"}
    with pytest.raises(InputError, match=r"p\.csv does not exist; correct the path"):
        read_table(tmp_path / "p.csv", None, columns)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv is empty"):
        read_table(tmp_path / "empty.csv", None, columns)
    with pytest.raises(InputError, match=r"header\.csv holds no row with a user and an item"):
        read_table(_csv(tmp_path / "header.csv", "who,sku"), None, columns)
    with pytest.raises(InputError, match=r"p\.xlsx ends in `\.xlsx`; give a \.csv or a \.parquet file"):
        read_table(_csv(tmp_path / "p.xlsx", "who,sku"), None, columns)
    path = _csv(tmp_path / "full.csv", "who,sku", "a,1")
    with pytest.raises(InputError, match=r"items\.csv holds no items"):
        read_table(path, _csv(tmp_path / "items.csv", "sku"), columns)
