"""A run that dies, or finds the disk full, at each step of writing: folders are whole, and it goes on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_recipe import TROUBLE, Forks, write_recipe

from gream.artifacts import MANIFEST, check_whole, file_hashes, read_manifest

KILLED, TOLD = -9, 2  # exit codes


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks(["gream.data.prepare", "gream.semantic_ids.item_text"])
    yield server
    server.close()


def _run(forks: Forks, recipe: Path, trouble: tuple[str, int] | None = None) -> tuple[int, str]:
    run = forks.start(["run", str(recipe)], recipe.parent / "log", trouble)
    return run.wait(), run.text()


@pytest.mark.parametrize("kind", ["kill", "full"])
def test_a_run_goes_on_from_any_step_of_writing(tmp_path: Path, forks: Forks, kind: str) -> None:
    """The stage `text` with another setting takes the place of an older folder."""
    run_dir = tmp_path / "run"
    recipe = write_recipe(tmp_path / "recipe", run_dir, 2)
    assert _run(forks, recipe)[0] == 0
    shutil.copytree(run_dir, tmp_path / "before")
    with (recipe / "02-text.yaml").open("a") as handle:
        handle.write("max_description: 7\n")
    assert _run(forks, recipe)[0] == 0
    wanted = file_hashes(run_dir / "text")
    assert wanted != file_hashes(tmp_path / "before" / "text")
    steps, came = 0, True
    while came:
        shutil.rmtree(run_dir)
        shutil.copytree(tmp_path / "before", run_dir)
        code, told = _run(forks, recipe, (kind, steps))
        came = TROUBLE in told
        # A full disk is nothing to a command that only removes, or makes a folder that is there already.
        assert code == KILLED if came and kind == "kill" else code in (0, TOLD), told
        if code == TOLD:
            last = told.splitlines()[-1]
            assert last.startswith("gream: ") and "No space" in last and "Traceback" not in told
        for folder in (path for path in run_dir.iterdir() if not path.name.startswith(".")):
            assert (folder / MANIFEST).is_file()
            check_whole(folder)
            assert read_manifest(folder).stage == folder.name
        assert _run(forks, recipe)[0] == 0
        assert file_hashes(run_dir / "text") == wanted
        assert sorted(path.name for path in run_dir.iterdir()) == ["data", "text"]
        steps += came
    assert steps >= 8, "the steps of writing are not counted any more"
