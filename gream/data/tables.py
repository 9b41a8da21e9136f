"""A person's own CSV, TSV, Parquet or JSON-lines files: one of purchases, and optionally one of items."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from gream.data.columns import encode, order_by, places_among, text_lists
from gream.data.frames import read_columns
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source, clean_text, is_blank
from gream.data.unusable import NUM_SHOWN, Unusable
from gream.errors import InputError

TEXT_COLUMNS = ("title", "description", "brand", "category", "price")
COLUMNS = ("user", "item", "time", "review", *TEXT_COLUMNS)

# A number this large is no time in seconds but in a smaller unit; 1e11 seconds are the year 5138, and 1e11
# milliseconds March 1973. The units go down to nanoseconds.
_FEWEST_MILLISECONDS = 1e11
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f")
_DATE_WITH_ZONE = "%+"


def read_table(path: Path, items_path: Path | None, columns: Mapping[str, str]) -> Source:
    """Read a file with one purchase a row, and optionally a second one with the items.

    `columns` maps the names in COLUMNS to the file's own column names; `user` and `item` are needed.
    Text columns are looked for in `items_path` where it is given, else in the purchases file, where an
    item's first value that is not empty counts. A category may be a path, "Home > Kitchen > Mugs", or a
    list. Times are numbers (see `unix_seconds`) or ISO dates, those without a zone taken for UTC. Each user's
    purchases are ordered by time, ties and files without a time column by the order of the rows; a purchase
    without a time stays behind the one that stands before it.

    A row without a user or an item, with a time that cannot be read, or of an item that the items file does
    not have cannot be used. A price that cannot be read leaves its item without one.

    Raises:
        InputError: a missing, empty or unreadable file, or a missing column.
    """
    unusable = Unusable()
    wanted = {key: columns[key] for key in ("user", "item", "time", "review") if key in columns}
    texts = {key: columns[key] for key in TEXT_COLUMNS if key in columns}
    table = read_columns(path, wanted if items_path else wanted | texts, unusable)
    if table.is_empty() and not unusable.total:
        raise InputError(f"{path} holds no row with a user and an item; give a file with purchases.")
    table = _leave_out(table, _no_id("user") | _no_id("item"), "no user or item id", path, "", unusable)
    given = pl.lit(False)
    if "time" in wanted:
        given = ~_is_empty(table, "time")
        table = table.with_columns(read_times(table["time"]).alias("seconds"))
    else:
        table = table.with_columns(pl.lit(None, dtype=pl.Int64).alias("seconds"))
    table = _leave_out(table, given & pl.col("seconds").is_null(), "unreadable time", path, "time", unusable)
    if items_path:
        items_table = read_columns(items_path, {"item": columns["item"], **texts}, unusable)
        items, faulty_prices = _items_of(_named_once(items_table, items_path, unusable), texts)
        strange = pl.lit(pl.Series(places_among(table["item"], items["item_id"]) < 0))
        reason = "item that the items file does not have"
        table = _leave_out(table, strange, reason, path, "item", unusable)
    else:
        items, faulty_prices = _items_of(table, texts)
    counts = {
        "interactions_without_time": table["seconds"].null_count() if "time" in wanted else 0,
        "prices_unreadable": faulty_prices,
    }
    return Source(items, _purchases(table), counts, unusable)


def unix_seconds(values: pl.Series) -> pl.Series:
    """Return numbers as whole UNIX seconds; null where a number is none or stands for no time.

    Each value's size says its unit: below 1e11 seconds, from there on milliseconds (13 digits today), then
    micro- and nanoseconds.
    """
    wide = pl.Int64 if values.dtype.is_integer() else pl.Float64  # nanoseconds need all digits of an integer
    number = pl.col("time").cast(wide, strict=False)
    scaled = pl.lit(None, dtype=wide)
    for power in (3, 2, 1, 0):
        within = number.abs() < _FEWEST_MILLISECONDS * 1000**power
        scaled = pl.when(within).then(number // 1000**power).otherwise(scaled)
    return values.alias("time").to_frame().select(scaled.cast(pl.Int64)).to_series()


def read_times(values: pl.Series) -> pl.Series:
    """Return UNIX seconds of a column of numbers, dates, or texts of either; null where neither."""
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if isinstance(values.dtype, pl.Datetime):
        return values.dt.epoch("s")
    if values.dtype.is_numeric():
        return unix_seconds(values)
    if values.dtype != pl.String:
        return pl.repeat(None, len(values), dtype=pl.Int64, eager=True)
    texts = values.str.strip_chars()
    seconds = unix_seconds(texts.cast(pl.Float64, strict=False))
    if (seconds.is_null() & texts.is_not_null()).any():
        seconds = seconds.zip_with(seconds.is_not_null(), _dates(texts))
    return seconds


def _dates(texts: pl.Series) -> pl.Series:
    time = pl.col("time").str
    plain = [time.to_datetime(shape, strict=False, time_unit="us") for shape in _DATES[1:]]
    day = time.to_date(_DATES[0], strict=False).cast(pl.Datetime("us"))
    zoned = time.to_datetime(_DATE_WITH_ZONE, strict=False, time_unit="us")  # in UTC
    read = pl.coalesce(*(shape.dt.epoch("s") for shape in (day, *plain, zoned)))
    return texts.alias("time").to_frame().select(read).to_series()


def _filled(key: str) -> pl.Expr:
    return pl.col(key).is_not_null() & (pl.col(key) != "")


def _no_id(key: str) -> pl.Expr:
    return pl.col(key).is_null() | is_blank(pl.col(key))


def _is_empty(table: pl.DataFrame, key: str) -> pl.Expr:
    is_text = table.schema[key] == pl.String
    return ~_filled(key) if is_text else pl.col(key).is_null()


def _leave_out(
    table: pl.DataFrame, bad: pl.Expr, reason: str, path: Path, shown: str, unusable: Unusable
) -> pl.DataFrame:
    """Take rows out and count them; `shown` is the column whose value the message repeats."""
    is_bad = table.select(bad).to_series()
    if is_bad.len() != len(table) or not is_bad.any():  # a literal gives one value
        return table
    first = table.filter(is_bad).head(NUM_SHOWN)
    values = [f": {value!r:.60}" for value in first[shown]] if shown else [""] * len(first)
    places = [f"{path}, row {row}{value}" for row, value in zip(first["row"], values, strict=True)]
    unusable.add(reason, places, count=int(is_bad.sum()))
    return table.filter(~is_bad)


def _named_once(table: pl.DataFrame, path: Path, unusable: Unusable) -> pl.DataFrame:
    if table.is_empty() and not unusable.total:
        raise InputError(f"{path} holds no items; give a file with one item a row.")
    table = _leave_out(table, _no_id("item"), "no item id", path, "", unusable)
    twice = ~pl.col("item").is_first_distinct()
    return _leave_out(table, twice, "item id given before", path, "item", unusable)


def _items_of(table: pl.DataFrame, texts: Mapping[str, str]) -> tuple[pl.DataFrame, int]:
    """One row an item in the order of first appearance, and how many prices could not be read.

    Of several values the first that is not empty counts.
    """
    faulty_prices = 0
    if "price" in texts:
        given = (
            table["price"].str.strip_chars().replace("", None) if _is_text(table, "price") else table["price"]
        )
        read = given.cast(pl.Float32, strict=False)
        read = read.set(~(read.is_finite() & (read >= 0)), None)
        faulty_prices = int((given.is_not_null() & read.is_null()).sum())
        table = table.with_columns(read.alias("price"))
    filled = {key: _filled(key) if _is_text(table, key) else pl.col(key).is_not_null() for key in texts}
    first = [pl.col(key).filter(filled[key]).first() for key in texts]
    if first:
        items = table.group_by("item", maintain_order=True).agg(first)
    else:
        items = encode(table["item"])[0].to_frame()
    cleaned = {key: _cleaned(items, key) for key in ("title", "description", "brand")}
    price = items["price"] if "price" in texts else pl.repeat(None, len(items), dtype=pl.Float32, eager=True)
    columns = {"item_id": items["item"], **cleaned, "categories": _paths(items), "price": price}
    return pl.DataFrame(columns, schema=ITEM_SCHEMA), faulty_prices


def _is_text(table: pl.DataFrame, key: str) -> bool:
    return table.schema[key] == pl.String


def _cleaned(items: pl.DataFrame, key: str) -> list[str]:
    return [clean_text(text or "") for text in items[key]] if key in items.columns else [""] * len(items)


def _paths(items: pl.DataFrame) -> pl.Series:
    if "category" not in items.columns:
        return text_lists([()] * len(items))
    raw = items["category"].to_list()
    parts = [value.split(">") if isinstance(value, str) else value or [] for value in raw]
    cleaned = [map(clean_text, (str(part) for part in path if part is not None)) for path in parts]
    return text_lists([[name for name in path if name] for path in cleaned])


def _purchases(table: pl.DataFrame) -> pl.DataFrame:
    """Sort by user in order of first appearance, then time, then row."""
    users, user = encode(table["user"])
    place = table["seconds"]
    if place.null_count() == len(place):
        order = np.argsort(user, kind="stable")
    else:
        if place.null_count():
            filled = pl.col("seconds").forward_fill().backward_fill().over("user").fill_null(0)
            place = pl.DataFrame({"user": user, "seconds": place}).select(filled).to_series()
        order = order_by(user, place.to_numpy())
    review = pl.repeat(None, len(table), dtype=pl.String, eager=True)
    if "review" in table.columns:
        cleaned = pl.col("review").map_elements(clean_text, return_dtype=pl.String).replace("", None)
        review = table.select(cleaned).to_series().gather(order)
    columns = {
        "user_id": users.gather(user[order]),
        "item_id": table["item"].gather(order),
        "timestamp": table["seconds"].gather(order),
        "review": review,
    }
    return pl.DataFrame(columns, schema=PURCHASE_SCHEMA)
