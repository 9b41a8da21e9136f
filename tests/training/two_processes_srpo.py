"""SRPO's trainer on two real processes, with the prompt pool, both modes and refilled batches.

Started by `test_srpo_on_two_processes`, with a run folder (data, sids, base) to read and to write to. The
log-probabilities of every batch that is written are computed at once and remembered, and what a batch brings
later is held against them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from gream.data.store import load_catalogue, load_interactions
from gream.semantic_ids.layout import load_names
from gream.training.groups import OLD_LOGPS, Batch, live_groups, split
from gream.training.srpo_trainer import SRPOTrainer
from tests.training.policies import Policy, ToyTerms, settings

G, P, STEPS, ROUNDS = 4, 2, 6, 2  # P: groups of a device


def rare_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Many groups have no spread: one token in six is worth something."""
    return [float(ids[0] % 6 == 0) for ids in completion_ids]


class NotingTrainer(SRPOTrainer):
    """Writes down what it does, and checks what waited."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.diary: list[str] = []
        self.stale = 0
        self.current = 0
        self._of_the_day: dict[tuple[int, ...], Tensor] = {}

    def _written(self, num_prompts: int, mode: Any) -> Batch:
        self.diary.append(f"write {mode}")
        batch = super()._written(num_prompts, mode)
        groups = split(batch | {OLD_LOGPS: super()._logps_of(batch)}, range(P), G)
        for row in [row for group in gather_object(groups) for row in group.rows]:
            self._of_the_day[_key(row)] = row[OLD_LOGPS]
        return batch

    def _logps_of(self, batch: Batch) -> Tensor:
        self.diary.append("logps")
        return super()._logps_of(batch)

    def _gather_numbers(self, numbers: list[int]) -> list[list[int]]:
        self.diary.append("gather")
        return super()._gather_numbers(numbers)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        batch = super()._generate_and_score_completions(inputs)
        if OLD_LOGPS in batch:
            self._check(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        """Live rows that bring old log-probabilities bring those of the day they were written."""
        now = super()._logps_of(batch)
        for place, group in enumerate(split(batch, range(P), G)):
            if not live_groups(batch, G)[place]:
                continue
            changed = False
            for at, row in enumerate(group.rows, place * G):
                old = row[OLD_LOGPS]
                # Another width of padding and another order of sums: float32.
                torch.testing.assert_close(old, self._of_the_day[_key(row)], rtol=1e-4, atol=1e-4)
                changed |= bool((old - now[at, : len(old)]).abs().max() > 1e-2)
            self.stale += changed
            self.current += not changed


def _key(row: dict[str, Tensor]) -> tuple[int, ...]:
    return (*row["prompt_ids"].tolist(), -1, *row["completion_ids"].tolist())


def main(run_dir: Path) -> None:
    data = run_dir / "data"
    names = load_names(run_dir / "sids")
    policy = Policy(run_dir / "base", names, load_catalogue(data), load_interactions(data))
    config = settings(
        prompts_per_batch=2 * P,
        max_steps=STEPS,
        min_history=1,
        candidates=2,
        refill_rounds=ROUNDS,
        max_completion_length=4,
        learning_rate=3e-2,  # so large that a day makes a difference
        beta=0.0,
    )
    trainer = policy.trainer(config, ToyTerms([rare_reward, rare_reward]), NotingTrainer)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    weights = [
        weight.detach().numpy().tobytes()
        for weight in trainer.accelerator.unwrap_model(trainer.model).parameters()
    ]
    result = {
        "world_size": trainer.accelerator.num_processes,
        "diary": trainer.diary,
        "log": [{k: v for k, v in entry.items() if k != "step_time"} for entry in log],
        "pool": trainer._pool.state(),
        "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
    }
    own = {"stale": trainer.stale, "current": trainer.current}
    (run_dir / f"rank-{trainer.accelerator.process_index}.json").write_text(json.dumps(result | {"own": own}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
