"""Reader and writer of RecBole's atomic files."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.recbole import read_recbole, write_recbole
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, clean_text
from gream.data.store import Catalogue, Interactions
from gream.errors import InputError

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float"


def _set(folder: Path, inter: list[str], items: list[str] | None = None) -> Path:
    (folder / "ml-100k.inter").write_text("\n".join([*inter, ""]), encoding="utf-8", newline="\n")
    if items is not None:
        (folder / "ml-100k.item").write_text("\n".join([*items, ""]), encoding="utf-8", newline="\n")
    return folder


def test_movielens_as_recbole_publishes_it(tmp_path: Path) -> None:
    inter = [INTER, "196\t242\t3\t881250949", "196\t302\t3\t881250940.0", "186\t302\t3\t891717742"]
    items = [
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
        "242\tKolya\t1996\tComedy",
        "302\tL.A. Confidential\t1997\tCrime Film-Noir Mystery Thriller",
        "9\tNobody saw it\t\t",
    ]
    source = read_recbole(_set(tmp_path, inter, items), None)
    assert dict(source.items.schema) == ITEM_SCHEMA and dict(source.purchases.schema) == PURCHASE_SCHEMA
    assert source.items.rows() == [
        ("242", "Kolya", "", "", ["Comedy"], None),
        ("302", "L.A. Confidential", "", "", ["Crime", "Film-Noir", "Mystery", "Thriller"], None),
    ]
    assert source.purchases.rows() == [
        ("196", "302", 881250940, None), ("196", "242", 881250949, None), ("186", "302", 891717742, None),
    ]  # fmt: skip
    assert source.counts["items_never_bought"] == 1 and source.unusable.rows == 6


def test_amazon_as_recbole_publishes_it(tmp_path: Path) -> None:
    inter = [
        "timestamp:float\titem_id:token\tuser_id:token",
        "1369699200\tB1\tA1",
        "1369699200\tB2\tA1",
        "1\tB3\tA1",
    ]
    items = [
        "price:float\tsales_type:token\titem_id:token\tcategories:token_seq\ttitle:token\tbrand:token",
        "12.5\tBeauty\tB1\t'Home & Kitchen', \"Women's\"\tA &amp; B\tK",
        '\t\tB2\t"""Only"", \'x\'"\t"24"" screen"\t',
        'cheap\t\tB3\t\'Til Tuesday\t"Weird Al" sings\t"two\nlines"',
    ]
    source = read_recbole(_set(tmp_path, inter, items) / "ml-100k.inter", None)
    assert source.items.rows() == [
        ("B1", "A & B", "", "K", ["Home & Kitchen", "Women's"], 12.5),
        ("B2", '24" screen', "", "", ["Only", "x"], None),
        ("B3", "Weird Al sings", "", "two lines", ["'Til", "Tuesday"], None),
    ]
    assert source.purchases["item_id"].to_list() == ["B3", "B1", "B2"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Action, Adventure", ["Action", "Adventure"]), ("['A b', 'C']", ["A b", "C"]), ("", []),
        ("[", ["["]),
        ("[" * 9_000, ["[" * 9_000]), ("'a', __import__('os').abort()", ["'a'", "__import__('os').abort()"]),
    ],
)  # fmt: skip
def test_categories_are_words_or_quoted_names(tmp_path: Path, text: str, names: list[str]) -> None:
    _set(tmp_path, [INTER, "u\ti\t1\t1"], ["item_id:token\tgenre:token_seq", f"i\t{text}"])
    assert read_recbole(tmp_path, None).items["categories"].to_list() == [names]


def test_ids_may_be_quoted(tmp_path: Path) -> None:
    rows = [INTER, '"u"\t"a ""b"""\t5\t1', 'u\t"\t5\t2', 'u\t""\t5\t3']
    source = read_recbole(_set(tmp_path, rows), None)
    assert source.purchases.select("user_id", "item_id").rows() == [("u", 'a "b"'), ("u", '"')]
    assert source.unusable.counts == {"no item id": 1}


def test_times_beyond_the_year_5000_are_milliseconds(tmp_path: Path) -> None:
    rows = [INTER, "u\ta\t5\t1588687728923", "u\tb\t5\t1588687728001"]
    purchases = read_recbole(_set(tmp_path, rows), None).purchases
    assert purchases.select("item_id", "timestamp").rows() == [("b", 1588687728), ("a", 1588687728)]


