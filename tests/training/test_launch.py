"""`--accelerate NAME`: real processes started by the command itself, and mistakes told in one sentence."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from gream.artifacts import check_whole, read_manifest
from gream.cli import main
from gream.errors import InputError
from gream.launch import launching, take_words
from gream.pipeline import Step
from tests.small_recipe import write_recipe
from tests.training.processes import ROOT, started

SFT = ("sft", "--batch_size", "4", "--epochs", "1", "--tasks", "{next_item: 1.0}")


def to(run_dir: Path) -> tuple[str, str]:
    return "--run_dir", str(run_dir)


def test_the_words_are_taken_wherever_they_stand() -> None:
    words = ["sft", "--accelerate=zero3", "--epochs", "2", "--processes", "8"]
    assert take_words(words) == (["sft", "--epochs", "2"], {"accelerate": "zero3", "processes": "8"})


def test_without_accelerate_nothing_is_taken() -> None:
    words = ["sft", "--processes", "2"]
    assert take_words(words) == (words, {})


@pytest.mark.parametrize("words", [["sft", "--accelerate"], ["sft", "--accelerate", "--processes", "2"]])
def test_a_word_without_its_value_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="`--accelerate` needs a value"):
        take_words(words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("data --accelerate ddp", "`gream data` works in one process"),
        ("serve run --accelerate ddp", "`gream serve` works in one process"),
        ("--accelerate ddp", "`gream ` works in one process"),
        ("sft --accelerate zero9", "give single, ddp, zero2, zero3 or fsdp"),
        ("sft --accelerate ../accelerate/ddp", "give single, ddp"),
        ("sft --accelerate ddp", "There is no GPU here"),
        ("sft --accelerate ddp --processes two", "processes is 'two'"),
        ("sft --accelerate ddp --processes 0", "at least 1"),
        ("sft --accelerate ddp --processes 1", "One process shares nothing out"),
        ("sft --accelerate single --processes 2", "starts one process, not 2"),
        ("sft --accelerate {root}/README.md --processes 2", "is no YAML"),
        ("sft --accelerate {root}/recipes/demo/01-data.yaml --processes 2", "no `distributed_type`"),
        ("run {root}/recipes/demo --accelerate ddp --processes two", "processes is 'two'"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: str, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before any stage, or any process, has begun."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert main(words.format(root=ROOT).split()) == 2
    error = capsys.readouterr().err
    assert told in error and error.startswith("gream: ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_more_processes_than_gpus_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert main(["sft", "--accelerate", "ddp", "--processes", "5"]) == 2
    assert "there are 4 GPUs" in capsys.readouterr().err


def test_fewer_processes_than_were_meant_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As accelerate's `MULTI_CPU`, which starts one and says nothing."""
    monkeypatch.setenv("GREAM_STARTED", "2")
    assert main(["sft", "--help"]) == 2
    assert "2 processes were to be started, but accelerate started 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "gpus", "number", "use_cpu"),
    [
        ("--accelerate ddp --processes 2", 0, 2, True),
        ("--accelerate ddp", 4, 4, False),
        ("--accelerate ddp --processes=4", 4, 4, False),
        ("--accelerate single", 4, 1, False),
        ("--accelerate own.yaml --processes 8", 4, 8, True),
    ],
)
def test_accelerate_is_told_how_many_processes_and_where(
    words: str, gpus: int, number: int, use_cpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are told; `own.yaml` leaves the four GPUs alone."""
    seen = []

    def launched(parsed: Any) -> None:
        told = yaml.safe_load(Path(parsed.config_file).read_text())
        seen.append((told["num_processes"], told["use_cpu"], os.environ["GREAM_STARTED"]))
        assert parsed.module and parsed.training_script_args == ["sft", "--epochs", "2"]

    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("distributed_type: MULTI_GPU\nuse_cpu: true\n")
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("accelerate.commands.launch.launch_command", launched)
    assert main(["sft", *words.split(), "--epochs", "2"]) == 0
    assert seen == [(number, use_cpu, str(number))]
    assert "GREAM_STARTED" not in os.environ


FAILED = {0: ProcessFailure(local_rank=0, pid=1, exitcode=-9, error_file="none")}


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        (subprocess.CalledProcessError(3, "gream"), 3),
        (subprocess.CalledProcessError(-15, "gream"), 143),
        (ChildFailedError("gream", FAILED), 137),
        (SignalException("told to end", signal.SIGTERM), 143),
    ],
)
def test_the_exit_code_is_as_a_shell_tells_it(
    ended: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what this process logs afterwards, as of the next stage of a recipe, is seen."""

    def fail(_: Any) -> None:
        raise ended

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    assert main(["sft", "--accelerate", "ddp", "--processes", "2"]) == code
    assert not logging.root.manager.disable


def test_a_recipe_ends_with_the_stage_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gream.launch.launch", lambda *_: 3)
    config: Any = SimpleNamespace()
    with pytest.raises(SystemExit) as end:
        launching([], "ddp", "2")(Step(Path("recipe/1-x.yaml"), "sft", config))
    assert end.value.code == 3


@pytest.mark.parametrize(
    ("stage", "engine", "starts"),
    [
        ("evaluate", "torch", True),
        ("evaluate", "vllm", False),
        ("srpo", "vllm", True),
        ("prm", "", True),
        ("synthesize profiles", "", True),
        ("data", "", False),
    ],
)
def test_a_recipe_leaves_to_one_process_what_several_cannot_do(
    stage: str, engine: str, starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr("gream.launch.launch", lambda words, *_: given.append(words) or 0)
    start = launching(["--seed", "1"], "ddp", "2")
    config: Any = SimpleNamespace(engine=engine)
    assert start(Step(Path("recipe/1-x.yaml"), stage, config)) == starts
    assert given == ([[*stage.split(), "--config", "recipe/1-x.yaml", "--seed", "1"]] if starts else [])


def test_two_processes_train_and_one_folder_is_written(run_dir: Path) -> None:
    """And it loads as any other."""
    with started((*SFT, *to(run_dir)), "ddp") as process:
        out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert out.count("wrote ") == 1
    check_whole(run_dir / "sft")
    assert read_manifest(run_dir / "sft").counts["processes"] == 2


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("num_machines: null\ntea: green\n", "accelerate refuses the configuration: .*tea"),
        ("num_machines: 2\n", "is for 2 machines; start each with `accelerate launch`"),
    ],
)
def test_a_configuration_that_cannot_be_launched_is_one_sentence(
    more: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.commands.launch.launch_command", lambda _: None)  # or it waits for others
    file = tmp_path / "own.yaml"
    file.write_text(f"distributed_type: MULTI_GPU\n{more}")
    assert main(["sft", "--accelerate", str(file), "--processes", "2"]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and error.count("\n") == 1


def test_what_works_in_one_process_refuses_to_be_one_of_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All of them would write the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for words in (["run", "recipes/demo"], ["data", "--run_dir", str(tmp_path / "run")]):
        assert main(words) == 2
        assert f"`gream {words[0]}` works in one" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # two processes import torch
def test_a_mistake_of_the_first_process_leaves_no_traceback_of_the_others(run_dir: Path) -> None:
    """They wait for it, and lose it."""
    settings = ("--config", str(run_dir / "none.yaml"))
    (run_dir / "none.yaml").write_text(f"run_dir: {run_dir}\nmin_history: 1000\n")
    with started(("synthesize", *settings), "ddp") as process:
        _, error = process.communicate(timeout=120)
    assert process.returncode == 2, error
    assert "Traceback" not in error and error.count("gream: ") == 1


@pytest.mark.slow  # two processes import TRL
def test_a_mistake_that_both_find_is_told_once(run_dir: Path) -> None:
    with started((*SFT, "--data", "nothing", *to(run_dir)), "ddp") as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 2
    assert [line for line in error.splitlines() if "Warning" not in line] == [
        f"gream: {run_dir}/nothing is not the output of `gream data`: it has no manifest.json; run that "
        "stage, or correct the path."
    ]


@pytest.mark.slow  # two processes import TRL, and train
def test_ctrl_c_ends_all_and_tells_how_to_go_on(run_dir: Path) -> None:
    words = (*SFT, "--save_steps", "1", "--epochs", "500")
    with started((*words, *to(run_dir)), "ddp", start_new_session=True) as process:
        while not list((run_dir / ".sft.checkpoint").glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.count("gream: stopped; `gream sft ") == 1 and "--accelerate ddp" in error
    assert not (run_dir / "sft").exists()


@pytest.mark.slow  # two processes import TRL, and train
@pytest.mark.parametrize("how", ["--accelerate", "torchrun"])
def test_what_a_killed_command_started_ends_with_it(run_dir: Path, how: str) -> None:
    """They would write on in a folder that nobody holds any more, or hold it and the machine for nobody."""
    words = (*SFT, "--save_steps", "1", "--epochs", "500", *to(run_dir))
    if how == "torchrun":
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        begun = subprocess.Popen(
            [*launch, "-m", "gream.cli", *words],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    else:
        begun = started(words, "ddp", start_new_session=True)
    with begun as process:
        while not list((run_dir / ".sft.checkpoint").glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.2)
        process.kill()
        process.communicate(timeout=10)  # the pipes are open as long as any of them lives


@pytest.mark.slow  # nine stages, three of them on two processes
def test_a_recipe_runs_on_two_processes(tmp_path: Path) -> None:
    """Stages that cannot work so run as ever; a second run finds all of them current."""
    recipe = write_recipe(tmp_path / "recipe", tmp_path / "run", 8)
    for told in ("wrote", "current, skipped"):
        with started(("run", str(recipe), *to(tmp_path / "run")), "ddp") as process:
            out, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        assert out.count(told) == 8
    counts = {name: read_manifest(tmp_path / "run" / name).counts for name in ("embeddings", "sft", "sids")}
    assert [found.get("processes") for found in counts.values()] == [2, 2, None]
