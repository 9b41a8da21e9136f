"""Read a person's own CSV or Parquet files: one of purchases, and optionally one of items."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from gream.data.sources import ITEM_SCHEMA, Source, clean_text
from gream.errors import InputError

TEXT_COLUMNS = ("title", "description", "brand", "category", "price")
COLUMNS = ("user", "item", "time", *TEXT_COLUMNS)


def read_table(path: Path, items_path: Path | None, columns: Mapping[str, str]) -> Source:
    """Read a CSV or Parquet file with one purchase a row, and optionally a second one with the items.

    `columns` maps the names in COLUMNS to the file's own column names; `user` and `item` are needed.
    Text columns are looked for in `items_path` where it is given, else in the purchases file, where an
    item's first value that is not empty counts. A category may be a path, "Home > Kitchen > Mugs".
    Each user's purchases are ordered by time, ties and files without a time column by the order of the
    rows; a purchase without a time stays behind the one that stands before it. Rows without a user or an
    item are left out and counted.

    Raises:
        InputError: a missing or unreadable file, a missing column, a value that is no time or no price, an
            item given twice, or a purchase of an item that the items file does not have.
    """
    wanted = {key: columns[key] for key in ("user", "item", "time") if key in columns}
    texts = {key: columns[key] for key in TEXT_COLUMNS if key in columns}
    table = _table(path, wanted if items_path else wanted | texts).with_row_index("row", offset=1)
    named = table.filter(_filled("user") & _filled("item"))
    if named.is_empty():
        raise InputError(f"{path} holds no row with a user and an item; give a file with purchases.")
    if "time" in wanted:
        named = named.with_columns(_seconds(named["time"], named["row"], path, wanted["time"]))
    else:
        named = named.with_columns(pl.lit(None, dtype=pl.Int64).alias("time"))
    if items_path:
        items = _items_of(_items_table(items_path, {"item": columns["item"], **texts}), items_path, texts)
        _check_known(named, items, path, items_path)
    else:
        items = _items_of(named, path, texts)
    purchases = _in_order(named).select(
        pl.col("user").alias("user_id"), pl.col("item").alias("item_id"), pl.col("time").alias("timestamp")
    )
    counts = {
        "rows_without_user_or_item": len(table) - len(named),
        "interactions_without_time": named["time"].null_count() if "time" in wanted else 0,
    }
    return Source(items, purchases, counts)


def _table(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    """Read the mapped columns of a file, renamed to our names; CSV values stay text, so `007` stays `007`."""
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path to a .csv or .parquet file.")
    try:
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
        elif path.suffix == ".csv":
            frame = pl.read_csv(path, infer_schema=False)
        else:
            raise InputError(f"{path} ends in `{path.suffix}`; give a .csv or a .parquet file.")
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty; give a file with a header line and one row each.") from error
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{_broken_place(path)} cannot be read; repair it or export it again.") from error
    for key, name in columns.items():
        if name not in frame.columns:
            raise InputError(
                f"{path} has no column `{name}` (columns.{key}); it has {', '.join(frame.columns)}; "
                "correct `columns`."
            )
    return frame.select(_plain(frame[name], key, path) for key, name in columns.items())


def _broken_place(path: Path) -> str:
    """Name the first line of a CSV that has not as many fields as its header, if that is the fault."""
    if path.suffix != ".csv":
        return str(path)
    with path.open(newline="", encoding="utf-8", errors="replace") as handle:
        reader = csv.reader(handle)
        width = len(next(reader, []))
        for fields in reader:
            if fields and len(fields) != width:
                return f"{path}, line {reader.line_num} ({len(fields)} fields, the header has {width}),"
    return str(path)


def _plain(values: pl.Series, key: str, path: Path) -> pl.Series:
    """Bring a column to the type we work with: text, or as it is where numbers and dates are welcome."""
    if key == "category" and values.dtype == pl.List:
        return values.alias(key)
    if values.dtype.is_nested():
        raise InputError(f"{path}: column `{values.name}` (columns.{key}) holds lists; give plain values.")
    if key in ("time", "price"):
        return values.alias(key)
    if values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(pl.Int64)  # whole numbers that nulls turned into floats: 7.0 is id 7
    return values.cast(pl.String).alias(key)


def _filled(key: str) -> pl.Expr:
    return pl.col(key).is_not_null() & (pl.col(key) != "")


def _seconds(values: pl.Series, rows: pl.Series, path: Path, name: str) -> pl.Series:
    """UNIX seconds of a column of numbers, dates, or texts of either."""
    if values.dtype == pl.String:
        values = values.replace("", None)
        numbers = values.cast(pl.Float64, strict=False)
        values_read = numbers if numbers.is_not_null().any() else _dates(values)
    else:
        values_read = values
    if values_read.dtype in (pl.Date, pl.Datetime):
        seconds = values_read.cast(pl.Datetime("us")).dt.epoch("s")
    elif values_read.dtype.is_numeric():
        seconds = values_read.cast(pl.Int64, strict=False)
    else:
        seconds = pl.repeat(None, len(values), dtype=pl.Int64, eager=True)
    _refuse_unread(values, seconds, rows, path, name, "is no time; write UNIX seconds or YYYY-MM-DD HH:MM:SS")
    return seconds.alias("time")


def _dates(values: pl.Series) -> pl.Series:
    frame = values.to_frame("time")
    days = pl.col("time").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    shapes = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d %H:%M")
    times = [pl.col("time").str.to_datetime(shape, strict=False, time_unit="us") for shape in shapes]
    return frame.select(pl.coalesce(*times, days)).to_series()


def _refuse_unread(
    given: pl.Series, read: pl.Series, rows: pl.Series, path: Path, name: str, fault: str
) -> None:
    bad = (given.is_not_null() & read.is_null()).arg_true()
    if len(bad):
        at = int(bad[0])
        raise InputError(f"{path}, row {rows[at]}: `{given[at]}` in column `{name}` {fault}.")


def _items_table(path: Path, columns: Mapping[str, str]) -> pl.DataFrame:
    table = _table(path, columns).with_row_index("row", offset=1)
    unnamed = table.filter(~_filled("item"))
    if len(unnamed):
        raise InputError(f"{path}, row {unnamed['row'][0]} has no `{columns['item']}`; name every item.")
    twice = table.filter(~pl.col("item").is_first_distinct())
    if len(twice):
        raise InputError(
            f"{path}, row {twice['row'][0]} gives item `{twice['item'][0]}` a second time; leave one."
        )
    if table.is_empty():
        raise InputError(f"{path} holds no items; give a file with one item a row.")
    return table


def _items_of(table: pl.DataFrame, path: Path, texts: Mapping[str, str]) -> pl.DataFrame:
    """One row an item in the order of first appearance; of several values the first that is not empty."""
    if "price" in texts:
        read = table["price"].cast(pl.Float32, strict=False)
        given = table["price"].replace("", None) if table["price"].dtype == pl.String else table["price"]
        fault = "is no price; write a plain number"
        _refuse_unread(given, read, table["row"], path, texts["price"], fault)
        table = table.with_columns(read.alias("price"))
    is_text = {key: table.schema[key] == pl.String for key in texts}
    filled = {key: _filled(key) if is_text[key] else pl.col(key).is_not_null() for key in texts}
    first = [pl.col(key).filter(filled[key]).first() for key in texts]
    items = table.group_by("item", maintain_order=True).agg(first)
    cleaned = {key: _cleaned(items, key) for key in ("title", "description", "brand")}
    price = items["price"] if "price" in texts else pl.repeat(None, len(items), dtype=pl.Float32, eager=True)
    return pl.DataFrame(
        {"item_id": items["item"], **cleaned, "categories": _paths(items), "price": price}, schema=ITEM_SCHEMA
    )


def _cleaned(items: pl.DataFrame, key: str) -> list[str]:
    return [clean_text(text or "") for text in items[key]] if key in items.columns else [""] * len(items)


def _paths(items: pl.DataFrame) -> list[list[str]]:
    if "category" not in items.columns:
        return [[] for _ in range(len(items))]
    raw = items["category"].to_list()
    parts = [value.split(">") if isinstance(value, str) else value or [] for value in raw]
    return [[name for name in (clean_text(str(part)) for part in path) if name] for path in parts]


def _check_known(purchases: pl.DataFrame, items: pl.DataFrame, path: Path, items_path: Path) -> None:
    strange = purchases.filter(~pl.col("item").is_in(items["item_id"].implode()))
    if len(strange):
        raise InputError(
            f"{path}, row {strange['row'][0]} buys item `{strange['item'][0]}`, which {items_path} does not "
            "have; add the item there, or take the purchase out."
        )


def _in_order(purchases: pl.DataFrame) -> pl.DataFrame:
    """Sort by user in order of first appearance, then time, then row."""
    place = pl.col("time").forward_fill().backward_fill().over("user").alias("place")
    first = pl.col("row").min().over("user").alias("first")
    return purchases.with_columns(place, first).sort("first", "place", "row")
