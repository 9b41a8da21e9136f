"""Commands that share their users out over processes: the files of one process, byte for byte, but for times.

Real processes that talk over gloo, started as torchrun starts them; one test starts torchrun itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_recipe import TIMED, Forks

from gream.artifacts import MANIFEST, check_whole, read_manifest
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.language.reasoning import load_traces
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from tests.data_synthesis.scripted_server import ScriptedServer
from tests.data_synthesis.test_synthesize import PROFILE, PURCHASES, explain
from tests.training.processes import ROOT, on_cpu

ONE_THREAD = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # torchrun gives several processes one each
CLOCKED = ("users_per_second", "seconds_per_user", "seconds_per_user_of_direct")  # of a report's rows
COMMANDS = ("gream.semantic_ids.encoder", "gream.evaluation.evaluate", "gream.decoding.recommend_command")
MINING = ("gream.data.prepare", "data_synthesis.traces", "data_synthesis.profiles", "openai")
COMPARED = ("frontier", "plain_at_equal_time")  # of a sweep's rows: what follows from times


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in ONE_THREAD.items():
            environment.setenv(name, value)
        server = Forks([*COMMANDS, *MINING])
    yield server
    server.close()


@pytest.fixture
def run_dir(run_folder: Path, names: Names) -> Path:
    """A run of the toy shop with a scorer."""
    (run_folder / "prm").mkdir()
    shape = ScorerShape(hidden_size=8, num_layers=1, num_heads=2)
    save_scorer(run_folder / "prm", PrefixPathScorer(TrieConstraint(names), shape), names)
    return run_folder


def test_vectors_are_those_of_one_process(forks: Forks, run_dir: Path) -> None:
    """24 texts of one batch each: three shards."""
    words = ["--run_dir", str(run_dir)]
    assert forks.start(["text", *words], run_dir / "log").wait() == 0
    words += ["--encoder", str(run_dir / "srpo"), "--batch_size", "1", "--dim", "4", "--collaborative", "0.5"]
    for size in (1, 2, 3):
        run = forks.start(["embed", *words, "--output", f"on-{size}"], run_dir / "log", processes=size)
        assert run.wait() == 0, run.text()
    same(run_dir / "on-1", run_dir / "on-2")
    same(run_dir / "on-1", run_dir / "on-3")


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


# 47 users; u7, u8, u30 and u31 have an item that nobody knows
def histories(run_dir: Path) -> Path:
    rows = [
        {"user_id": f"u{u}", "history": [f"item-{(u * 5 + i) % 24}" for i in range(1 + u % 7)]}
        for u in range(47)
    ]
    for user in (7, 8, 30, 31):
        rows[user]["history"].append("item-99")
    file = run_dir / "histories.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def lists(run_dir: Path, output: str, *words: str) -> list[str]:
    """Return the words that ask for lists of five users a file: ten files, the last one of two."""
    told = ["--histories", str(histories(run_dir)), "--output", str(run_dir / output), "--k", "4"]
    return ["recommend", str(run_dir), *told, "--unknown_items", "skip", "--users_per_part", "5", *words]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("words", [[], ["--mode", "reasoning", "--num_chains", "2", "--chains"]])
def test_lists_are_those_of_one_process_and_every_user_is_counted(
    forks: Forks, run_dir: Path, words: list[str]
) -> None:
    for size in (1, 2, 3):
        run = forks.start(lists(run_dir, f"on-{size}", *words), run_dir / "log", processes=size)
        assert run.wait() == 0, run.text()
        assert run.text().startswith(
            f"43 of 47 users have lists in {run_dir}/on-{size}\n4 of 47 rows left out"
        )
    one, two, three = (contents(run_dir / f"on-{size}") for size in (1, 2, 3))
    assert len(one) == 10 and one == two == three
    assert pl.read_parquet(run_dir / "on-3")["user_id"].n_unique() == 43


def test_one_file_of_lists_leaves_the_other_processes_nothing_to_do(forks: Forks, run_dir: Path) -> None:
    for size in (1, 3):
        words = lists(run_dir, f"on-{size}", "--users_per_part", "99")
        assert forks.start(words, run_dir / "log", processes=size).wait() == 0
    assert contents(run_dir / "on-1") == contents(run_dir / "on-3")


@pytest.mark.parametrize(("before", "size"), [(1, 1), (4, 3), (6, 2)])
def test_killed_processes_go_on_in_any_number(forks: Forks, run_dir: Path, before: int, size: int) -> None:
    """The last one of two dies when it writes; what both wrote is not written again."""
    assert forks.start(lists(run_dir, "whole"), run_dir / "log").wait() == 0
    words = lists(run_dir, "lists")
    killed = forks.start(words, run_dir / "log", ("kill", before), processes=2)
    assert killed.wait() == -9, killed.text()
    assert not (run_dir / "lists").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (run_dir / ".lists.partial").glob("part-*")}
    assert len(kept) >= before // 2
    again = forks.start(words, run_dir / "log", processes=size)
    assert again.wait() == 0, again.text()
    assert ("going on after" in again.text()) == bool(kept)
    assert contents(run_dir / "lists") == contents(run_dir / "whole")
    written = {path.name: path.stat().st_mtime_ns for path in (run_dir / "lists").iterdir()}
    assert kept == {name: written[name] for name in kept}


def test_what_one_process_refuses_ends_all(forks: Forks, run_dir: Path) -> None:
    """The first one alone reads the users beforehand, while the others wait for what it found."""
    run = forks.start(lists(run_dir, "lists", "--unknown_items", "error"), run_dir / "log", processes=2)
    assert run.wait() == 2
    assert run.text().count("4 of 47 users have an item that the catalogue does not have") == 1
    assert not list(run_dir.glob("*lists*"))
    run = forks.start(lists(run_dir, "lists", "--engine", "vllm"), run_dir / "log", processes=2)
    assert run.wait() == 2 and "2 processes were started, but vLLM" in run.text()
    words = ["recommend", str(run_dir), "--user", "user-1"]
    run = forks.start(words, run_dir / "log", processes=2)
    assert run.wait() == 2 and "one list is made by one" in run.text()


def traces(forks: Forks, run_dir: Path, processes: int, *words: str, stage: str = "traces") -> Path:
    output = f"{stage}-on-{processes}"
    command = ["synthesize", stage, "--run_dir", str(run_dir), "--output", output, *words]
    run = forks.start(command, run_dir / "log", processes=processes)
    assert run.wait() == 0, run.text()
    check_whole(run_dir / output)
    return run_dir / output


def test_traces_are_those_of_one_process(forks: Forks, tmp_path: Path) -> None:
    """150 users: three shares of work, the last one smaller."""
    told = ["--source", "simulator", "--num_items", "120", "--num_customers", "150"]
    assert forks.start(["data", "--run_dir", str(tmp_path), *told], tmp_path / "log").wait() == 0
    one, two, three = (traces(forks, tmp_path, size, "--per_user", "1") for size in (1, 2, 3))
    assert {trace.user // 64 for trace in load_traces(one)} == {0, 1, 2}
    same(one, two)
    same(one, three)


def test_one_process_asks_the_teacher(forks: Forks, run_dir: Path) -> None:
    with ScriptedServer(explain) as server:
        words = ["--teacher", server.url, "--model", "m"]
        alone = traces(forks, run_dir, 1, *words)
        asked = len(server.requests)
        assert asked == PURCHASES
        (run_dir / "calls").rename(run_dir / "kept")  # or the second command would find its answers there
        same(alone, traces(forks, run_dir, 3, *words))
        assert len(server.requests) == 2 * asked
    with ScriptedServer(lambda *_: PROFILE) as server:
        traces(forks, run_dir, 2, "--teacher", server.url, "--model", "m", stage="profiles")
        assert len(server.requests) == 24  # items


@pytest.mark.slow  # each launcher and each process imports torch
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_launchers_start_the_processes(forks: Forks, run_dir: Path, launcher: str) -> None:
    assert forks.start(lists(run_dir, "one"), run_dir / "log").wait() == 0
    launch = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node=2"],
        "accelerate": [
            "accelerate.commands.launch",
            "--config_file",
            str(on_cpu("ddp", run_dir / "ddp.yaml")),
        ],
    }
    ended = subprocess.run(
        [sys.executable, "-m", *launch[launcher], "-m", "gream.cli", *lists(run_dir, "two")],
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("43 of 47 users have lists") == 1
    assert contents(run_dir / "one") == contents(run_dir / "two")
