"""The stage `sft` on two real processes, and what each of them holds of weights and optimiser.

Started by `test_sft_on_two_processes`, with a run folder (data, sids, base) to read and write, and settings
as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from gream.training import sft, sft_trainer
from tests.training.sharing_out import share_out_for_real

HELD: dict[str, Any] = {}


class Noting(TrainerCallback):
    """Counts the weights and the numbers of the optimiser that are here; may end all, as a kill would."""

    stop_after = 0

    def on_step_end(
        self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **_: Any
    ) -> None:
        if state.global_step == Noting.stop_after:
            os._exit(3)
        weights = list(model.parameters())
        HELD["all"] = sum(getattr(w, "ds_numel", w.numel()) for w in weights)
        HELD["weights"] = sum(_number_here(w) for w in weights)
        inner = getattr(optimizer, "optimizer", optimizer)
        while not isinstance(inner, torch.optim.Optimizer) or not inner.state:
            inner = inner.optimizer  # accelerate's wrapper around DeepSpeed's around torch's
        HELD["moments"] = sum(_number_here(state["exp_avg"]) for state in inner.state.values())


class NotingTrainer(sft_trainer.AnswerTrainer):
    """The stage's trainer, which notes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_callback(Noting())


def _number_here(tensor: Any) -> int:
    """Count what this process holds: all of a tensor, or its part by ZeRO-3 or FSDP."""
    here = tensor.to_local() if isinstance(tensor, DTensor) else getattr(tensor, "ds_tensor", tensor)
    return int(here.numel())


def main(run_dir: Path, settings: dict[str, Any]) -> None:
    share_out_for_real()
    Noting.stop_after = settings.pop("stop_after", 0)
    sft_trainer.AnswerTrainer = NotingTrainer  # type: ignore[misc]
    sft.run(sft.SftConfig(run_dir=str(run_dir), **settings))
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    (run_dir / f"rank-{rank}.json").write_text(json.dumps({"world_size": size, **HELD}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
