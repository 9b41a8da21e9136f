"""`sft` and `srpo` on two real processes that share a model out: DeepSpeed's ZeRO, and PyTorch's FSDP.

FSDP on CPUs, which accelerate has to be talked into: sharing out, gathering and saving are its own.
`test_sft_on_two_processes` has `sft` with ZeRO.
"""

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
from tests.training.test_sft_on_two_processes import compared

pytestmark = pytest.mark.slow  # each starts two processes that import TRL


def test_fsdp_has_the_losses_of_one_process(run_dir: Path) -> None:
    """Each process holds its part of the weights and of the moments; the folder is one like any other."""
    held = compared(run_dir, "fsdp")
    for name in ("weights", "moments"):
        assert sum(process[name] for process in held) == held[0]["all"]
        assert abs(held[0][name] - held[1][name]) < held[0]["all"] / 10


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_srpo_learns_alike_however_weights_are_shared_out(run_dir: Path, trainable: str) -> None:
    """With a reference model, which is shared out as well; from a policy that finds some items."""
    taught: dict[str, Any] = {"tasks": {"next_item": 1.0}, "epochs": 16, "batch_size": 4, "save_steps": 0}
    run(SftConfig(run_dir=str(run_dir), output="taught", learning_rate=1e-2, **taught))
    logs = [srpo(run_dir, how, trainable) for how in ("ddp", "zero2", "zero3", "fsdp")]
    assert sum(entry["reward"] for entry in logs[0]) > 0 and sum(entry["grad_norm"] for entry in logs[0]) > 0
    for log in logs[1:]:
        # The same samples, and sums of float32 in another order.
        assert log == [pytest.approx(entry, rel=1e-3, abs=1e-6) for entry in logs[0]]


def srpo(run_dir: Path, how: str, trainable: str) -> list[dict[str, float]]:
    """Train for three steps; what was measured in each."""
    words = "srpo --model taught --prompts_per_batch 2 --num_generations 4 --micro_batch_size 4 --max_steps 3"
    words += " --max_completion_length 8 --min_history 1 --save_steps 1 --beta 0.1 --learning_rate 1e-2"
    words += f" --reasoning_share 0 --trainable {trainable} --run_dir {run_dir} --output srpo-{how}"
    told = two_processes("two_processes_command", run_dir, 300, *words.split(), config=how)
    assert told == 2 * [{"code": 0, "world_size": 2}]
    output = run_dir / f"srpo-{how}"
    check_whole(output)
    assert read_manifest(output).counts["processes"] == 2
    wrote, before = (
        list(AutoModelForCausalLM.from_pretrained(m).parameters()) for m in (output, run_dir / "taught")
    )
    assert [weight.shape for weight in wrote] == [weight.shape for weight in before]
    assert any(not torch.equal(now, then) for now, then in zip(wrote, before, strict=True))
    log = json.loads((output / "srpo_report.json").read_text())["log_history"]
    return [{name: entry[name] for name in ("reward", "loss", "grad_norm", "kl")} for entry in log[:3]]
