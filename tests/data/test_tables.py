"""A person's own CSV, TSV, Parquet and JSON-lines files, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.sources import Source
from gream.data.tables import read_table, unix_seconds
from gream.errors import InputError

COLUMNS = {"user": "who", "item": "sku", "time": "when", "title": "name"}
PAIR = {"user": "who", "item": "sku"}
TIMED = {**PAIR, "time": "when"}


def _csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _jsonl(path: Path, *entries: Any) -> Path:
    return _csv(path, *(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries))


def _bought(source: Source) -> list[tuple[str, str, int | None]]:
    return source.purchases.select("user_id", "item_id", "timestamp").rows()


def test_table_sorts_each_user_by_time_and_keeps_the_order_of_ties(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "b,3,9,C", "a,1,5,A", "b,2,4,B", "a,3,5,", "b,1,4,A")
    source = read_table(path, None, COLUMNS)
    assert _bought(source) == [
        ("b", "2", 4), ("b", "1", 4), ("b", "3", 9), ("a", "1", 5), ("a", "3", 5),
    ]  # fmt: skip
    assert source.items["item_id"].to_list() == ["3", "1", "2"]  # order of first appearance in the file


def test_table_without_a_time_column_keeps_the_order_of_the_rows(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "b,3", "a,1", "b,2")
    assert _bought(read_table(path, None, PAIR)) == [
        ("b", "3", None), ("b", "2", None), ("a", "1", None),
    ]  # fmt: skip


def test_purchase_without_a_time_stays_behind_the_one_before_it(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "a,1,8,", "a,2,,", "a,3,2,", "b,4,,")
    source = read_table(path, None, COLUMNS)
    assert [item for _, item, _ in _bought(source)] == ["3", "1", "2", "4"]
    assert source.counts["interactions_without_time"] == 2


def test_csv_ids_stay_as_they_are_spelled(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "01,007")
    assert _bought(read_table(path, None, PAIR)) == [("01", "007", None)]


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
    assert source.unusable.counts == {"no user or item id": 1} and source.unusable.rows == 3


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


def test_purchase_of_an_item_that_the_items_file_lacks_is_counted(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,1,2", "a,5,3")
    source = read_table(path, _csv(tmp_path / "i.csv", "sku,name", "1,One"), COLUMNS)
    assert _bought(source) == [("a", "1", 2)]
    reason = "item that the items file does not have"
    assert source.unusable.shown == {reason: [f"{path}, row 2: '5'"]}
    assert source.unusable.rows == 3  # of both files


def test_of_an_item_given_twice_the_first_row_counts_and_one_needs_an_id(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when", "a,1,2")
    items = _csv(tmp_path / "i.csv", "sku,name", "1,x", ",y", "2,y", "1,z", "   ,w")
    source = read_table(path, items, COLUMNS)
    assert source.items.select("item_id", "title").rows() == [("1", "x"), ("2", "y")]
    assert source.unusable.shown == {
        "no item id": [f"{items}, row 2", f"{items}, row 5"],
        "item id given before": [f"{items}, row 4: '1'"],
    }


@pytest.mark.parametrize("text", ["yesterday", "nan", "inf", "2024-13-01", "1e30"])
def test_purchase_with_a_value_that_is_no_time_is_counted(tmp_path: Path, text: str) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,name", "a,1,5,x", f"a,2,{text},y")
    source = read_table(path, None, COLUMNS)
    assert source.unusable.shown == {"unreadable time": [f"{path}, row 2: '{text}'"]}
    assert _bought(source) == [("a", "1", 5)]
    assert source.items["item_id"].to_list() == ["1"]  # what nobody bought is no item


@pytest.mark.parametrize("text", ["$9", "nan", "-3", "free"])
def test_price_that_cannot_be_read_is_unknown_and_its_row_stays(tmp_path: Path, text: str) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,cost", "a,1,5", f"a,2,{text}", "b,2,4")
    source = read_table(path, None, {**PAIR, "price": "cost"})
    assert source.items["price"].to_list() == [5.0, 4.0]  # the first that can be read
    assert source.counts["prices_unreadable"] == 1
    assert len(source.purchases) == 3 and source.unusable.total == 0


def test_broken_lines_of_a_csv_cost_only_themselves(tmp_path: Path) -> None:
    lines = ["who,sku", "a,1", "a,2,3", "", "b,1", 'c,"1"2', 'd,"x', "y", "z", 'w",9,9', "e,7", ",", "f"]
    source = read_table(_csv(tmp_path / "p.csv", *lines), None, PAIR)
    assert _bought(source) == [("a", "1", None), ("b", "1", None), ("e", "7", None)]
    # Line 3; line 6; lines 7 to 10, which are one record; line 13, which has no item.
    assert source.unusable.counts == {
        "more fields than the header": 1 + 4,
        "broken quotes": 1,
        "no user or item id": 1,
    }
    assert source.unusable.rows == 3 + 7
    assert source.unusable.shown["more fields than the header"] == [
        f"{tmp_path}/p.csv, line 3: 3 fields, the header has 2",
        f"{tmp_path}/p.csv, line 7: 4 fields, the header has 2",
    ]


def test_quote_that_never_closes_counts_every_line_that_it_swallows(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku", "a,1", 'b,"2', "c,3", "d,4")
    source = read_table(path, None, PAIR)
    assert _bought(source) == [("a", "1", None)]
    assert source.unusable.counts == {"broken quotes": 3} and source.unusable.rows == 4


def test_id_that_is_no_utf8_is_counted_and_other_text_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"who,sku,name\na,1,caf\xe9\nb,\xe9,x\n")
    source = read_table(tmp_path / "p.csv", None, {**PAIR, "title": "name"})
    assert source.items.select("item_id", "title").rows() == [("1", "caf\ufffd")]
    assert source.unusable.shown == {"id that is no UTF-8": [f"{tmp_path}/p.csv, line 3"]}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("p.tsv", ["who\tsku", "a,b\t1", "c\t2"]),
        ("p.csv", ["who;sku", "a,b;1", "c;2"]),
        ("p.CSV", ['"who"|sku', "a,b|1", "c|2"]),
        ("p.csv", ["\ufeffwho,sku,x;y", '"a,b",1,', "c,2,", ",,"]),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_separators_are_those_of_the_header_and_gzip_is_unpacked(
    tmp_path: Path, name: str, lines: list[str], packed: bool
) -> None:
    path = _csv(tmp_path / name, *lines)
    if packed:
        path = path.with_name(f"{name}.gz")
        path.write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    source = read_table(path, None, PAIR)
    assert _bought(source) == [("a,b", "1", None), ("c", "2", None)]
    assert (source.unusable.rows, source.unusable.total) == (2, 0)  # a line of nothing but commas is blank


def test_damaged_gzip_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b"who,sku\n" + b"a,1\n" * 99)
    (tmp_path / "p.csv.gz").write_bytes(packed[:-9])
    with pytest.raises(InputError, match=r"p\.csv\.gz ends early or is damaged"):
        read_table(tmp_path / "p.csv.gz", None, PAIR)


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "p.ndjson", "p.jsonl.gz"])
def test_json_lines_are_read_value_by_value(tmp_path: Path, name: str) -> None:
    entries = [
        {
            "who": "a",
            "sku": 7,
            "when": 1704164645,
            "name": "Tea &amp; Co",
            "path": ["Food", "Tea"],
            "cost": 2,
        },
        {
            "who": "a",
            "sku": "8",
            "when": "2024-01-02",
            "path": "Food > Jam",
            "name": ["Fine", "jam"],
            "x": {},
        },
        {"who": 3, "sku": "7", "when": None},
        {"who": None, "sku": "7"},
        {"who": 1.5, "sku": "7"},
        {"who": "a", "sku": "7", "name": {"en": "Tea"}},
        '{"who": "a", "sku',
    ]
    path = _jsonl(tmp_path / "p.jsonl", *entries)
    if name != path.name:
        text = path.read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    source = read_table(tmp_path / name, None, {**COLUMNS, "category": "path", "price": "cost"})
    assert _bought(source) == [("a", "8", 1704153600), ("a", "7", 1704164645), ("3", "7", None)]
    assert source.items.select("item_id", "title", "categories", "price").rows() == [
        ("7", "Tea & Co", ["Food", "Tea"], 2.0),
        ("8", "Fine jam", ["Food", "Jam"], None),
    ]
    assert source.unusable.counts == {
        "`user` of the wrong type": 1,
        "`title` of the wrong type": 1,
        "no complete JSON object": 1,
        "no user or item id": 1,
    }
    assert source.unusable.rows == 7


def test_what_users_wrote_stays_with_their_purchases(tmp_path: Path) -> None:
    path = _csv(tmp_path / "p.csv", "who,sku,when,said", "a,1,9,late &lt;3", "a,2,1,", "b,1,1,  ok  ")
    source = read_table(path, None, {**PAIR, "time": "when", "review": "said"})
    assert source.purchases["review"].to_list() == [None, "late <3", "ok"]


@pytest.mark.parametrize(
    ("given_time", "seconds"),
    [
        (1704164645, 1704164645),
        (1704164645999, 1704164645),
        (1704164645999999, 1704164645),
        (1704164645999999999, 1704164645),
        (-1.5, -2),
        (0, 0),
        (99_999_999_999, 99_999_999_999),
        (100_000_000_000, 100_000_000),
        (float("inf"), None),
        (float("nan"), None),
        (1e21, None),
        (None, None),
    ],
)
def test_unit_of_a_time_is_told_by_its_size(given_time: float | None, seconds: int | None) -> None:
    dtype = pl.Int64 if isinstance(given_time, int) else pl.Float64
    assert unix_seconds(pl.Series([given_time], dtype=dtype)).to_list() == [seconds]


CELLS = st.sampled_from(["a", "b", "1", "2", "", " ", "x", "5", "2024-01-01", '"', "a;b", "\t", "\u00e9"])
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4), min_size=1, max_size=12)


@settings(deadline=None)
@given(rows=ROWS, items=ROWS, has_items=st.booleans())
def test_rows_in_are_rows_kept_and_rows_left_out(
    rows: list[list[str]], items: list[list[str]], has_items: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = _csv(Path(folder) / "p.csv", "who,sku,when", *(",".join(row) for row in rows))
        items_path = _csv(Path(folder) / "i.csv", "sku,name", *(",".join(row) for row in items))
        try:
            source = read_table(path, items_path if has_items else None, COLUMNS if has_items else TIMED)
        except InputError as error:
            assert "holds no" in str(error)  # nothing but blank lines
            return
    kept = len(source.purchases) + (len(source.items) if has_items else 0)
    assert source.unusable.rows == kept + source.unusable.total
    assert set(source.purchases["item_id"]) <= set(source.items["item_id"])
    assert source.items["item_id"].is_unique().all()


QUOTED = st.text(st.sampled_from('ab1 ,;"\n\u00e9'), max_size=4).map(
    lambda text: '"' + text.replace('"', '""') + '"'
)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(QUOTED, QUOTED, st.sampled_from(["", "5", "x", "2024-01-01"]), QUOTED), min_size=1
    )
)
def test_a_csv_read_by_record_is_what_polars_reads(rows: list[tuple[str, ...]]) -> None:
    lines = ["who,sku,when,name", *(",".join(row) for row in rows)]
    with tempfile.TemporaryDirectory() as folder:
        whole = _csv(Path(folder) / "p.csv", *lines, "a,1,1,x")
        broken = _csv(Path(folder) / "q.csv", *lines, "a,1,1,x", "one,field,too,many,here")
        by_polars, by_record = (read_table(path, None, COLUMNS) for path in (whole, broken))
    assert by_record.purchases.equals(by_polars.purchases) and by_record.items.equals(by_polars.items)
    expected = {**by_polars.unusable.counts, "more fields than the header": 1}
    assert by_record.unusable.counts == expected and by_record.unusable.rows == by_polars.unusable.rows + 1


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from(["a", "b", "c"])] * 2, st.none() | st.integers(0, 5)), min_size=1)
)
def test_order_is_that_of_sorting_each_user_in_python(rows: list[tuple[str, str, int | None]]) -> None:
    rows = [row for row in rows if row[2] is not None]  # of those without a time another test speaks
    if not rows:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.parquet"
        pl.DataFrame(rows, schema=["who", "sku", "when"], orient="row").write_parquet(path)
        source = read_table(path, None, TIMED)
    users = list(dict.fromkeys(user for user, _, _ in rows))
    assert _bought(source) == sorted(rows, key=lambda row: (users.index(row[0]), row[2]))


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"p\.parquet cannot be read; repair it or export it again"):
        read_table(tmp_path / "p.parquet", None, PAIR)


def test_column_of_lists_is_no_id(tmp_path: Path) -> None:
    pl.DataFrame({"who": [["a"]], "sku": ["1"]}).write_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"column `who` \(columns\.user\) holds lists"):
        read_table(tmp_path / "p.parquet", None, PAIR)


def test_missing_empty_and_strange_files_are_named(tmp_path: Path) -> None:
    columns = PAIR
    with pytest.raises(InputError, match=r"p\.csv does not exist; correct the path"):
        read_table(tmp_path / "p.csv", None, columns)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InputError, match=r"empty\.csv is empty"):
        read_table(tmp_path / "empty.csv", None, columns)
    with pytest.raises(InputError, match=r"header\.csv holds no row with a user and an item"):
        read_table(_csv(tmp_path / "header.csv", "who,sku"), None, columns)
    with pytest.raises(InputError, match=r"p\.xlsx ends in `\.xlsx`; give a file that ends in \.csv"):
        read_table(_csv(tmp_path / "p.xlsx", "who,sku"), None, columns)
    path = _csv(tmp_path / "full.csv", "who,sku", "a,1")
    with pytest.raises(InputError, match=r"items\.csv holds no items"):
        read_table(path, _csv(tmp_path / "items.csv", "sku"), columns)
