"""Names in the form of LC-Rec: written, read, and every way in which a file can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.errors import InputError
from gream.semantic_ids.index_file import means_of_codes, read_index, write_index
from gream.semantic_ids.layout import Names, SidLayout


def catalogue_of(*item_ids: str) -> Catalogue:
    empty = [""] * len(item_ids)
    return Catalogue(list(item_ids), empty, empty, empty, [()] * len(item_ids), np.zeros(len(item_ids)))


def index(folder: Path, rows: Any, **ids: int) -> Path:
    path = folder / "toys.index.json"
    path.write_text(json.dumps(rows))
    if ids:
        (folder / "toys.item2id").write_text("".join(f"{raw}\t{number}\n" for raw, number in ids.items()))
    return path


def test_what_is_written_is_read_again(tmp_path: Path, names: Names, catalogue: Catalogue) -> None:
    path = tmp_path / "toys.index.json"
    write_index(path, names)
    assert json.loads(path.read_text())["3"] == [
        f"<{letter}_{code}>" for letter, code in zip("abc", names.codes[3], strict=True)
    ]
    ids = {raw: number for number, raw in enumerate(catalogue.item_ids)}
    (tmp_path / "toys.item2id").write_text("".join(f"{raw}\t{n}\n" for raw, n in ids.items()))
    again, codes = read_index(path, catalogue)
    assert again.codes.tolist() == names.codes.tolist() == codes.tolist()


def test_keys_are_raw_ids_without_a_map_and_other_items_are_left_alone(tmp_path: Path) -> None:
    path = index(tmp_path, {"x": ["<a_1>", "<b_0>"], "gone": ["<a_9>", "<b_9>"], "y": ["<a_0>", "<b_2>"]})
    names, codes = read_index(path, catalogue_of("y", "x"))
    assert names.layout == SidLayout((2, 3))
    assert codes.tolist() == [[0, 2], [1, 0]]


def test_numbers_are_translated_by_the_map_beside_the_index(tmp_path: Path) -> None:
    path = index(tmp_path, {"0": ["<a_1>", "<b_0>"], "1": ["<a_0>", "<b_2>"]}, x=0, y=1)
    assert read_index(path, catalogue_of("y", "x"))[1].tolist() == [[0, 2], [1, 0]]


def test_names_one_longer_where_they_collide_get_a_last_level(tmp_path: Path) -> None:
    rows = {"x": ["<a_1>", "<b_0>"], "y": ["<a_1>", "<b_0>", "<c_0>"], "z": ["<a_1>", "<b_0>", "<c_1>"]}
    names, codes = read_index(index(tmp_path, rows), catalogue_of("x", "y", "z"))
    assert names.layout == SidLayout((2, 1, 3), disambiguation=True)
    assert names.codes.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]
    assert codes.tolist() == [[1, 0]] * 3


def test_items_that_share_a_name_are_told_apart(tmp_path: Path) -> None:
    rows = {"x": ["<a_0>"], "y": ["<a_1>"], "z": ["<a_0>"]}
    names, _ = read_index(index(tmp_path, rows), catalogue_of("x", "y", "z"))
    assert names.codes.tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "must hold one object"),
        ({"x": ["<a_1>"]}, "has no name for 1 of 2 items \\(such as `y`\\)"),
        ({"x": ["<a_1>"], "y": ["a_1"]}, "the name of item `y` is"),
        ({"x": ["<a_1>"], "y": "<a_1>"}, "the name of item `y` is"),
        ({"x": ["<a_1>"], "y": []}, "the name of item `y` is"),
        ({"x": ["<a_1>"], "y": [7]}, "the name of item `y` is"),
        ({"x": ["<a_1>"], "y": ["<a_1>", "<b_1>", "<c_1>"]}, "names of 1 to 3 tokens"),
    ],
)
def test_a_broken_index_is_refused(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_index(index(tmp_path, rows), catalogue_of("x", "y"))


def test_no_file_broken_json_and_a_broken_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_index(tmp_path / "none.index.json", catalogue_of("x"))
    path = index(tmp_path, {"x": ["<a_1>"]})
    (tmp_path / "toys.item2id").write_text("x\t0\nbroken\n")
    with pytest.raises(InputError, match="toys.item2id, line 2 must be a raw id"):
        read_index(path, catalogue_of("x"))
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no JSON"):
        read_index(path, catalogue_of("x"))


def test_codewords_are_the_means_of_what_is_left() -> None:
    vectors = np.array([[1.0], [3.0], [10.0]], np.float32)
    books = means_of_codes(vectors, np.array([[0, 1], [0, 0], [2, 1]]), SidLayout((3, 2)))
    assert books[0].tolist() == [[2.0], [0.0], [10.0]]
    assert books[1].tolist() == [[1.0], [-0.5]]  # rest 1; rests -1 and 0


def test_a_longer_name_keeps_its_number_behind_the_shorter_one(tmp_path: Path) -> None:
    path = index(tmp_path, {"x": ["<a_1>"], "y": ["<a_1>", "<b_0>"]})
    assert read_index(path, catalogue_of("y", "x"))[0].codes.tolist() == [[1, 1], [1, 0]]


def test_longer_names_that_are_shared_are_numbered_without_gaps(tmp_path: Path) -> None:
    rows = {"x": ["<a_1>"], "y": ["<a_1>", "<b_0>"], "z": ["<a_1>", "<b_0>"]}
    names, _ = read_index(index(tmp_path, rows), catalogue_of("x", "y", "z"))
    assert names.layout == SidLayout((2, 3), disambiguation=True)
    assert names.codes.tolist() == [[1, 0], [1, 1], [1, 2]]


def test_empty_lines_of_the_map_are_passed_over(tmp_path: Path) -> None:
    path = index(tmp_path, {"0": ["<a_1>"], "1": ["<a_0>"]})
    (tmp_path / "toys.item2id").write_text("x\t0\n\ny\t1\n")
    assert read_index(path, catalogue_of("x", "y"))[1].tolist() == [[1], [0]]
