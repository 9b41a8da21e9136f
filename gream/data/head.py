"""The beginning of a file of any kind: some rows, and how many there may be. Never the whole file."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gream.data.frames import kind_of, separator_of
from gream.data.lines import PARSE_ERRORS, is_gzip, parse_line
from gream.errors import InputError

_NUM_BYTES = 1 << 20  # of the file, unpacked, that are looked at
_NUM_ROWS = 1000  # of these at most


@dataclass(frozen=True)
class Head:
    """What the beginning of a file holds.

    `kind` is parquet, json, literal (Python literals), csv, or text for what has no columns; `columns` has a
    column's values in the first rows under its name, nothing for text.
    """

    kind: str
    columns: dict[str, list[object]]
    lines: list[str]  # the first lines as they stand, for kinds made of lines
    size: str  # "120 rows", "about 3,000,000 rows"

    @property
    def num_rows(self) -> int:
        """How many rows `columns` has."""
        return len(next(iter(self.columns.values()), []))


def read_head(path: Path) -> Head:
    """Read the beginning of a file.

    Raises:
        InputError: nothing there, an empty file, or one that is damaged.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a file or a folder.")
    with path.open("rb") as handle:
        if handle.read(4) == b"PAR1":
            return _parquet_head(path)
    lines, size = _first_lines(path)
    rows = [entry for line in lines if isinstance(entry := _parse(line), dict)]
    if rows and len(rows) >= len(lines) / 2:
        is_json = any(_is_json(line) for line in lines)
        return Head("json" if is_json else "literal", _columns_of(rows), _shown(lines), size)
    columns = _csv_columns(path, [line.decode("utf-8", "replace") for line in lines])
    if columns:
        number = size.replace("about ", "").split()[0].replace(",", "")
        if not size.startswith("about "):
            size = f"{int(number) - 1:,} rows"  # the header is none
        return Head("csv", columns, _shown(lines), size)
    return Head("text", {}, _shown(lines), size)


def _parquet_head(path: Path) -> Head:
    try:
        lazy = pl.scan_parquet(path, glob=False)
        frame = lazy.head(_NUM_ROWS).collect()
        num_rows = lazy.select(pl.len()).collect().item()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} cannot be read; repair it or export it again.") from error
    return Head("parquet", frame.to_dict(as_series=False), [], f"{num_rows:,} rows")


def _first_lines(path: Path) -> tuple[list[bytes], str]:
    """Return the first lines that are not blank, and how many rows the file may have."""
    with path.open("rb") as raw:
        try:
            data = gzip.GzipFile(fileobj=raw).read(_NUM_BYTES) if is_gzip(path) else raw.read(_NUM_BYTES)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{path} ends early or is damaged ({error}); fetch the file again.") from error
        whole = len(data) < _NUM_BYTES
        packed_size, packed_read = path.stat().st_size, raw.tell()
    lines = [line for line in data.split(b"\n") if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty; give a file with purchases.")
    if whole:
        return lines[:_NUM_ROWS], f"{len(lines):,} rows"
    if len(lines) > 1:
        lines.pop()  # cut off in its middle
    guess = float(f"{len(lines) * packed_size / packed_read:.2g}")
    return lines[:_NUM_ROWS], f"about {guess:,.0f} rows"


def _parse(line: bytes) -> object:
    try:
        return parse_line(line, literal=True)
    except PARSE_ERRORS:
        return None


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(parse_line(line, literal=False), dict)
    except PARSE_ERRORS:
        return False


def _columns_of(rows: Sequence[dict[object, object]]) -> dict[str, list[object]]:
    names = dict.fromkeys(name for row in rows for name in row if isinstance(name, str))
    return {name: [row.get(name) for row in rows] for name in names}


def _csv_columns(path: Path, lines: list[str]) -> dict[str, list[object]]:
    """Return the columns of what may be a CSV; nothing if its name or its lines say that it is none."""
    try:
        kind = kind_of(path)
    except InputError:
        kind = ""
    if kind not in (".csv", ".tsv") and path.suffix not in (".inter", ".item"):
        return {}
    separator = separator_of(path, lines[0]) if kind else "\t"
    try:
        header, *records = csv.reader([line.rstrip("\r") + "\n" for line in lines], delimiter=separator)
    except csv.Error:
        return {}
    header[0] = header[0].removeprefix("\ufeff")
    rows = [record for record in records if len(record) == len(header)]
    columns: dict[str, list[object]] = {}
    for place, name in enumerate(header):
        columns.setdefault(name, [row[place] or None for row in rows])  # of two of one name the first counts
    return columns


def _shown(lines: list[bytes]) -> list[str]:
    return [line.decode("utf-8", "replace").strip() for line in lines[:3]]
