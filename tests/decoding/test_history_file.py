"""Files of histories: what is read, what is refused with its place, and who is left out and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from gream.data.store import Interactions
from gream.decoding.history_file import Counts, Request, answerable, file_requests, known_requests, read_rows
from gream.errors import InputError

INDEX = {f"item-{i}": i for i in range(6)}
ROWS = [
    {"user_id": "u1", "history": ["item-2", "item-0"]},
    {"user_id": 7, "history": ["item-9", "item-1", "item-8"]},
    {"user_id": "u3", "history": []},
    {"user_id": "u4", "history": ["item-9"]},
    {"user_id": "u1", "history": ["item-5"]},
]


def lines(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "h.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def all_of(path: Path, *, drop: bool) -> tuple[list[Request | None], Counts]:
    counts = Counts()
    return list(file_requests(path, INDEX, drop_unknown=drop)(counts)), counts


def test_users_with_unknown_items_or_none_are_left_out_and_counted(tmp_path: Path) -> None:
    path = lines(tmp_path, *ROWS)
    found, counts = all_of(path, drop=False)
    assert found == [Request("u1", [2, 0]), None, None, None, Request("u1", [5])]
    assert (counts.left_out.rows, counts.answered, counts.dropped) == (5, 2, 0)
    assert counts.left_out.lines() == [
        f"2 of 5 rows left out, an item that the catalogue does not have: {path}, line 2: `item-9`; "
        f"{path}, line 4: `item-9`",
        f"1 of 5 rows left out, a history without any item: {path}, line 3",
    ]


def test_unknown_items_can_be_taken_out(tmp_path: Path) -> None:
    found, counts = all_of(lines(tmp_path, *ROWS), drop=True)
    assert found == [Request("u1", [2, 0]), Request("7", [1]), None, None, Request("u1", [5])]
    assert (counts.answered, counts.dropped) == (3, 3)
    assert counts.left_out.counts == {"a history without any item": 2}


def test_lines_gzip_and_parquet_say_the_same(tmp_path: Path) -> None:
    rows = [{"user_id": f"u{i}", "history": ["item-1"] * (i % 5)} for i in range(3000)]
    plain = lines(tmp_path, *rows)
    packed, parquet = tmp_path / "packed", tmp_path / "parquet"  # no suffix tells what they are
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    pl.DataFrame(rows).with_columns(other=1).write_parquet(parquet, row_group_size=700)
    read = [[(r.user_id, r.history) for r in read_rows(path)] for path in (plain, packed, parquet)]
    assert read[0] == read[1] == read[2] == [(r["user_id"], r["history"]) for r in rows]
    assert [r.where for r in read_rows(parquet)][2999] == f"{parquet}, row 3000"


def test_ids_that_are_numbers_are_their_digits(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pl.DataFrame({"user_id": [12], "history": [[3, 40]]}).write_parquet(path)
    assert [(r.user_id, r.history) for r in read_rows(path)] == [("12", ["3", "40"])]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{", "line 3 is no JSON"),
        ("[1]", "line 3 is no JSON object"),
        ({"history": ["item-1"]}, "line 3 has no `user_id`"),
        ({"user_id": 1.5, "history": []}, "line 3 has no `user_id`"),
        ({"user_id": "u"}, "line 3 has no `history`"),
        ({"user_id": "u", "history": "item-1"}, "line 3 has no `history`"),
        ({"user_id": "u", "history": ["item-1", None]}, "line 3 has no `history`"),
        ('{"user_id": "u", "history": ["\\ud800"]}', "line 3 has no `history`"),
    ],
)
def test_a_row_that_is_none_is_told_with_its_line(tmp_path: Path, row: Any, told: str) -> None:
    path = lines(tmp_path, ROWS[0], "", row, ROWS[1])
    with pytest.raises(InputError, match=f"{told}.*; give one user a row, with a `user_id`"):
        list(read_rows(path))


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; give the path of a file of histories"):
        file_requests(tmp_path / "none", INDEX, drop_unknown=False)
    with pytest.raises(InputError, match="has no rows"):
        list(read_rows(lines(tmp_path)))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pl.DataFrame({"user": ["u"], "history": [["i"]]}).write_parquet(whole)
    with pytest.raises(InputError, match="has no column `user_id`, but user, history; give one user"):
        list(read_rows(whole))
    footer = whole.read_bytes()
    for at in range(len(footer) - 60, len(footer) - 8, 3):  # arrow has several exceptions for these
        cut.write_bytes(footer[:at] + b"\xff" + footer[at + 1 :])
        with pytest.raises(InputError):
            list(read_rows(cut))
    cut.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_rows(cut))


def test_who_bought_all_that_is_allowed_is_left_out(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {"user_id": "all", "history": ["item-1", "item-4", "item-1"]},
        {"user_id": "twice one", "history": ["item-1", "item-1", "item-0"]},
    )
    allowed = np.array([False, True, False, False, True, False])
    requests = file_requests(path, INDEX, drop_unknown=False)
    counts = Counts()
    found = list(answerable(requests, allowed, exclude_seen=True)(counts))
    assert found == [None, Request("twice one", [1, 1, 0])]
    assert counts.left_out.lines() == ["1 of 2 rows left out, nothing left to recommend: user 'all'"]
    assert None not in answerable(requests, allowed, exclude_seen=False)(Counts())


def test_every_user_of_the_data_is_asked_for(interactions: Interactions) -> None:
    counts = Counts()
    found = list(known_requests(interactions)(counts))
    assert [r and (r.user_id, r.items) for r in found] == [
        (user, items.tolist())
        for user, items in zip(interactions.user_ids, interactions.sequences, strict=True)
    ]
    assert counts.answered == 15
