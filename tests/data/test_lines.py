"""Lines of JSON and of Python literals, packed or not, hostile or not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from gream.data.lines import json_lines, open_plain, unpacked
from gream.data.unusable import Unusable
from gream.errors import InputError

LITERAL = b"{'a': True, 'b': None, 'c': 'it\\'s \\d'}"


def _read(path: Path, *, literal: bool = False) -> tuple[list[tuple[str, dict[str, object]]], Unusable]:
    unusable = Unusable()
    return list(json_lines(path, unusable, literal=literal)), unusable


@pytest.mark.parametrize("packed", [False, True])
def test_whether_a_file_is_packed_is_told_by_its_bytes(tmp_path: Path, packed: bool) -> None:
    text = b'{"a": 1}\n\n  \n{"a": 2}'
    path = tmp_path / ("lines.jsonl" if packed else "lines.jsonl.gz")  # the name says the contrary
    path.write_bytes(gzip.compress(text) if packed else text)
    found, unusable = _read(path)
    assert found == [(f"{path}, line 1", {"a": 1}), (f"{path}, line 4", {"a": 2})]
    assert (unusable.rows, unusable.total) == (2, 0)


def test_python_literals_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_bytes(LITERAL + b'\n{"a": true}\n')
    found, _ = _read(path, literal=True)
    assert [entry for _, entry in found] == [{"a": True, "b": None, "c": "it's \\d"}, {"a": True}]
    found, unusable = _read(path)
    assert len(found) == 1 and unusable.counts == {"no complete JSON object": 1}


@pytest.mark.parametrize("literal", [False, True])
@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"(" * 5_000 + b"1" + b")" * 5_000,
        b"-" * 100_000 + b"1",
        b"{[]: 1}",
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": "\xff"}',
        b"\x00",
        b"__import__('os').system('exit 1')",
        b"{'a': open('/etc/passwd')}",
        b'{"a": 1',
    ],
    ids=range(11),
)
def test_hostile_and_broken_lines_cost_only_themselves(tmp_path: Path, line: bytes, literal: bool) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    found, unusable = _read(path, literal=literal)
    assert [entry for _, entry in found] == [{"a": 1}, {"a": 2}]
    assert (unusable.rows, unusable.counts) == (3, {"no complete JSON object": 1})
    [place] = unusable.shown["no complete JSON object"]
    assert place.startswith(f"{path}, line 2: ") and len(place) < len(str(path)) + 100


def test_what_is_no_object_has_its_own_reason(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_bytes(b'[1]\n"x"\n')
    assert _read(tmp_path / "lines.jsonl")[1].counts == {"no JSON object": 2}


def test_missing_empty_and_damaged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with pytest.raises(InputError, match=r"lines\.jsonl does not exist; correct the path"):
        _read(path)
    path.write_bytes(b"\n  \n")
    with pytest.raises(InputError, match=r"lines\.jsonl is empty; give a file with one JSON object a line"):
        _read(path)
    packed = gzip.compress(b'{"a": 1}\n' * 99)
    for damaged in (packed[:-9], packed[:12] + b"\xff\xff\xff" + packed[15:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"lines\.jsonl ends early or is damaged"):
            _read(path)
        with pytest.raises(InputError, match=r"ends early or is damaged"), open_plain(path) as handle:
            handle.read()  # as the readers of MovieLens, RecBole and LC-Rec do
        with pytest.raises(InputError, match=r"ends early or is damaged"), unpacked(path):
            pass


def test_unpacked_leaves_a_plain_file_where_it_is(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.csv", tmp_path / "a.csv.gz"
    plain.write_bytes(b"x")
    packed.write_bytes(gzip.compress(b"x"))
    with unpacked(plain) as path:
        assert path == plain
    with unpacked(packed) as path:
        assert path != packed and path.read_bytes() == b"x"
    assert not path.exists()
