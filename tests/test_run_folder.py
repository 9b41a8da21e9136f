"""One command at a time in a run's folder; a killed one keeps nobody away; a disk that refuses is told."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gream.cli import main
from gream.errors import InputError
from gream.run_folder import LOCK_FILE, disk_trouble_told, how_to_go_on, working_in

ROOT = Path(__file__).parents[1]
HOLD = """
import sys
from pathlib import Path
from gream.run_folder import working_in
with working_in(Path(sys.argv[1]), "gream run recipes/demo"):
    print("held", flush=True)
    sys.stdin.read()
"""


def _holder(run_dir: Path) -> subprocess.Popen[str]:
    """Start a process that holds the folder until its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_refused_and_told_who_holds_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "1-data.yaml").write_text(f"run_dir: {tmp_path / 'run'}\nnum_items: 120\nnum_customers: 200\n")
    holder = _holder(tmp_path / "run")
    try:
        for words in (["run", str(recipe)], ["data", "--config", str(recipe / "1-data.yaml")]):
            assert main(words) == 2
            error = capsys.readouterr().err
            assert error.startswith("gream: ") and error.count("\n") == 1
            assert f"`gream run recipes/demo` (process {holder.pid} on " in error
            assert "wait for it, stop it, or choose another `run_dir`" in error
        assert not (tmp_path / "run" / "data").exists()
    finally:
        holder.communicate("")
    assert main(["run", str(recipe)]) == 0
    assert not (tmp_path / "run" / LOCK_FILE).exists()


def test_a_killed_holder_keeps_nobody_away(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / LOCK_FILE).is_file()
    with working_in(tmp_path, "gream text"):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["process"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_holder_that_has_not_said_who_it_is_is_told_of_even_so(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    try:
        for note in ("", "{", "[]", "\x00" * 9, '{"command": 1}'):
            (tmp_path / LOCK_FILE).write_text(note)
            with pytest.raises(InputError, match="written by another command"), working_in(tmp_path, "x"):
                pass
    finally:
        holder.communicate("")


def test_processes_of_one_command_do_not_refuse_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_in(tmp_path, "gream run recipes/demo"):
        _holder(tmp_path).communicate("")  # started by the holder, as a launcher's processes are
        with working_in(tmp_path / "." / "", "gream text"):
            pass
        assert (tmp_path / LOCK_FILE).exists()
    holder = _holder(tmp_path)
    try:
        monkeypatch.setenv("RANK", "1")  # another process of a stage that the first one holds the folder for
        with working_in(tmp_path, "gream embed"):
            pass
    finally:
        holder.communicate("")


def test_another_folder_is_another_lock(tmp_path: Path) -> None:
    holder = _holder(tmp_path / "one")
    with working_in(tmp_path / "two", "gream text"):
        pass
    holder.communicate("")
    assert not (tmp_path / "two").exists(), "made for nothing"
    with working_in(tmp_path / "three", "gream text"):
        (tmp_path / "three" / "x").write_text("")
    assert (tmp_path / "three" / "x").exists()


class SafetensorError(Exception):
    """As safetensors raises it."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path: Path, error: Exception) -> None:
    told = "No space is left for .*make room and give the same command again"
    with pytest.raises(InputError, match=told), disk_trouble_told(tmp_path):
        try:
            raise error
        except Exception as first:
            raise RuntimeError("while saving") from first


def test_an_error_of_any_kind_on_a_full_disk_is_the_disks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statvfs(_: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 100, 15, 15, 0, 0, 0, 0, 255))

    with pytest.raises(RuntimeError), disk_trouble_told(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed")
    monkeypatch.setattr(os, "statvfs", statvfs)
    with pytest.raises(InputError, match="No space is left"), disk_trouble_told(tmp_path):
        raise RuntimeError("PytorchStreamWriter failed")


def test_a_place_that_must_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    told = "Cannot write /x/y: Read-only file system; .* another `run_dir`"
    with pytest.raises(InputError, match=told), disk_trouble_told(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system", "/x/y")
    (tmp_path / "file").write_text("")
    told = "Cannot write .*file/run: Not a directory; .* another `run_dir`"
    with pytest.raises(InputError, match=told), working_in(tmp_path / "file" / "run", "x"):
        pass


def test_what_is_no_trouble_of_the_disk_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(KeyError), disk_trouble_told(tmp_path):
        raise KeyError("x")
    with pytest.raises(FileNotFoundError), disk_trouble_told(tmp_path):
        (tmp_path / "x").read_text()


def test_how_to_go_on_repeats_the_command_where_something_is_kept() -> None:
    assert how_to_go_on(["run", "my recipe"]).startswith("`gream run 'my recipe'` goes on after what is ")
    assert "goes on" in how_to_go_on(["recommend", "runs/demo", "--all_users", "--output=lists"])
    for words in (["serve", "runs/demo"], ["recommend", "runs/demo", "--user", "u"], ["export", "x"]):
        assert how_to_go_on(words) == "the same command begins anew."
