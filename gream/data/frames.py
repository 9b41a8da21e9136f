"""Read the wanted columns of a CSV, TSV, Parquet or JSON-lines file, packed by gzip or not.

Polars reads what is whole. A CSV that it refuses is read again record by record, so that a broken line costs
that line and not the file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import polars as pl

from gream.data.lines import byte_lines, json_lines, unpacked
from gream.data.sources import identifier
from gream.data.unusable import Unusable
from gream.errors import InputError

SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson", ".json")
SEPARATORS = ",;|\t"

_CHUNK = 200_000  # JSON lines that are Python objects at a time
_NO_UTF8 = "\ufffd"  # what stands for bytes that are no UTF-8


def read_columns(path: Path, columns: Mapping[str, str], unusable: Unusable) -> pl.DataFrame:
    """Read columns of a file, renamed to our names, with the number of each row in `row`, from 1.

    Ids and texts become text, `category` text or lists of text; `time` and `price` stay numbers or dates
    where the file knows them as such. CSV values stay text, so `007` stays `007`. All rows that are not
    blank are counted in `unusable.rows`, and what cannot be read is added to `unusable`.

    Args:
        path: the file; its name says what it is, its first bytes whether it is packed.
        columns: our name to the file's column.
        unusable: takes the rows that cannot be read.

    Raises:
        InputError: no such file, one of another kind, an empty or broken one, or a missing column.
    """
    suffix = kind_of(path)
    if suffix == ".parquet":
        return _parquet(path, columns, unusable)
    if suffix in (".csv", ".tsv"):
        with unpacked(path) as plain:
            return _csv(path, plain, columns, unusable)
    return _json(path, columns, unusable)


def kind_of(path: Path) -> str:
    """Return the suffix that says what a file holds, without `.gz`.

    Raises:
        InputError: none that we can read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path} ends in `{path.suffix}`; give a file that ends in {', '.join(SUFFIXES)}, or in one of "
            "these and .gz."
        )
    return suffix


def separator_of(path: Path, header: str) -> str:
    """Return what parts the fields of a CSV: a tab for .tsv, else what its header has most of."""
    if kind_of(path) == ".tsv":
        return "\t"
    bare = re.sub(r'"[^"]*"', "", header)
    return max(SEPARATORS, key=bare.count)  # the first of equals, so a comma where there is none


def json_values(entry: dict[str, object], columns: Mapping[str, str]) -> list[object] | str:
    """Return the wanted values of an object as text, or what is wrong with them."""
    values: list[object] = []
    for key, name in columns.items():
        value = entry.get(name)
        if value is None or value == "":
            values.append(None)
        elif key in ("user", "item"):
            values.append(identifier(value))
            if values[-1] is None:
                return f"`{key}` of the wrong type"
        elif isinstance(value, list) and all(isinstance(part, str) for part in value) and key != "time":
            values.append([_utf8(part) for part in value] if key == "category" else _utf8(" ".join(value)))
        elif isinstance(value, str | int | float) and not isinstance(value, bool):
            values.append(_utf8(value).split(">") if key == "category" else _utf8(value))
        else:
            return f"`{key}` of the wrong type"
    return values


def _parquet(path: Path, columns: Mapping[str, str], unusable: Unusable) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path to a file.")
    try:
        lazy = pl.scan_parquet(path, glob=False)
        _check_columns(path, columns, lazy.collect_schema().names())
        frame = lazy.select(pl.col(name).alias(key) for key, name in columns.items()).collect()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be read; repair it or export it again.") from error
    unusable.rows += len(frame)
    plain = [_plain(frame[key], columns[key], path) for key in columns]
    return pl.DataFrame(plain).with_row_index("row", offset=1)


def _csv(path: Path, plain: Path, columns: Mapping[str, str], unusable: Unusable) -> pl.DataFrame:
    """Read the file `plain`, which messages call `path`."""
    header = next((line for line in byte_lines(plain) if line.strip()), b"").decode("utf-8", "replace")
    separator = separator_of(path, header)
    try:
        lazy = pl.scan_csv(
            plain,
            separator=separator,
            infer_schema=False,
            glob=False,
            with_column_names=_without_doubled_quotes,
        )
        _check_columns(path, columns, lazy.collect_schema().names())
        blank = pl.all_horizontal(pl.all().is_null() | (pl.all() == ""))
        wanted = [pl.col(name).alias(key) for key, name in columns.items()]
        rows = lazy.with_columns(blank.alias("_blank")).with_row_index("_row", offset=1)
        frame = rows.filter(~pl.col("_blank")).select(pl.col("_row").alias("row"), *wanted).collect()
    except pl.exceptions.NoDataError as error:
        raise InputError(f"{path} is empty; give a file with a header line and one row each.") from error
    except pl.exceptions.PolarsError:
        return _csv_by_record(path, plain, columns, separator, unusable)
    unusable.rows += len(frame)
    return frame


