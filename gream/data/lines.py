"""Read files of one JSON object a line, plain or gzip, hostile ones included.

Amazon's reviews of 2014 look like JSON but were printed by Python (single quotes, True, None); they are read
with `ast.literal_eval`, which builds values and runs nothing.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import json
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from gream.data.unusable import Unusable
from gream.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
# What json and ast answer to broken or hostile text; thousands of brackets make the last two.
PARSE_ERRORS = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)

_GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
_SHOWN = 60  # characters of a broken line that a message repeats


def json_lines(
    path: Path, unusable: Unusable, *, literal: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "file, line n" and the object of every line that is not blank.

    Every such line is counted in `unusable.rows`; one that holds no whole object goes to `unusable`.

    Args:
        path: the file; whether it is gzip is told by its first bytes, not by its name.
        unusable: takes what cannot be read.
        literal: a line that is no JSON may be a Python literal.

    Raises:
        InputError: no such file, nothing in it, or a broken gzip file.
    """
    found = False
    for number, line in enumerate(byte_lines(path), start=1):
        if not line.strip():
            continue
        found = True
        unusable.rows += 1
        where = f"{path}, line {number}"
        try:
            entry = parse_line(line, literal=literal)
        except PARSE_ERRORS:
            unusable.add("no complete JSON object", [f"{where}: {_start(line)}"])
            continue
        if isinstance(entry, dict):
            yield where, entry
        else:
            unusable.add("no JSON object", [f"{where}: {_start(line)}"])
    if not found:
        raise InputError(f"{path} is empty; give a file with one JSON object a line.")


def parse_line(line: bytes, *, literal: bool) -> object:
    """Return what a line of JSON, or a Python literal, spells.

    Raises:
        One of PARSE_ERRORS: it spells nothing.
    """
    try:
        return json.loads(line)
    except ValueError:
        if not literal:
            raise
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes such as "\d", which Python keeps as they are
        return ast.literal_eval(line.decode("utf-8-sig").strip())


def byte_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked if it is gzip.

    Raises:
        InputError: no such file, or a broken gzip file.
    """
    with open_plain(path) as handle:
        yield from handle


@contextlib.contextmanager
def open_plain(path: Path) -> Iterator[BinaryIO]:
    """Open a file for its bytes, unpacked if it is gzip.

    Raises:
        InputError: no such file, or, while it is read, a broken gzip file.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path to a file.")
    with path.open("rb") as raw:
        if not is_gzip(path):
            yield raw
            return
        with gzip.open(raw) as unpacked:
            try:
                yield unpacked  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
            except _GZIP_ERRORS as error:
                told = f"{path} ends early or is damaged ({error}); fetch the file again."
                raise InputError(told) from error


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give a file that is not gzip: the same one, or a temporary one with its content.

    Raises:
        InputError: no such file, or a broken gzip file.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; correct the path to a file.")
    if not is_gzip(path):
        yield path
        return
    with tempfile.NamedTemporaryFile() as copy:
        try:
            with gzip.open(path) as packed:
                shutil.copyfileobj(packed, copy)
        except _GZIP_ERRORS as error:
            raise InputError(f"{path} ends early or is damaged ({error}); fetch the file again.") from error
        copy.flush()
        yield Path(copy.name)


def is_gzip(path: Path) -> bool:
    """Say whether a file begins as gzip files do."""
    with path.open("rb") as handle:
        return handle.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _start(line: bytes) -> str:
    text = line.decode("utf-8", "replace").strip()
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
