"""A folder of parts is whole or absent, and only whole parts of the same lists are gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gream.decoding.list_parts import ListParts
from gream.errors import InputError

MADE_FROM = {"k": 3, "file": "abc", "bounds": (1, 2)}


def table(number: int) -> pa.Table:
    return pa.table({"user_id": [f"u{number}"] * 2, "rank": [1, 2]})


def test_the_folder_appears_when_the_last_part_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "lists"
    with ListParts(folder, MADE_FROM, 2) as parts:
        assert [parts.num_users(n) for n in range(2)] == [None, None]
        parts.write(0, table(0), 3)
        parts.write(1, table(1), 4)
        assert not folder.exists() and [parts.num_users(n) for n in range(2)] == [3, 4]
        assert parts.finish() == 7
    assert [p.name for p in folder.parent.iterdir()] == ["lists"]
    # Every reader takes the folder for one table.
    assert pl.read_parquet(folder)["user_id"].to_list() == ["u0", "u0", "u1", "u1"]
    assert pq.read_table(folder).num_rows == 4
    with ListParts(folder, MADE_FROM, 2) as again:
        assert again.finished


def test_a_part_that_is_cut_or_foreign_is_made_again(tmp_path: Path) -> None:
    with ListParts(tmp_path / "lists", MADE_FROM, 4) as parts:
        for number in range(4):
            parts.write(number, table(number), 1)
    first, second, third, _ = sorted((tmp_path / ".lists.partial").iterdir())
    first.write_bytes(first.read_bytes()[:-1])
    second.unlink()
    pq.write_table(table(2), third)
    with ListParts(tmp_path / "lists", MADE_FROM, 4) as parts:
        assert [parts.num_users(n) for n in range(4)] == [None, None, None, 1]


def test_a_part_is_never_there_by_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the writing, the name of the part stays free; the next command clears up."""
    partial = tmp_path / ".lists.partial"

    def cut_off(_: pa.Table, handle: BinaryIO) -> None:
        handle.write(b"PAR1 and not much more")
        raise OSError(28, "No space left on device")

    with ListParts(tmp_path / "lists", MADE_FROM, 1) as parts:
        with monkeypatch.context() as patched:
            patched.setattr(pq, "write_table", cut_off)
            with pytest.raises(InputError, match="No space left on device; make room and give the same"):
                parts.write(0, table(0), 1)
        assert [p.name for p in partial.iterdir()] == [".part-000000"]
        assert parts.num_users(0) is None
        parts.write(0, table(0), 1)
        (partial / ".part-000007").write_bytes(b"left over")
        parts.finish()
    assert [p.name for p in (tmp_path / "lists").iterdir()] == ["part-000000.parquet"]


def test_other_lists_are_refused_by_what_differs(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    other = {**MADE_FROM, "k": 4, "file": "abd"}
    with ListParts(folder, MADE_FROM, 1) as parts:
        parts.write(0, table(0), 1)
    told = r"\.lists\.partial was begun with other file, k; give the same again, delete it, or choose another"
    with pytest.raises(InputError, match=told), ListParts(folder, other, 1):
        pass
    with ListParts(folder, MADE_FROM, 1) as parts:
        parts.finish()
    with pytest.raises(InputError, match="/lists was begun with other file, k"), ListParts(folder, other, 1):
        pass


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    file.write_text("mine")
    told = "is there already and is no table that `gream recommend` wrote"
    for place in (folder, file):
        with pytest.raises(InputError, match=told), ListParts(place, MADE_FROM, 1):
            pass
    with pytest.raises(InputError, match="Cannot write"), ListParts(file / "lists", MADE_FROM, 1):
        pass


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    with ListParts(folder, MADE_FROM, 1) as parts:
        assert not parts.finished
        parts.write(0, table(0), 1)
        parts.finish()
    assert pl.read_parquet(folder).height == 2


def test_a_finished_folder_that_lost_a_part_is_told(tmp_path: Path) -> None:
    with ListParts(tmp_path / "lists", MADE_FROM, 2) as parts:
        parts.write(0, table(0), 1)
        parts.write(1, table(1), 1)
        parts.finish()
    (tmp_path / "lists" / "part-000001.parquet").unlink()
    told = "part-000001.parquet is missing or damaged; delete"
    with pytest.raises(InputError, match=told), ListParts(tmp_path / "lists", MADE_FROM, 2):
        pass


def test_only_one_command_may_write(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    second = ListParts(folder, MADE_FROM, 1)
    with ListParts(folder, MADE_FROM, 1), pytest.raises(InputError, match="Another command is writing"):
        second.__enter__()
    with ListParts(folder, MADE_FROM, 1) as parts:
        assert parts.num_users(0) is None
