"""Users and their histories, read one by one from a file or from the prepared data, never all at once.

A file is Parquet with the columns `user_id` and `history`, a list of ids, or JSON lines such as
`{"user_id": "u1", "history": ["item-1", "item-2"]}`, gzipped or not; its first bytes tell. Ids are texts
or whole numbers, histories are oldest first. A row that is no such row is an error with its place. What
becomes of a user whose history names items that the catalogue does not have is the caller's choice.

Legend: N items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gream.data.lines import PARSE_ERRORS, byte_lines, parse_line
from gream.data.sources import identifier
from gream.data.store import Interactions
from gream.data.unusable import Unusable
from gream.errors import InputError

# Why a user gets no list; the first two are mistakes of the file, the third is an ordinary event.
UNKNOWN = "an item that the catalogue does not have"
EMPTY = "a history without any item"
NOTHING_LEFT = "nothing left to recommend"

_COLUMNS = ("user_id", "history")
_PARQUET_MAGIC = b"PAR1"
_ROWS = 1024  # of a Parquet file that are Python objects at a time


@dataclass(frozen=True)
class Row:
    """One row of a file as it stands there."""

    where: str  # "file, line 7"
    user_id: str
    history: list[str]


@dataclass(frozen=True)
class Request:
    """One user who gets a list."""

    user_id: str
    items: list[int]  # dense, oldest first


@dataclass
class Counts:
    """What was looked at; `left_out.rows` counts every user, answered or not."""

    left_out: Unusable = field(default_factory=Unusable)
    dropped: int = 0  # unknown items that were taken out of histories

    @property
    def answered(self) -> int:
        """Users who get a list."""
        return self.left_out.rows - self.left_out.total


# Every user in order, None for one who gets no list; each call starts anew.
Requests = Callable[[Counts], Iterator[Request | None]]


def file_requests(path: Path, index: Mapping[str, int], *, drop_unknown: bool) -> Requests:
    """Read the users of a file; those without a usable history are left out and counted.

    Args:
        path: the file.
        index: raw id to dense item.
        drop_unknown: take unknown items out of a history and leave out who has none left; else a user with
            one unknown item is left out.

    Raises:
        InputError: no such file; when it is read, what `read_rows` raises.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of a file of histories.")

    def requests(counts: Counts) -> Iterator[Request | None]:
        for row in read_rows(path):
            counts.left_out.rows += 1
            yield _request(row, index, drop_unknown, counts)

    return requests


def known_requests(interactions: Interactions) -> Requests:
    """Ask for every user of the prepared data, after all known purchases."""

    def requests(counts: Counts) -> Iterator[Request | None]:
        for user_id, items in zip(interactions.user_ids, interactions.sequences, strict=True):
            counts.left_out.rows += 1
            yield Request(user_id, items.tolist())

    return requests


def answerable(requests: Requests, allowed: np.ndarray, exclude_seen: bool) -> Requests:
    """Leave out users for whom nothing is left: who bought all that is allowed, (N,) bool."""
    num_allowed = int(allowed.sum())

    def nothing_left(items: list[int]) -> bool:
        # Nearly every history is shorter than what is allowed, and need not be looked at.
        return num_allowed <= len(items) and num_allowed == int(allowed[list(set(items))].sum())

    def left(counts: Counts) -> Iterator[Request | None]:
        for request in requests(counts):
            if request and exclude_seen and nothing_left(request.items):
                counts.left_out.add(NOTHING_LEFT, [f"user {request.user_id!r}"])
                yield None
            else:
                yield request

    return left


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        InputError: a file without rows, a broken one, or a row that is none.
    """
    with path.open("rb") as handle:
        parquet = handle.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    found = False
    for where, entry in _parquet_entries(path) if parquet else _json_entries(path):
        found = True
        yield _row(where, entry)
    if not found:
        raise InputError(f"{path} has no rows; give one user a row, with `user_id` and `history`.")


def _json_entries(path: Path) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(byte_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = parse_line(line, literal=False)
        except PARSE_ERRORS as error:
            raise InputError(f"{where} is no JSON; {_EXPECTED}") from error
        yield where, entry


def _parquet_entries(path: Path) -> Iterator[tuple[str, object]]:
    try:
        # Without buffering ahead, or all of a row group would be in memory at once.
        with pq.ParquetFile(path, pre_buffer=False) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if missing:
                names = ", ".join(file.schema_arrow.names)
                raise InputError(f"{path} has no column `{missing[0]}`, but {names}; {_EXPECTED}")
            number = 0
            for batch in file.iter_batches(_ROWS, columns=list(_COLUMNS)):
                for entry in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", entry
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read; repair it or export it again.") from error


_EXPECTED = "give one user a row, with a `user_id` and a `history`, which is a list of item ids."


def _row(where: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise InputError(f"{where} is no JSON object; {_EXPECTED}")
    user_id = identifier(entry.get("user_id"))
    if user_id is None:
        raise InputError(f"{where} has no `user_id` that is a text or a whole number; {_EXPECTED}")
    history = entry.get("history")
    ids = [identifier(value) for value in history] if isinstance(history, list) else [None]
    if None in ids:
        raise InputError(f"{where} has no `history` that is a list of texts or whole numbers; {_EXPECTED}")
    return Row(where, user_id, [raw for raw in ids if raw is not None])


def _request(row: Row, index: Mapping[str, int], drop_unknown: bool, counts: Counts) -> Request | None:
    unknown = [raw for raw in row.history if raw not in index]
    if unknown and not drop_unknown:
        counts.left_out.add(UNKNOWN, [f"{row.where}: `{unknown[0]}`"])
        return None
    counts.dropped += len(unknown)
    items = [index[raw] for raw in row.history if raw in index]
    if not items:
        counts.left_out.add(EMPTY, [row.where])
        return None
    return Request(row.user_id, items)
