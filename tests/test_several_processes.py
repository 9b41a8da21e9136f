"""Commands that share their users out over processes: the files of one process, byte for byte, but for times.

Real processes that talk over gloo, started as torchrun starts them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_recipe import TIMED, Forks

from gream.artifacts import MANIFEST, check_whole, read_manifest
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started, as torchrun sets it
CLOCKED = ("users_per_second", "seconds_per_user", "seconds_per_user_of_direct")  # of a report's rows
COMPARED = ("frontier", "plain_at_equal_time")  # of a sweep's rows: what follows from times


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    server = Forks(["gream.evaluation.evaluate"])
    yield server
    server.close()


@pytest.fixture
def run_dir(run_folder: Path, names: Names) -> Path:
    """A run of the toy shop with a scorer."""
    (run_folder / "prm").mkdir()
    shape = ScorerShape(hidden_size=8, num_layers=1, num_heads=2)
    save_scorer(run_folder / "prm", PrefixPathScorer(TrieConstraint(names), shape), names)
    return run_folder


def evaluated(forks: Forks, run_dir: Path, processes: int, **settings: Any) -> Path:
    """Evaluate on that many processes; returns the folder that they wrote."""
    output = f"on-{processes}"
    told = {
        "model": "srpo", "scorer": "prm", "before": "srpo", "k": 5, "num_beams": 6, "expand_width": 8,
        "num_chains": 2, "max_chain_tokens": 6, "max_history": 5, **settings,
    }  # fmt: skip
    file = run_dir / "12-evaluate.yaml"
    file.write_text(json.dumps(told | {"run_dir": str(run_dir), "output": output}))
    run = forks.start(["evaluate", "--config", str(file)], run_dir / "log", processes=processes)
    assert run.wait() == 0, run.text()
    check_whole(run_dir / output)
    assert read_manifest(run_dir / output).counts["processes"] == processes
    assert run.text().count("items ranked for each") == 1  # one process tells
    return run_dir / output


def untimed(file: Path) -> Any:
    """A file without times, and its name."""
    if file.suffix != ".json":
        return file.name, file.read_bytes()
    told = json.loads(file.read_text())
    rows = told["rows"] if file.name == "scaling.json" else told.values()
    for row in rows:
        for name in (*CLOCKED, *COMPARED) if isinstance(row, dict) else ():
            row.pop(name, None)
    return file.name, json.dumps(told)


def same(one: Path, other: Path) -> None:
    """All files are the same, but for times and what is drawn or written from them."""
    timed = {*TIMED["evaluation"], "scaling.md", "scaling.png"} - {"report.json"}
    files = sorted(path.name for path in one.iterdir())
    assert files == sorted(path.name for path in other.iterdir())
    for name in {*files} - {*timed, MANIFEST}:
        assert untimed(one / name) == untimed(other / name), name
    manifests = [read_manifest(folder) for folder in (one, other)]
    kept = [
        (m.config | {"output": ""}, m.inputs, m.seed, m.counts | {"processes": 0}, sorted(m.outputs))
        for m in manifests
    ]
    assert kept[0] == kept[1]


def test_evaluation_of_every_row_is_that_of_one_process(forks: Forks, run_dir: Path) -> None:
    """15 users in batches of 4, and of 2 with two chains: neither 2 nor 3 divides them."""
    one, two, three = (evaluated(forks, run_dir, size, batch_size=4) for size in (1, 2, 3))
    report = json.loads((one / "report.json").read_text())
    assert report["users"] == 15 and "reasoning" in report and "prm" in report
    same(one, two)
    same(one, three)


def test_processes_without_users_have_nothing_to_do(forks: Forks, run_dir: Path) -> None:
    """One batch in direct mode for three processes, and two in reasoning mode."""
    settings = {"batch_size": 8, "max_users": 7}
    one, three = (evaluated(forks, run_dir, size, **settings) for size in (1, 3))
    same(one, three)


def test_a_sweep_has_the_figures_of_one_process(forks: Forks, run_dir: Path) -> None:
    settings = {"scaling": True, "scaling_beams": [5, 8], "batch_size": 4, "prune_threshold": 0.2}
    alone = {"reasoning": False, "scorer": "", "before": ""}
    one, three = (evaluated(forks, run_dir, size, **settings, **alone) for size in (1, 3))
    swept = json.loads((one / "scaling.json").read_text())["rows"]
    assert [row["name"] for row in swept][-1] == "beam of 6, pruned below 0.2"
    assert all("hrecall" in row for row in swept) and "false_prune_rate" in swept[-1]
    same(one, three)


@pytest.mark.slow  # seventeen searches of everybody
def test_a_sweep_of_chains_and_scorer_has_the_figures_of_one_process(forks: Forks, run_dir: Path) -> None:
    settings = {"scaling": True, "scaling_beams": [5, 8], "batch_size": 4}
    one, two, three = (evaluated(forks, run_dir, size, **settings) for size in (1, 2, 3))
    assert len(json.loads((one / "scaling.json").read_text())["rows"]) == 17
    same(one, two)
    same(one, three)