def test_without_times_the_order_of_the_file_counts(tmp_path: Path) -> None:
    source = read_recbole(_set(tmp_path, ["user_id:token\titem_id:token", "u\tb", "v\tb", "u\ta"]), None)
    assert source.purchases.select("user_id", "item_id").rows() == [("u", "b"), ("u", "a"), ("v", "b")]
    assert source.counts["interactions_without_time"] == 0 and source.counts["items_without_metadata"] == 2


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    inter = [
        INTER,
        "u\ti\t5\t9",
        "u\ti\t5",
        "\ti\t5\t9",
        "u\t \t5\t9",
        "u\ti\t5\tx",
        "u\ti\t5\tinf",
        "",
        "u\ti\t5\t",
    ]
    items = ["item_id:token\tname:token_seq", "i\tA", "i\tB", "\tC", "x", 'y\t"open', "quote", "for ever"]
    source = read_recbole(_set(tmp_path, inter, items), None)
    assert source.unusable.counts == {
        "not 4 fields": 1, "no user id": 1, "no item id": 2, "no time": 2, "the same item again": 1,
        "not 2 fields": 1,
    }  # fmt: skip
    # The open quote makes one item of three lines, as it does in RecBole.
    assert source.counts["items_never_bought"] == 1
    assert source.counts["interactions_without_time"] == 1


def test_missing_files_and_fields_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold one file `\*\.inter`, but has none"):
        read_recbole(tmp_path, None)
    with pytest.raises(
        InputError, match="has no field `user_id:token`; it has venue_id:token, item_id:token"
    ):
        read_recbole(_set(tmp_path, ["venue_id:token\titem_id:token", "1\t2"]), None)
    with pytest.raises(InputError, match="has no field `item_id:token`"):
        read_recbole(_set(tmp_path, [INTER, "1\t2\t3\t4"], ["title:token_seq"]), None)
    with pytest.raises(InputError, match="No row can be used"):
        read_recbole(_set(tmp_path, [INTER], ["item_id:token"]), None)
    with pytest.raises(InputError, match="is empty"):
        read_recbole(_set(tmp_path, [""]), None)


def _shop(*titles: str) -> tuple[Catalogue, Interactions]:
    size = len(titles)
    nothing = [""] * size
    prices = np.full(size, np.nan, dtype=np.float32)
    catalogue = Catalogue([f"i{n}" for n in range(size)], list(titles), nothing, nothing, [()] * size, prices)
    sequences = [np.arange(size)[::-1], np.arange(size)]
    return catalogue, Interactions(["u", "v"], sequences, [np.zeros(size, dtype=np.int8)] * 2)


def test_the_position_stands_for_times_that_nobody_knows(tmp_path: Path) -> None:
    write_recbole(tmp_path, "Set", *_shop("A", "B"), None)
    assert (tmp_path / "Set.inter").read_text() == (
        "user_id:token\titem_id:token\ttimestamp:float\nu\ti1\t0\nu\ti0\t1\nv\ti0\t0\nv\ti1\t1\n"
    )
    assert (tmp_path / "Set.item").read_text() == "item_id:token\ttitle:token_seq\ni0\tA\ni1\tB\n"


def test_times_never_fall_within_a_sequence_so_that_the_order_survives(tmp_path: Path) -> None:
    times = pl.Series([50, 40, None, 30, None, None])
    write_recbole(tmp_path, "Set", *_shop("A", "B", "C"), times)
    written = [line.split("\t")[2] for line in (tmp_path / "Set.inter").read_text().splitlines()[1:]]
    assert written == ["50", "50", "50", "30", "30", "30"]


def _load_as_recbole(path: Path) -> dict[str, list[Any]]:
    """Read an atomic file by RecBole's rules: types from the header, pandas' Python engine, lists split."""
    header = path.read_text(encoding="utf-8").split("\n", 1)[0].split("\t")
    types = dict(field.split(":") for field in header)
    assert set(types.values()) <= {"token", "token_seq", "float", "float_seq"}
    frame = pd.read_csv(
        path, delimiter="\t", encoding="utf-8", engine="python",
        dtype={field: float if field.endswith(":float") else str for field in header},
    )  # fmt: skip
    columns: dict[str, list[Any]] = {}
    for field in header:
        name, kind = field.split(":")
        values = frame[field].fillna("") if kind == "token_seq" else frame[field]
        columns[name] = [value.split(" ") if kind == "token_seq" else value for value in values]
    return columns


def test_recbole_reads_the_texts_that_were_written(tmp_path: Path) -> None:
    titles = ['"Quoted" all', 'Size 24"', '"', "tab\tand\nline", "&amp; raw", "\u00e9t\u00e9", "plain"]
    write_recbole(tmp_path, "Set", *_shop(*titles), pl.Series(range(14)))
    items = _load_as_recbole(tmp_path / "Set.item")
    assert items["item_id"] == [f"i{n}" for n in range(7)]
    assert items["title"] == [
        ['"Quoted"', "all"], ["Size", '24"'], ['"'], ["tab", "and", "line"], ["&amp;amp;", "raw"],
        ["\u00e9t\u00e9"], ["plain"],
    ]  # fmt: skip
    inter = _load_as_recbole(tmp_path / "Set.inter")
    assert inter["user_id"] == ["u"] * 7 + ["v"] * 7 and inter["timestamp"] == [float(n) for n in range(14)]


