"""Every reader of purchases, on hostile files: a clear error or rows that reconcile, never anything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hostile import CASES, bounded_memory, clear, damaged, fuzz, ids, numbers, spell, texts, values, write
from hypothesis import given
from hypothesis import strategies as st

from gream.data.inspect import inspect
from gream.data.keep import Prepared, prepare
from gream.data.prepare import READERS
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.data.tables import read_table

Files = dict[str, bytes]


def _records(
    keys: dict[str, st.SearchStrategy[Any]], most: int = 8
) -> st.SearchStrategy[list[dict[str, Any]]]:
    fitting = st.fixed_dictionaries({}, optional=keys)
    return st.lists(st.one_of(fitting, fitting, fitting.map(lambda row: row | {"more": [1]})), max_size=8)


def _lines(rows: list[Any], literal: bool = False) -> bytes:
    return b"".join(spell(row, literal=literal) + b"\n" for row in rows)


@st.composite
def _amazon(draw: st.DrawFn, names: tuple[str, str, str], literal: bool) -> Files:
    user, item, time = names
    review = {user: ids, item: ids, time: numbers, "summary": values, "reviewText": values, "title": values}
    meta = {item: ids, "title": values, "description": values, "feature": values, "features": values}
    meta |= {"brand": values, "store": values, "category": values, "categories": values, "price": values}
    as_literal = literal and draw(st.booleans())
    return {
        "purchases": draw(damaged(_lines(draw(_records(review)), as_literal))),
        "items": draw(damaged(_lines(draw(_records(meta)), as_literal))),
    }


@st.composite
def _jsonl(draw: st.DrawFn) -> Files:
    item = {"item_id": ids, "title": texts, "description": values, "brand": texts, "categories": values}
    user = {"user_id": ids, "item_ids": st.one_of(st.lists(ids, max_size=5), values), "timestamps": values}
    return {
        "items.jsonl": draw(damaged(_lines(draw(_records(item | {"price": numbers}))))),
        "sequences.jsonl": draw(damaged(_lines(draw(_records(user))))),
    }


@st.composite
def _lcrec(draw: st.DrawFn) -> Files:
    keys = st.one_of(st.sampled_from(["0", "1", "2"]), texts)
    sequences = draw(st.dictionaries(keys, st.one_of(st.lists(ids, max_size=5), values), max_size=4))
    item = st.fixed_dictionaries({}, optional={"title": values, "categories": values, "price": values})
    items = draw(st.dictionaries(keys, st.one_of(item, values), max_size=4))
    files = {"X.inter.json": spell(sequences), "X.item.json": spell(items)}
    if draw(st.booleans()):
        reviews = draw(
            st.dictionaries(st.one_of(texts, st.just("(1, 2)"), st.just("('0', 1)")), values, max_size=3)
        )
        pairs = draw(st.lists(st.tuples(texts, keys), max_size=4))
        files["X.review.json"] = spell(reviews)
        for kind in draw(st.sets(st.sampled_from(["user", "item"]))):
            files[f"X.{kind}2id"] = "\n".join("\t".join(p) for p in pairs).encode("utf-8", "replace")
    return {name: draw(damaged(data)) for name, data in files.items()}


def _separated(rows: list[list[Any]], separator: str) -> bytes:
    return "\n".join(separator.join(map(str, row)) for row in rows).encode("utf-8", "replace")


@st.composite
def _minionerec(draw: st.DrawFn) -> Files:
    header = ["user_id", "item_id", "history_item_id", "item_title", "history_item_title", "timestamp"]
    header = header[: draw(st.integers(2, len(header)))] + draw(st.sampled_from([[], ["history_timestamp"]]))
    lists = st.lists(st.sampled_from(["i1", "i2", "i3"]), max_size=4).map(lambda x: f'"{x!r}"')
    cells = st.one_of(lists, ids, texts, values.map(repr), st.sampled_from(["u1", "u2"]))
    row = st.lists(cells, min_size=len(header) - 1, max_size=len(header))
    good = st.tuples(st.sampled_from(["u1", "u2"]), st.sampled_from(["i1", "i2"]), lists).map(list)
    return {
        f"{split}/X.csv": draw(
            damaged(_separated([header, *draw(st.lists(st.one_of(row, good), max_size=5))], ","))
        )
        for split in ("train", "valid", "test")
    }


@st.composite
def _recbole(draw: st.DrawFn) -> Files:
    rows = draw(st.lists(st.lists(st.one_of(ids, numbers, texts), min_size=2, max_size=4), max_size=8))
    items = draw(
        st.lists(st.lists(st.one_of(ids, texts, values.map(repr)), min_size=3, max_size=4), max_size=6)
    )
    header = draw(
        st.sampled_from([["user_id:token", "item_id:token", "timestamp:float"], ["user_id", "item_id"]])
    )
    names = draw(
        st.sampled_from([["item_id:token", "title:token_seq", "categories:token_seq", "price:float"], ["x"]])
    )
    return {
        "X.inter": draw(damaged(_separated([header, *rows], "\t"))),
        "X.item": draw(damaged(_separated([names, *items], "\t"))),
    }


@st.composite
def _movielens(draw: st.DrawFn) -> Files:
    rating = st.lists(st.one_of(ids, numbers), min_size=3, max_size=5)
    ratings = draw(st.lists(rating, max_size=8))
    if draw(st.booleans()):
        movies = draw(st.lists(st.lists(st.one_of(ids, texts), min_size=2, max_size=4), max_size=5))
        files = {"ratings.dat": _separated(ratings, "::"), "movies.dat": _separated(movies, "::")}
    else:
        movie = st.lists(st.one_of(ids, texts, st.sampled_from(["0", "1"])), min_size=6, max_size=8)
        genres = draw(st.lists(texts, max_size=3))
        files = {
            "u.data": _separated(ratings, "\t"),
            "u.item": _separated(draw(st.lists(movie, max_size=5)), "|"),
            "u.genre": _separated([[name, n] for n, name in enumerate(genres)], "|"),
        }
    return {name: draw(damaged(data)) for name, data in files.items()}


FILES: dict[str, st.SearchStrategy[Files]] = {
    "jsonl": _jsonl(),
    "amazon2014": _amazon(("reviewerID", "asin", "unixReviewTime"), True),
    "amazon2018": _amazon(("reviewerID", "asin", "unixReviewTime"), False),
    "amazon2023": _amazon(("user_id", "parent_asin", "timestamp"), False),
    "lcrec": _lcrec(),
    "minionerec": _minionerec(),
    "recbole": _recbole(),
    "movielens": _movielens(),
}


# LC-Rec's rows are those of reviews and id maps too, and a row of MiniOneRec shows purchases of other rows.
RECONCILED = set(FILES) - {"lcrec", "minionerec"}


def _check(source: Source, reader: str) -> None:
    assert dict(source.items.schema) == ITEM_SCHEMA and dict(source.purchases.schema) == PURCHASE_SCHEMA
    items, purchases = source.items["item_id"], source.purchases
    assert items.null_count() == 0 and items.is_unique().all()
    assert all(raw.strip() for raw in [*items, *purchases["user_id"]])
    assert purchases["item_id"].is_in(items.implode()).all()
    prices = source.items["price"].drop_nulls()
    assert (prices.is_finite() & (prices >= 0)).all()
    _reconcile(source, reader)


def _reconcile(source: Source, reader: str) -> None:
    counts, unusable = source.counts, source.unusable
    assert min(unusable.counts.values(), default=1) > 0 and min(counts.values(), default=0) >= 0
    left_out, kept = unusable.total, len(source.purchases)
    if reader in ("amazon2014", "amazon2018", "amazon2023", "recbole", "movielens"):
        kept += len(source.items) - counts["items_without_metadata"] + counts["items_never_bought"]
    if reader == "jsonl":
        kept += len(source.items) + source.purchases["user_id"].n_unique() + counts["users_without_purchases"]
    if reader not in RECONCILED:
        assert left_out <= unusable.rows
    else:
        assert unusable.rows == left_out + kept


def _check_prepared(prepared: Prepared, source: Source) -> None:
    counts = prepared.counts
    for what in ("users", "items", "interactions"):
        dropped = sum(n for key, n in counts.items() if key.startswith(f"{what}_dropped"))
        assert counts[f"{what}_in"] == counts[what] + dropped, (what, counts)
    assert counts["interactions_in"] == len(source.purchases)
    assert counts["interactions"] == sum(map(len, prepared.interactions.sequences))
    assert counts["interactions"] == sum(counts[f"{p}_purchases"] for p in ("training", "validation", "test"))


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_gives_rows_that_reconcile_or_a_clear_error(tmp_path: Path, reader: str, cases: int) -> None:
    assert READERS.keys() == FILES.keys()

    @fuzz(cases)
    @given(FILES[reader], st.booleans(), st.booleans())
    def check(files: Files, with_items: bool, by_time: bool) -> None:
        folder = write(tmp_path / "set", files)
        path = folder / "purchases" if reader.startswith("amazon") else folder
        items = folder / "items" if reader.startswith("amazon") and with_items else None
        _read_and_prepare(lambda: READERS[reader](path, items), reader, by_time)

    with bounded_memory():
        check()


def _read_and_prepare(read: Callable[[], Source], reader: str, by_time: bool) -> None:
    source = clear(read)
    if source is None:
        return
    _check(source, reader)
    for core in (1, 2):
        split = "temporal" if by_time else "leave_one_out"
        prepared = clear(
            lambda core=core, s=split: prepare(source, core=core, deduplicate=core == 2, split=s)
        )
        if prepared is not None:
            _check_prepared(prepared, source)


COLUMNS = {"user": "u", "item": "i", "time": "t", "title": "n", "category": "c", "price": "p", "review": "r"}


@st.composite
def _table(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of any kind that tables come as, with the columns above."""
    kind = draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet"]))
    columns = {
        "u": ids,
        "i": ids,
        "t": st.one_of(numbers, texts),
        "n": texts,
        "c": values,
        "p": values,
        "r": texts,
    }
    rows = draw(_records(columns))
    if kind == ".jsonl":
        return kind, draw(damaged(_lines(rows)))
    if kind == ".parquet":
        return kind, draw(damaged(_parquet(draw)))
    separator = "\t" if kind == ".tsv" else draw(st.sampled_from(",;|"))
    cells = [[row.get(name, "") for name in columns] for row in rows]
    quoted = [
        [f'"{str(c).replace(chr(34), chr(34) * 2)}"' if draw(st.booleans()) else c for c in r] for r in cells
    ]
    return kind, draw(damaged(_separated([list(columns), *quoted], separator)))


