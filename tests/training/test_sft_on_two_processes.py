"""`sft` on two real processes: the losses of one, whatever is shared out, and one folder like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gream.artifacts import check_whole, read_manifest
from gream.training.sft import SftConfig, run
from tests.training.processes import two_processes

# 54 rows: seven steps of 8, the last with 6; answers of unequal lengths. A line for each step.
SETTINGS: dict[str, Any] = {
    "tasks": {"title_to_name": 1.0, "name_to_title": 1.0, "next_item": 0.5},
    "epochs": 1,
    "learning_rate": 1e-2,
    "save_steps": 1,
}


def losses(run_dir: Path, output: str) -> list[float]:
    log = json.loads((run_dir / output / "sft_report.json").read_text())
    return [entry["loss"] for entry in log if "loss" in entry]


def compared(run_dir: Path, how: str, **settings: Any) -> list[dict[str, Any]]:
    """Train on one process with batches of 8 and on two with 4 each; compare logs, give what each held.

    Both add the same numbers in another order, which in float32 is a relative difference of 1e-6 in a step.
    AdamW divides by the size of a gradient, so that those near nothing move a few weights by up to the
    learning rate either way. Both together were seen as 1e-6 in the loss. A mean of the two processes' means
    in place of the mean over all answer tokens is off by more than 1e-3.
    """
    settings = SETTINGS | settings
    run(SftConfig(run_dir=str(run_dir), output="one", batch_size=8, **settings))
    told = json.dumps(settings | {"output": "two", "batch_size": 4})
    held = two_processes("two_processes_sft", run_dir, 300, told, config=how)
    one, two = losses(run_dir, "one"), losses(run_dir, "two")
    assert len(one) > 5 and one[0] > one[-1] + 0.1
    assert two == pytest.approx(one, rel=1e-4)
    assert [process["world_size"] for process in held] == [2, 2]
    counts = [read_manifest(run_dir / output).counts for output in ("one", "two")]
    for name in ("rows", "tokens", "steps", "trained_weights"):
        assert counts[0][name] == counts[1][name]
    assert [found["processes"] for found in counts] == [1, 2]
    check_whole(run_dir / "two")
    same_weights(run_dir)
    return held


def same_weights(run_dir: Path) -> None:
    """Load both folders as anybody would; the weights moved alike, and none was rounded."""
    start, one, two = (
        torch.cat(
            [w.float().flatten() for w in AutoModelForCausalLM.from_pretrained(run_dir / n).parameters()]
        )
        for n in ("base", "one", "two")
    )
    assert len(start) == len(one) == len(two)
    assert (one - two).norm() < 0.02 * (one - start).norm()
    assert (two != two.bfloat16()).float().mean() > 0.9


def test_two_processes_have_the_losses_of_one(run_dir: Path) -> None:
    """Each holds everything."""
    held = compared(run_dir, "ddp")
    assert all(p["weights"] == p["moments"] == p["all"] for p in held)


@pytest.mark.slow  # four processes import TRL
@pytest.mark.parametrize("how", ["ddp", "zero3", "fsdp"])
def test_what_was_stopped_goes_on_from_its_last_state(run_dir: Path, how: str) -> None:
    """Stopped in step 4; the log has the losses of one process that was not."""
    told = SETTINGS | {"output": "two", "batch_size": 4}
    with pytest.raises(AssertionError, match="exitcode"):
        two_processes("two_processes_sft", run_dir, 300, json.dumps(told | {"stop_after": 4}), config=how)
    states = [path.name for path in (run_dir / ".two.checkpoint").glob("step-*")]
    assert states == ["step-3"] and not (run_dir / "two").exists()
    compared(run_dir, how)
    assert not (run_dir / ".two.checkpoint").exists()


@pytest.mark.slow  # starting DeepSpeed takes half a minute
@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_zero_2_shares_the_optimisers_state_out(run_dir: Path, trainable: str) -> None:
    """Each holds all weights, and half of the moments of those that are trained."""
    held = compared(run_dir, "zero2", trainable=trainable)
    trained = read_manifest(run_dir / "two").counts["trained_weights"]
    assert all(p["weights"] == p["all"] for p in held)
    assert trained <= sum(p["moments"] for p in held) < trained + 64  # equal shares, padded
    assert held[0]["moments"] == held[1]["moments"]


@pytest.mark.parametrize("trainable", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_zero_3_shares_the_weights_out_and_writes_them_whole(run_dir: Path, trainable: str) -> None:
    """Each holds half of the weights and of the moments; the folder is one that `from_pretrained` loads."""
    held = compared(run_dir, "zero3", trainable=trainable)
    trained = read_manifest(run_dir / "two").counts["trained_weights"]
    number = held[0]["all"]
    assert all(number / 2 <= p["weights"] < number / 2 + 64 for p in held)
    assert all(trained / 2 <= p["moments"] < trained / 2 + 64 for p in held)