def test_categories_of_one_word_are_tokens_to_recbole(tmp_path: Path) -> None:
    catalogue, interactions = _shop("A", "B")
    catalogue.categories[0] = ("Comedy", "Sci-Fi")
    write_recbole(tmp_path, "Set", catalogue, interactions, None)
    assert _load_as_recbole(tmp_path / "Set.item")["categories"] == [["Comedy", "Sci-Fi"], [""]]
    catalogue.categories[1] = ("Home & Kitchen",)
    write_recbole(tmp_path, "Set", catalogue, interactions, None)
    read = read_recbole(tmp_path, None).items["categories"].to_list()
    assert read == [["Comedy", "Sci-Fi"], ["Home & Kitchen"]]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(clean_text)
NAMES = st.one_of(
    TEXT, st.sampled_from(["Home & Kitchen", "Clothing, Shoes", "&amp; &lt;b&gt;", '"Quoted"', "'Til"])
)
IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1, max_size=6
).filter(str.strip)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Catalogue, Interactions, pl.Series | None]:
    """A catalogue with texts of every kind, of which every item is bought, and times that rise."""
    item_ids = draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    size = len(item_ids)
    columns = [draw(st.lists(TEXT, min_size=size, max_size=size)) for _ in range(3)]
    paths = draw(st.lists(st.lists(NAMES.filter(bool), max_size=3), min_size=size, max_size=size))
    prices = draw(st.lists(st.sampled_from([float("nan"), 12.99, 0.1, 1e8]), min_size=size, max_size=size))
    user_ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    sequences = [np.array(draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))) for _ in user_ids]
    sequences[-1] = np.concatenate([sequences[-1], np.arange(size)])
    splits = [np.zeros(len(items), dtype=np.int8) for items in sequences]
    times = [sorted(draw(st.lists(st.integers(0, 9), min_size=len(s), max_size=len(s)))) for s in sequences]
    series = draw(st.sampled_from([None, pl.Series([time for row in times for time in row])]))
    catalogue = Catalogue(
        item_ids, *columns, [tuple(path) for path in paths], np.array(prices, dtype=np.float32)
    )
    return catalogue, Interactions(user_ids, sequences, splits), series


@settings(max_examples=80, deadline=None)
@given(shops())
def test_what_is_written_is_read_back(shop: tuple[Catalogue, Interactions, pl.Series | None]) -> None:
    catalogue, interactions, times = shop
    with TemporaryDirectory() as folder:
        write_recbole(Path(folder) / "out", "Set", catalogue, interactions, times)
        source = read_recbole(Path(folder) / "out", None)
        loaded = _load_as_recbole(Path(folder) / "out" / "Set.inter")
    assert source.unusable.total == 0
    items = source.items
    assert items["item_id"].to_list() == catalogue.item_ids
    assert items["title"].to_list() == catalogue.titles
    assert items["description"].to_list() == catalogue.descriptions
    assert items["brand"].to_list() == catalogue.brands
    assert items["categories"].to_list() == [list(path) for path in catalogue.categories]
    prices = items["price"].fill_null(float("nan")).to_numpy()
    np.testing.assert_array_equal(prices, catalogue.prices)
    users = zip(interactions.user_ids, interactions.sequences, strict=True)
    bought = [(user, catalogue.item_ids[item]) for user, row in users for item in row]
    assert source.purchases.select("user_id", "item_id").rows() == bought
    assert times is None or source.purchases["timestamp"].equals(times)
    assert len(loaded["user_id"]) == len(bought)


FIELD = st.sampled_from(["a", "b", "", " ", "1", "x", '"q"', '"open', "\u00e9", "\x85", "\u2028", "'"])
ROWS = st.lists(st.lists(FIELD, min_size=1, max_size=5), max_size=10)


@settings(max_examples=60, deadline=None)
@given(ROWS, ROWS)
def test_rows_in_are_rows_used_and_rows_left_out(inter: list[list[str]], items: list[list[str]]) -> None:
    lines = [INTER, "sure\tthing\t1\t1", *("\t".join(row) for row in inter)]
    catalogue = [
        "item_id:token\tname:token_seq\tbrand:token",
        "thing\tT\t",
        *("\t".join(row) for row in items),
    ]
    with TemporaryDirectory() as folder:
        source = read_recbole(_set(Path(folder), lines, catalogue), None)
    filled = sum(bool(line.strip()) for line in lines) - 1
    # What the standard library makes of the same lines; rows of a wrong width count once a line.
    reader, before, entries = csv.reader([line + "\n" for line in catalogue], delimiter="\t"), 0, -1
    for row in reader:
        entries += 1 if len(row) == 3 else (reader.line_num - before) * bool(row)
        before = reader.line_num
    described = len(source.items) - source.counts["items_without_metadata"]
    used = len(source.purchases) + described + source.counts["items_never_bought"]
    assert source.unusable.rows == filled + entries == used + source.unusable.total
    assert set(source.purchases["item_id"]) == set(source.items["item_id"])