def _parquet(draw: st.DrawFn) -> bytes:
    clean = st.text(st.characters(codec="utf-8"), max_size=5)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        pl.String: clean,
        pl.Int64: st.integers(-(2**63), 2**63 - 1),
        pl.Float64: st.floats(),
        pl.List(pl.String): st.lists(clean, max_size=2),
        pl.Boolean: st.booleans(),
        pl.Binary: st.binary(max_size=3),
        pl.Datetime("us"): st.datetimes(),
        pl.Date: st.dates(),
        pl.Null: st.none(),
    }
    size = draw(st.integers(0, 5))
    columns = []
    for name in COLUMNS.values():
        kind = draw(st.sampled_from(list(kinds)))
        cells = st.lists(st.one_of(st.none(), kinds[kind]), min_size=size, max_size=size)
        columns.append(pl.Series(name, draw(cells), dtype=kind))
    target = io.BytesIO()
    pl.DataFrame(columns).write_parquet(target)
    return target.getvalue()


@pytest.mark.parametrize("cases", CASES)
def test_a_table_gives_rows_that_reconcile_or_a_clear_error(tmp_path: Path, cases: int) -> None:
    @fuzz(cases)
    @given(_table(), _table(), st.booleans(), st.booleans())
    def check(table: tuple[str, bytes], items: tuple[str, bytes], with_items: bool, by_time: bool) -> None:
        names = f"purchases{table[0]}", f"items{items[0]}"
        folder = write(tmp_path / "set", {names[0]: table[1], names[1]: items[1]})
        items_path = folder / names[1] if with_items else None
        source = clear(read_table, folder / names[0], items_path, COLUMNS)
        if source is None:
            return
        rows = len(source.purchases) + (len(source.items) if with_items else 0)
        assert source.unusable.rows == source.unusable.total + rows
        _read_and_prepare(lambda: source, "minionerec", by_time)

    with bounded_memory():
        check()


@pytest.mark.parametrize("cases", CASES)
def test_a_look_at_any_file_is_clear(tmp_path: Path, cases: int) -> None:
    named = st.sampled_from(["x.csv", "x.jsonl", "x.parquet", "x.inter", "x.json.gz", "x", "x.txt"])

    @fuzz(cases)
    @given(st.one_of(_table().map(lambda t: {"x" + t[0]: t[1]}), *FILES.values()), named, st.booleans())
    def check(files: Files, name: str, alone: bool) -> None:
        folder = write(tmp_path / "set", {name: next(iter(files.values()))} if alone else files)
        told = clear(inspect, folder / name if alone else folder)
        assert told is None or told.isprintable() or "\n" in told

    with bounded_memory():
        check()
