"""A folder of Parquet files that is written part by part, and can be gone on with after a kill.

The parts of FOLDER are written into `.FOLDER.partial` beside it, which is renamed when the last one is there:
FOLDER is whole or absent, and holds Parquet files only, so that every tool reads it as one table. A part is
renamed too when all of it is on the disk, and says in its own metadata what it was made from; a file that
does not is made again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gream.errors import InputError

_KEY = b"gream"  # of a part's metadata


class ListParts:
    """The parts of one folder, in `with`; part p holds the lists of the p-th stretch of users."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any], num_parts: int) -> None:
        """Say what will be written.

        Args:
            folder: where the finished table will be.
            made_from: settings and fingerprints of inputs, JSON-compatible; parts made from anything else
                are refused.
            num_parts: how many parts there will be.
        """
        self.folder = folder
        self.num_parts = num_parts
        self.finished = False  # all of it is there already
        self._made_from: dict[str, Any] = json.loads(json.dumps(dict(made_from)))
        self._partial = folder.parent / f".{folder.name}.partial"
        self._lock: int | None = None

    def __enter__(self) -> ListParts:
        """Look at what is there, and keep other commands away from it until the end.

        Raises:
            InputError: the place holds something else, cannot be written, or is being written just now.
        """
        self.finished = self.folder.exists() and not _is_empty_folder(self.folder)
        if self.finished:
            self._check_finished()
            return self
        try:
            self._partial.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._partial, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a killed process leaves none behind
            self._check_begun()
        except BlockingIOError as error:
            self.__exit__()
            raise InputError(f"Another command is writing {self.folder}; wait for it, or stop it.") from error
        except OSError as error:
            told = f"Cannot write {self.folder}: {error.strerror}; choose another `--output`."
            raise InputError(told) from error
        except InputError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def num_users(self, number: int) -> int | None:
        """Return how many users a part holds lists of; None where it is to be made."""
        note = _note(_file(self._partial, number))
        return None if note is None else int(note["users"])

    def missing(self) -> list[int]:
        """Return the parts that are to be made."""
        numbers = () if self.finished else range(self.num_parts)
        return [number for number in numbers if self.num_users(number) is None]

    def write(self, number: int, table: pa.Table, num_users: int) -> None:
        """Write one part, whole or not at all.

        Raises:
            InputError: the disk is full.
        """
        note = {"made_from": self._made_from, "users": num_users}
        draft = self._partial / f".part-{number:06d}"
        try:
            with draft.open("wb") as handle:
                pq.write_table(table.replace_schema_metadata({_KEY: json.dumps(note)}), handle)
                handle.flush()
                os.fsync(handle.fileno())  # or a power failure could leave the name without the bytes
            os.replace(draft, _file(self._partial, number))
        except OSError as error:
            raise InputError(
                f"Cannot write {self._partial}: {error.strerror or error}; make room and give the "
                "same command again, it goes on."
            ) from error

    def finish(self) -> int:
        """Give the folder its name, once every part is there; returns how many users it holds lists of."""
        num_users = [self.num_users(number) for number in range(self.num_parts)]
        assert None not in num_users
        for draft in self._partial.glob(".part-*"):  # of a killed command
            draft.unlink()
        os.replace(self._partial, self.folder)
        return sum(filter(None, num_users))

    def _check_begun(self) -> None:
        for part in self._partial.glob("part-*.parquet"):
            self._refuse_others(_note(part), self._partial)

    def _check_finished(self) -> None:
        first = _note(_file(self.folder, 0))
        if first is None:
            raise InputError(
                f"{self.folder} is there already and is no table that `gream recommend` wrote; choose "
                "another `--output`."
            )
        self._refuse_others(first, self.folder)
        for number in range(self.num_parts):
            if _note(_file(self.folder, number)) is None:
                broken = _file(self.folder, number)
                raise InputError(f"{broken} is missing or damaged; delete {self.folder} to write it again.")

    def _refuse_others(self, note: dict[str, Any] | None, place: Path) -> None:
        if note is None:
            return
        before, now = note["made_from"], self._made_from
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            raise InputError(
                f"{place} was begun with other {', '.join(changed)}; give the same again, delete it, or "
                "choose another `--output`."
            )


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _file(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.parquet"


def _note(path: Path) -> dict[str, Any] | None:
    """Read what a part says of itself; None where there is no whole part."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException):  # a damaged footer is an OSError to arrow
        return None
    note: dict[str, Any] | None = json.loads(metadata[_KEY]) if _KEY in metadata else None
    return note
