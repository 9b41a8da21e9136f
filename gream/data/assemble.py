"""What the readers of public data sets share: from a file's rows, in its order, to a Source.

Decided once for all of them: every rating or review is a purchase, whatever the score; a user's purchases
stand in order of time, ties in the order of the file; items that nobody bought are left out and counted;
bought items that the item file lacks stay, without text, and are counted.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from gream.data.lines import byte_lines, open_plain
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source, is_blank
from gream.data.unusable import NUM_SHOWN, Unusable
from gream.errors import InputError

LARGEST_TIME = 2**62  # larger numbers are no times, and would not fit
_LAST_SECOND = 10**11
_LARGEST_PRICE = 1e9
_SEPARATORS = re.compile("[\t\n\r\ufeff]")  # the last is taken off where a file begins with it
_AMOUNT = r"\$?\s*(\d[\d,]*(?:\.\d+)?|\.\d+)"
_PRICE = re.compile(rf"(?:from\s+)?{_AMOUNT}(?:\s*-\s*{_AMOUNT})?", re.IGNORECASE)


def assemble(
    items: pl.DataFrame,
    purchases: pl.DataFrame,
    *,
    unusable: Unusable,
    counts: dict[str, int],
    per_second: int = 1,
) -> Source:
    """Build a Source of items and purchases in the order of their files.

    Args:
        items: rows of ITEM_SCHEMA, each item once.
        purchases: columns of PURCHASE_SCHEMA (`review` may be missing) in the order of the file.
        unusable: what the reader left out.
        counts: what else the reader has to tell.
        per_second: how many ticks of `timestamp` make a second; ordering uses the ticks.

    Raises:
        InputError: no purchases.
    """
    if purchases.is_empty():
        reasons = f" ({'; '.join(unusable.lines())})" if unusable.total else ""
        raise InputError(f"No row can be used as a purchase{reasons}; correct the path or the files.")
    if "review" not in purchases.columns:
        purchases = purchases.with_columns(pl.lit(None, dtype=pl.String).alias("review"))
    known = purchases["timestamp"].is_not_null().any()
    counts = counts | {"interactions_without_time": purchases["timestamp"].null_count() if known else 0}
    bought = purchases["item_id"].unique(maintain_order=True)
    kept = items.filter(pl.col("item_id").is_in(bought.implode()))
    bare = bought.filter(~bought.is_in(kept["item_id"].implode()))
    counts["items_without_metadata"] = len(bare)
    counts["items_never_bought"] = counts.get("items_never_bought", 0) + len(items) - len(kept)
    ordered = in_time_order(purchases).with_columns(pl.col("timestamp").floordiv(per_second))
    ordered = ordered.select(pl.col(name).cast(dtype) for name, dtype in PURCHASE_SCHEMA.items())
    return Source(pl.concat([kept, without_text(bare)]), ordered, counts, unusable)


def in_time_order(purchases: pl.DataFrame) -> pl.DataFrame:
    """Put each user's rows in order of time, users in the order of their first row.

    Ties keep the order of the rows; a row without a time stays behind the one that stands before it.
    """
    place = pl.col("timestamp").forward_fill().backward_fill().over("user_id").alias("place")
    first = pl.col("row").min().over("user_id").alias("first")
    ranked = purchases.with_row_index("row").with_columns(place).with_columns(first)
    return ranked.sort("first", "place", "row").drop("first", "place", "row")


def without_text(item_ids: pl.Series) -> pl.DataFrame:
    """Return rows of ITEM_SCHEMA for items of which nothing is known."""
    return pl.DataFrame({"item_id": item_ids}).select(
        pl.col("item_id").cast(pl.String),
        *(pl.lit("").alias(name) for name in ("title", "description", "brand")),
        pl.lit([], dtype=pl.List(pl.String)).alias("categories"),
        pl.lit(None, dtype=pl.Float32).alias("price"),
    )


def item_frame(rows: Sequence[tuple[object, ...]]) -> pl.DataFrame:
    """Return tuples in the order of ITEM_SCHEMA as a frame."""
    return pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")


def read_price(value: object) -> float | None:
    """Read a price: a number or a text such as "$1,012.99", of a range the lower end; None if it is none."""
    if isinstance(value, str):
        found = _PRICE.fullmatch(value.strip()) if len(value) < 50 else None
        if found is None:
            return None
        value = float(found.group(1).replace(",", ""))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _LARGEST_PRICE else None


def protected(text: str) -> str:
    """Return clean text so that reading it back, which undoes HTML entities, gives it again."""
    return text if html.unescape(text) == text else text.replace("&", "&amp;")


def read_fields(path: Path, *, separator: str, encoding: str = "utf-8") -> pl.DataFrame:
    """Read a plain or gzip file of one row a line: columns `line` (from 1) and `fields` (list of texts).

    Lines that are blank are left out; bytes that are no text in this encoding are replaced.

    Raises:
        InputError: no such file, or nothing in it.
    """
    with open_plain(path) as handle:
        text = handle.read().decode(encoding, "replace").removeprefix("\ufeff")
    lines = pl.read_lines(io.BytesIO(text.encode("utf-8")), name="text", row_index_name="line")
    lines = lines.filter(~is_blank(pl.col("text")))
    if lines.is_empty():
        raise InputError(f"{path} is empty; give a file with one row a line.")
    fields = pl.col("text").str.strip_suffix("\r").str.split(separator).alias("fields")
    return lines.select(pl.col("line").cast(pl.Int64) + 1, fields)


def read_records(path: Path, separator: str, unusable: Unusable) -> Iterator[tuple[str, list[str]]]:
    """Yield "file, line n" and the fields of every row of a CSV file, plain or gzip, its header first.

    Fields may be quoted and then hold separators and line ends, as writers of CSV do. A row that has not as
    many fields as the header goes to `unusable`, once for every line that it takes: an opening quote that
    is never closed swallows what follows it.

    Raises:
        InputError: no such file, nothing in it, or a broken gzip file.
    """
    lines = (line.decode("utf-8", "replace") for line in byte_lines(path))
    reader = csv.reader(lines, delimiter=separator)
    width = 0
    while True:
        before = reader.line_num
        where = f"{path}, line {before + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            unusable.rows += reader.line_num - before
            unusable.add(f"no CSV ({error})", [where], reader.line_num - before)
            continue
        if not fields:
            continue
        if not width:
            width = len(fields)
            yield where, [fields[0].removeprefix("\ufeff"), *fields[1:]]
        elif len(fields) != width:
            unusable.rows += reader.line_num - before
            unusable.add(f"not {width} fields", [where], reader.line_num - before)
        else:
            unusable.rows += 1
            yield where, fields
    if not width:
        raise InputError(f"{path} is empty; give a file with a header line and one row each.")


def ticks_per_second(times: pl.Series) -> int:
    """Say whether a column of times counts seconds (1) or, all beyond the year 5000, milliseconds (1000)."""
    earliest = times.drop_nulls().min()
    return 1000 if isinstance(earliest, int) and earliest > _LAST_SECOND else 1


def read_purchases(
    rows: pl.DataFrame, path: Path, columns: dict[str, int], width: int, unusable: Unusable
) -> pl.DataFrame:
    """Take user, item and time out of rows of `read_fields`, and count those that have them not.

    Args:
        rows: what `read_fields` gave, without a header line.
        path: their file, for the account.
        columns: places of `user_id`, `item_id` and, where there is one, `timestamp` among the fields.
        width: number of fields of a good row.
        unusable: takes the account.

    Returns:
        user_id, item_id and timestamp (int, null where the field is empty) of the good rows.
    """
    unusable.rows += len(rows)
    rows = _kept(rows, pl.col("fields").list.len() == width, f"not {width} fields", path, unusable)
    named = rows.select(
        "line", *(_unquoted(pl.col("fields").list.get(place)).alias(key) for key, place in columns.items())
    )
    for key, reason in (("user_id", "no user id"), ("item_id", "no item id")):
        named = _kept(named, ~is_blank(pl.col(key)), reason, path, unusable)
    if "timestamp" not in columns:
        named = named.with_columns(pl.lit("").alias("timestamp"))
    raw = pl.col("timestamp").str.strip_chars()
    number = pl.coalesce(
        raw.cast(pl.Int64, strict=False),
        raw.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False),
    )
    named = named.with_columns(number.alias("timestamp"), (raw == "").alias("unknown"))
    is_time = pl.col("unknown") | (pl.col("timestamp").abs() < LARGEST_TIME).fill_null(False)
    return _kept(named, is_time, "no time", path, unusable).select("user_id", "item_id", "timestamp")


def _unquoted(field: pl.Expr) -> pl.Expr:
    """Undo the quotes that writers of CSV put around a whole field."""
    is_quoted = (field.str.len_chars() > 1) & field.str.starts_with('"') & field.str.ends_with('"')
    inner = field.str.slice(1, field.str.len_chars().cast(pl.Int64) - 2).str.replace_all(
        '""', '"', literal=True
    )
    return pl.when(is_quoted).then(inner).otherwise(field)


def _kept(rows: pl.DataFrame, good: pl.Expr, reason: str, path: Path, unusable: Unusable) -> pl.DataFrame:
    bad = rows.filter(~good)
    unusable.add(reason, [f"{path}, line {line}" for line in bad["line"].head(NUM_SHOWN)], len(bad))
    return rows.filter(good)


def one_file(folder: Path, ending: str) -> Path:
    """Return the one file of a folder whose name ends so.

    Raises:
        InputError: no such folder, no such file, or several.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; correct the path to a folder or to its `*{ending}`.")
    found = sorted(path for path in folder.iterdir() if path.name.endswith(ending) and path.is_file())
    if len(found) != 1:
        names = ", ".join(f"`{path.name}`" for path in found) or "none"
        raise InputError(
            f"{folder} must hold one file `*{ending}`, but has {names}; give the path of one file."
        )
    return found[0]


def check_names(name: str, ids: Sequence[str]) -> None:
    """Refuse what a writer of tab-separated files cannot spell.

    Args:
        name: of the set, which its files begin with.
        ids: raw ids of users and items.

    Raises:
        InputError: a name that is a path, or an id with a tab, a line end, a byte order mark, or a blank one.
    """
    if not name or Path(name).name != name:
        raise InputError(f"`{name}` cannot name a data set; give a plain name without slashes.")
    for raw in ids:
        if not raw.strip() or _SEPARATORS.search(raw):
            raise InputError(
                f"The id {raw!r} is blank or holds a tab, a line end or a byte order mark; rename it."
            )


def shortest(price: np.float32) -> float:
    """Return a price as the shortest number that is read back as the same float32: 12.99, not 12.98999977."""
    return float(str(price))