def _without_doubled_quotes(names: list[str]) -> list[str]:
    """Undo what polars leaves of quotes in a header: it reads `"a""b"` as `a""b`."""
    return [name.replace('""', '"') for name in names]


def _csv_by_record(
    path: Path, plain: Path, columns: Mapping[str, str], separator: str, unusable: Unusable
) -> pl.DataFrame:
    """Read what polars refused; a record that is broken counts as many rows as it has lines."""
    records = _records(plain, separator)
    _, header, _ = next(records, (0, [], 0))
    names = [*header]
    _check_columns(path, columns, names)
    places = {key: names.index(name) for key, name in columns.items()}
    found: dict[str, list[str | None]] = {key: [] for key in columns}
    rows: list[int] = []
    for number, (first, fields, last) in enumerate(records, start=1):
        num_lines = last - first + 1
        where = f"{path}, line {first}"
        if fields and len(fields) <= len(names):
            if not any(fields):
                continue
            unusable.rows += 1
            fields += [""] * (len(names) - len(fields))
            values = {key: fields[place] or None for key, place in places.items()}
            if any(_NO_UTF8 in (values.get(key) or "") for key in ("user", "item")):
                unusable.add("id that is no UTF-8", [where])
                continue
            rows.append(number)
            for key, value in values.items():
                found[key].append(value)
        elif fields:
            unusable.rows += num_lines
            place = f"{where}: {len(fields)} fields, the header has {len(names)}"
            unusable.add("more fields than the header", [place], count=num_lines)
        else:
            unusable.rows += num_lines
            unusable.add("broken quotes", [where], count=num_lines)
    schema = dict.fromkeys(columns, pl.String)
    return pl.DataFrame(found, schema=schema).insert_column(0, pl.Series("row", rows, dtype=pl.UInt32))


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str], int]]:
    """Yield first line, fields and last line of every record that is not blank; no fields: a broken one."""
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as handle:
        reader = csv.reader(handle, delimiter=separator, strict=True)
        while True:
            first = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error:
                fields = []
            else:
                if not fields:
                    continue
            yield first, fields, reader.line_num


def _json(path: Path, columns: Mapping[str, str], unusable: Unusable) -> pl.DataFrame:
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "row": pl.UInt32,
        **dict.fromkeys(columns, pl.String),
    }
    if "category" in columns:
        schema["category"] = pl.List(pl.String)
    chunks: list[pl.DataFrame] = []
    rows: list[tuple[object, ...]] = []
    seen: set[str] = set()
    for where, entry in json_lines(path, unusable):
        seen.update(entry)
        values = json_values(entry, columns)
        if isinstance(values, str):
            unusable.add(values, [where])
            continue
        rows.append((int(where.rpartition(" ")[2]), *values))
        if len(rows) == _CHUNK:
            chunks.append(pl.DataFrame(rows, schema=schema, orient="row"))
            rows = []
    if seen:
        _check_columns(path, columns, sorted(seen))
    return pl.concat([*chunks, pl.DataFrame(rows, schema=schema, orient="row")])


def _utf8(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _check_columns(path: Path, columns: Mapping[str, str], names: list[str]) -> None:
    for key, name in columns.items():
        if name not in names:
            raise InputError(
                f"{path} has no column `{name}` (columns.{key}); it has {', '.join(names)}; correct "
                "`columns`."
            )


def _plain(values: pl.Series, name: str, path: Path) -> pl.Series:
    """Bring a column to the type we work with: text, or as it is where numbers and dates are welcome."""
    key = values.name
    if key == "category" and values.dtype == pl.List:
        return values
    if values.dtype.is_nested() or values.dtype == pl.Binary:
        raise InputError(f"{path}: column `{name}` (columns.{key}) holds lists or bytes; give plain values.")
    if key in ("time", "price"):
        return values
    if values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(
            pl.Int64, strict=False
        )  # whole numbers that nulls turned into floats: 7.0 is id 7
    return values.cast(pl.String)
