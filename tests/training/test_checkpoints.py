"""An interrupted training goes on as if nothing had been, to the bit, and from its own state only."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gream.run_folder import LOCK_FILE
from gream.training.checkpoints import Checkpoints, steps_between_states, training_of
from gream.training.sft import SftConfig, run

ROOT = Path(__file__).parents[2]
EARLY_STOP: dict[str, Any] = {"validation_users": 9, "validate_every": 0.05, "patience": 50}
CLOCKS = ("tokens_per_second", "validation_seconds")


def _config(run_dir: Path, output: str, **options: Any) -> SftConfig:
    """39 rows, 8 a step, 16 times: 78 steps; a checkpoint every seventh, a line in the log every 20th."""
    settings = {"epochs": 16, "save_steps": 7, "learning_rate": 3e-3}
    return SftConfig(
        run_dir=str(run_dir), output=output, tasks={"title_to_name": 1.0, "next_item": 1.0}, batch_size=8,
        max_history=5, **(settings | options),
    )  # fmt: skip


def _files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest without what a clock or the memory of a process says."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    found["counts"] = {k: v for k, v in found["counts"].items() if k not in CLOCKS}
    return {k: v for k, v in found.items() if k not in ("seconds", "peak_memory_mb")}


def _kill_in_the_middle(config: SftConfig) -> None:
    """Start the stage as a process of its own, and kill it after its second checkpoint."""
    options = {k: v for k, v in vars(config).items() if v != ""}
    words = [
        w for k, v in options.items() for w in (f"--{k}", json.dumps(v) if not isinstance(v, str) else v)
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "gream.cli", "sft", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as here: other threads, other sums
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        folder = config.output_path.parent / f".{config.output}.checkpoint"
        while not any(int(p.name.split("-")[1]) >= 14 for p in folder.glob("step-*")):
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not config.output_path.exists()


def test_a_killed_training_goes_on_to_the_same_bytes(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights, losses and manifest of a run that was killed and of one that was not."""
    config = _config(run_dir, "out", trainable="lora", packing=True, **EARLY_STOP)
    _kill_in_the_middle(config)
    with caplog.at_level(logging.INFO, logger="gream"):
        run(config)
    assert "going on after step" in caplog.text
    killed, manifest = _files(run_dir / "out"), _manifest(run_dir / "out")
    run(config)  # the checkpoint is gone: from the first row
    assert caplog.text.count("going on") == 1
    assert killed == _files(run_dir / "out")
    assert manifest == _manifest(run_dir / "out")
    (run_dir / LOCK_FILE).unlink()  # of the killed command, which holds nothing any more
    assert sorted(p.name for p in run_dir.iterdir()) == ["base", "data", "out", "sids"]


class Interrupted(Exception):
    """Stands for a kill, at a place that a signal would rarely hit."""


def _interrupt_while_saving(monkeypatch: pytest.MonkeyPatch, config: SftConfig, save: int) -> None:
    """Stop where the trainer has written its state and the checkpoint is not whole yet."""
    calls = iter(range(1, 100))

    def on_save(*args: Any, **options: Any) -> None:
        if next(calls) == save:
            raise Interrupted
        original(*args, **options)

    original = Checkpoints.on_save
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_save", on_save)
        with pytest.raises(Interrupted):
            run(config)


def test_a_state_that_is_half_written_is_not_used(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(run_dir, "out", epochs=6, **EARLY_STOP)
    _interrupt_while_saving(monkeypatch, config, save=3)
    folder = run_dir / ".out.checkpoint"
    assert [p.name for p in folder.glob("step-*")] == ["step-14"]
    assert (folder / "drafts" / "checkpoint-21" / "trainer_state.json").is_file()
    (folder / "drafts" / "checkpoint-21" / "model.safetensors").write_bytes(b"cut")
    with caplog.at_level(logging.INFO, logger="gream"):
        run(config)
    assert "going on after step 14 of" in caplog.text
    resumed = _files(run_dir / "out")
    run(config)
    assert resumed == _files(run_dir / "out")


@pytest.mark.parametrize(
    ("file", "harm"), [("model.safetensors", "cut"), ("optimizer.pt", "one byte"), ("hashes.json", "gone")]
)
def test_a_damaged_state_is_told_and_never_loaded(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, file: str, harm: str
) -> None:
    config = _config(run_dir, "out", epochs=6)
    _interrupt_while_saving(monkeypatch, config, save=3)
    [state] = (run_dir / ".out.checkpoint").glob("step-*")
    whole = (state / file).read_bytes()
    middle = len(whole) // 2
    if harm == "gone":
        (state / file).unlink()
    else:
        changed = bytes([whole[middle] ^ 1]) + whole[middle + 1 :] if harm == "one byte" else b""
        (state / file).write_bytes(whole[:middle] + changed)
    with caplog.at_level(logging.INFO, logger="gream"):
        run(config)
    assert f"{state} is damaged" in caplog.text and "going on" not in caplog.text
    assert not state.exists()
    mended = _files(run_dir / "out")
    run(config)
    assert mended == _files(run_dir / "out")


def test_a_failure_before_the_first_whole_state_leaves_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt_while_saving(monkeypatch, _config(run_dir, "out", epochs=6), save=1)
    assert sorted(p.name for p in run_dir.iterdir()) == ["base", "data", "sids"]


@pytest.mark.parametrize("other", [{"packing": True}, {"save_steps": 0}])
def test_a_training_with_other_settings_begins_anew_and_says_so(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    _interrupt_while_saving(monkeypatch, _config(run_dir, "out", epochs=6), save=2)
    config = _config(run_dir, "out", **{"epochs": 6, **other})
    with caplog.at_level(logging.INFO, logger="gream"):
        run(config)
    assert "holds an unfinished training with other settings, inputs or rows; it is removed" in caplog.text
    assert "going on" not in caplog.text
    mixed = _files(run_dir / "out")
    run(config)
    assert mixed == _files(run_dir / "out")


def test_other_inputs_or_rows_are_another_training(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = _config(run_dir, "out", epochs=6)
    _interrupt_while_saving(monkeypatch, config, save=2)
    owner = json.loads((run_dir / ".out.checkpoint" / "training.json").read_text())
    assert sorted(owner["inputs"]) == ["data", "model", "sids"]
    (run_dir / "base" / "generation_config.json").write_text("{}")
    with caplog.at_level(logging.INFO, logger="gream"):
        run(config)
    assert "other settings, inputs or rows" in caplog.text


def test_states_lie_between_batches_of_completions() -> None:
    assert [steps_between_states(s, 2) for s in (0, 1, 2, 3)] == [0, 2, 2, 4]
    assert [steps_between_states(s, 1) for s in (0, 1, 5)] == [0, 1, 5]


def test_a_state_of_another_number_of_processes_is_another_training(monkeypatch: pytest.MonkeyPatch) -> None:
    one = training_of({}, {})
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert one != training_of({}, {})
