"""Folders are whole or absent, and say what made them."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from gream.artifacts import (
    MANIFEST,
    check_whole,
    fingerprint,
    is_current,
    read_manifest,
    write_file,
    writing,
)
from gream.errors import InputError


def _write(folder: Path, inputs: dict[str, Path] | None = None, text: str = "x", **config: object) -> None:
    with writing(folder, stage="text", config=config, inputs=inputs or {}, seed=3) as draft:
        (draft.path / "file.txt").write_text(text)
        draft.counts["rows"] = 1


def test_a_finished_folder_has_its_manifest(tmp_path: Path) -> None:
    _write(tmp_path / "out", size=4)
    manifest = read_manifest(tmp_path / "out", stage="text")
    assert (manifest.seed, manifest.config, manifest.counts) == (3, {"size": 4}, {"rows": 1})
    assert list(manifest.outputs) == ["file.txt"]


def test_the_most_that_a_stage_held_on_a_gpu_is_told_and_what_lay_there_before_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak = {"now": 9 << 20}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: peak.update(now=2 << 20))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peak["now"])
    _write(tmp_path / "idle")
    assert read_manifest(tmp_path / "idle").device_peak_mb == 0
    with writing(tmp_path / "busy", stage="text", config={}, inputs={}, seed=0):
        peak["now"] = 5 << 20
    assert read_manifest(tmp_path / "busy").device_peak_mb == 5


def test_a_stage_that_fails_leaves_nothing_and_keeps_the_old_folder(tmp_path: Path) -> None:
    _write(tmp_path / "out", text="old")
    with (
        pytest.raises(RuntimeError),
        writing(tmp_path / "out", stage="text", config={}, inputs={}, seed=0) as draft,
    ):
        (draft.path / "file.txt").write_text("half")
        raise RuntimeError
    assert (tmp_path / "out" / "file.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_change_of_config_input_or_files_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("a")
    inputs = {"source": source}
    _write(tmp_path / "out", inputs, size=4)

    def current(**config: object) -> bool:
        return is_current(tmp_path / "out", stage="text", config=config, inputs=inputs)

    assert current(size=4)
    assert not current(size=5)
    source.write_text("b")
    assert not current(size=4)
    source.write_text("a")
    (tmp_path / "out" / "file.txt").unlink()
    assert not current(size=4)


def test_an_artefact_as_input_is_known_by_its_files_not_its_place(tmp_path: Path) -> None:
    _write(tmp_path / "one", size=1)
    _write(tmp_path / "two", size=2)
    _write(tmp_path / "three", text="y")
    assert fingerprint(tmp_path / "one") == fingerprint(tmp_path / "two") != fingerprint(tmp_path / "three")


def test_another_stages_folder_is_refused_by_name(tmp_path: Path) -> None:
    _write(tmp_path / "out")
    with pytest.raises(InputError, match="was written by `gream text`, but the output of `gream sids`"):
        read_manifest(tmp_path / "out", stage="sids")


def test_a_folder_without_manifest_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the output of `gream data`"):
        read_manifest(tmp_path, stage="data")


def test_a_manifest_of_another_format_or_broken_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "out")
    file = tmp_path / "out" / MANIFEST
    data = json.loads(file.read_text())
    file.write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        read_manifest(tmp_path / "out")
    file.write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(tmp_path / "out")
    assert not is_current(tmp_path / "out", stage="text", config={}, inputs={})


def test_a_manifest_of_an_older_gream_is_told_and_its_folder_made_again(tmp_path: Path) -> None:
    """Whatever else changed in it since: the format is what counts."""
    _write(tmp_path / "out")
    file = tmp_path / "out" / MANIFEST
    old = {k: v for k, v in json.loads(file.read_text()).items() if k != "peak_memory_mb"}
    file.write_text(json.dumps(old | {"format": 1, "minutes": 3}))
    with pytest.raises(InputError, match="has format 1, this gream reads 2; run the stage again"):
        read_manifest(tmp_path / "out", stage="text")
    assert not is_current(tmp_path / "out", stage="text", config={}, inputs={})
    _write(tmp_path / "out")
    assert is_current(tmp_path / "out", stage="text", config={}, inputs={})


@pytest.mark.parametrize("change", ["", "y", "x\n"])
def test_a_damaged_file_is_told_to_readers_and_makes_a_folder_not_current(
    tmp_path: Path, change: str
) -> None:
    _write(tmp_path / "out")
    check_whole(tmp_path / "out")
    (tmp_path / "out" / "file.txt").write_text(change)
    for read in (check_whole, lambda folder: read_manifest(folder, stage="text")):
        with pytest.raises(InputError, match="file.txt is missing, damaged or changed since `gream text`"):
            read(tmp_path / "out")
    assert not is_current(tmp_path / "out", stage="text", config={}, inputs={})
    check_whole(tmp_path)  # no manifest, nothing to hold it to


def test_a_folder_gets_its_name_after_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fsync(descriptor: int) -> None:
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))

    replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(f"-> {Path(b).name}"), replace(a, b)))
    with writing(tmp_path / "out", stage="text", config={}, inputs={}, seed=3) as draft:
        (draft.path / "inner").mkdir()
        (draft.path / "inner" / "file.txt").write_text("x")
    assert sorted(done[:-1]) == [".out.partial", "file.txt", "inner", MANIFEST]
    assert done[-1] == "-> out"


def test_what_a_killed_command_left_is_swept(tmp_path: Path) -> None:
    for name in (".out.partial", ".out.old", ".other.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    _write(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.partial", "out"]


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "run.json", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(tmp_path / "run.json", "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("run.json", "old")]


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        fingerprint(tmp_path / "nowhere")


def test_a_stage_whose_input_is_missing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        _write(tmp_path / "out", {"data": tmp_path / "nowhere"})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        _write(tmp_path / "file" / "out")
