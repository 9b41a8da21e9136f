"""Every stage of a small recipe, killed at twenty moments, goes on to the bytes of a run that was not.

Slow: about ten minutes. What is killed is `gream run` of all stages up to the one in question, whose earlier
stages are current. Whatever a kill leaves, every folder with a name is whole, and nothing but what the next
run needs or removes is beside it.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_recipe import DEMO, TIMED, Forks, Run, write_recipe

from gream.artifacts import MANIFEST, check_whole
from gream.pipeline import STAGES as PIPELINE
from gream.pipeline import read_recipe
from gream.run_folder import LOCK_FILE

pytestmark = pytest.mark.slow

KILLS = 20
STAGES = [file.stem for file in sorted(DEMO.glob("*.yaml"))]


class Workshop:
    """A run that nothing disturbs, one that is killed, and the seconds of each stage in the former."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        trainers = ("gream.training.sft_trainer", "gream.training.srpo_training")
        self.forks = Forks([*PIPELINE.values(), *trainers])
        self.seconds: list[float] = []
        self.whole, self.killed = folder / "whole", folder / "killed"
        for number in range(1, len(STAGES) + 1):
            run = self.start(self.whole, number)
            assert run.wait() == 0, run.text()
            self.seconds.append(time.monotonic() - run.started)

    def start(self, run_dir: Path, stages: int) -> Run:
        """Start `gream run` of the first stages."""
        recipe = write_recipe(self.folder / f"recipe-{run_dir.name}-{stages}", run_dir, stages)
        return self.forks.start(["run", str(recipe)], self.folder / f"{run_dir.name}.log")

    def output(self, run_dir: Path, number: int) -> Path:
        """Folder that a stage, counted from 1, writes."""
        recipe = write_recipe(self.folder / f"recipe-{run_dir.name}-{number}", run_dir, number)
        return read_recipe(recipe)[-1].config.output_path

    def prepare(self, number: int) -> None:
        """Give the run to be killed everything before a stage, and nothing of it."""
        shutil.rmtree(self.killed, ignore_errors=True)
        self.killed.mkdir()
        for before in range(1, number):
            folder = self.output(self.whole, before)
            shutil.copytree(folder, self.killed / folder.name)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("runs"))
    yield shop
    shop.forks.close()


def same(one: Path, other: Path) -> bool:
    """Compare two folders byte for byte, without what says times."""
    files = [{p.relative_to(f): p for p in f.rglob("*") if p.is_file()} for f in (one, other)]
    assert files[0].keys() == files[1].keys()
    left_out = {MANIFEST, *TIMED.get(one.name, ())}
    differ = [str(n) for n, p in files[0].items() if p.read_bytes() != files[1][n].read_bytes()]
    assert set(differ) <= left_out, differ
    manifests = [json.loads((folder / MANIFEST).read_text()) for folder in (one, other)]
    assert all(manifests[0][key] == manifests[1][key] for key in ("stage", "config", "inputs", "seed"))
    return True


def check_named(run_dir: Path) -> None:
    """Every folder with a name is whole; hidden is only what the next run knows."""
    for path in run_dir.iterdir():
        hidden = path.name.startswith(".")
        if path.is_dir() and not hidden:
            assert (path / MANIFEST).is_file(), f"{path} has a name and no manifest"
            check_whole(path)
        elif hidden:
            assert path.name == LOCK_FILE or path.name.endswith(
                (".partial", ".old", ".checkpoint", ".resume")
            )
        else:
            json.loads(path.read_text())


@pytest.mark.parametrize("number", range(1, len(STAGES) + 1), ids=STAGES)
def test_a_stage_that_is_killed_at_any_moment_ends_with_the_same_bytes(
    workshop: Workshop, number: int
) -> None:
    workshop.prepare(number)
    draw = random.Random(number)
    output, reference = workshop.output(workshop.killed, number), workshop.output(workshop.whole, number)
    kills, attempts, finished, resumed = 0, 0, 0, 0
    seconds = workshop.seconds[number - 1]
    while kills < KILLS:
        attempts += 1
        assert attempts < 10 * KILLS, "the stage ends before it is killed"
        run = workshop.start(workshop.killed, number)
        run.stop(draw.uniform(0, seconds) if attempts % 4 else seconds * draw.uniform(0.85, 1.05))
        code = run.wait()
        assert code in (0, -signal.SIGKILL), run.text()
        kills += code != 0
        seconds *= 1.08 if code else 0.8  # a machine is not always as fast: late moments must come too
        resumed += "going on after step" in run.text()
        check_named(workshop.killed)
        if output.exists():
            finished += 1
            assert same(output, reference)
            shutil.rmtree(output)
    run = workshop.start(workshop.killed, number)
    assert run.wait() == 0, run.text()
    assert same(output, reference)
    assert not [path for path in workshop.killed.iterdir() if path.name.startswith(".")]
    print(f"{STAGES[number - 1]}: {kills} kills, {finished} whole before, {resumed} resumed, {seconds:.2f} s")


@pytest.mark.parametrize("number", range(1, len(STAGES) + 1), ids=STAGES)
def test_a_stage_stops_within_seconds_of_ctrl_c_and_goes_on(workshop: Workshop, number: int) -> None:
    workshop.prepare(number)
    draw = random.Random(100 + number)
    for _ in range(3):
        run = workshop.start(workshop.killed, number)
        while f"[{number}/" not in run.text():
            time.sleep(0.01)
        run.started = time.monotonic()  # of the stage
        run.stop(draw.uniform(0.0, 0.7) * workshop.seconds[number - 1], signal.SIGINT)
        if run.wait(most=15.0) == 0:
            break  # it was done
        assert run.code == 130, run.text()
        last = run.text().strip().splitlines()[-1]
        assert last.startswith("gream: stopped; `gream run ") and "goes on after what is finished" in last
        assert "Traceback" not in run.text()
        check_named(workshop.killed)
    run = workshop.start(workshop.killed, number)
    assert run.wait() == 0, run.text()
    assert same(workshop.output(workshop.killed, number), workshop.output(workshop.whole, number))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that can be made larger."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("number", range(1, len(STAGES) + 1), ids=STAGES)
def test_a_stage_on_a_full_disk_says_so_and_goes_on_where_there_is_room(
    workshop: Workshop, number: int, small_disk: Path
) -> None:
    """Filled up to some bytes, so that the disk is full in the middle of writing."""
    run_dir = small_disk / "run"
    run_dir.mkdir()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    for before in range(1, number):
        folder = workshop.output(workshop.whole, before)
        shutil.copytree(folder, run_dir / folder.name)
    output = workshop.output(workshop.whole, number)
    needed = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    for share in (0.1, 0.6, 0.95):
        free = shutil.disk_usage(small_disk).free
        filler = small_disk / "filler"
        with filler.open("wb") as handle:
            handle.truncate(0)
            left = free - int(share * needed) // 4096 * 4096
            handle.write(b"x" * left)
        run = workshop.start(run_dir, number)
        assert run.wait() == 2, run.text()
        last = run.text().strip().splitlines()[-1]
        assert last.startswith("gream: ") and "No space" in last, run.text()
        assert "Traceback" not in run.text()
        check_named(run_dir)
        filler.unlink()
    run = workshop.start(run_dir, number)
    assert run.wait() == 0, run.text()
    assert same(run_dir / output.name, output)
