"""TRL's own trainer on two real processes, with the prompt pool and refilled batches.

Started by `test_refill_in_trl`, with a run folder (data, sids, base) to read and to write to. Every scored
batch's log-probabilities are computed at once and remembered, and what a batch brings later is held
against them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from gream.data.store import load_interactions
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.language.vocab import load_model
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import load_names
from gream.training.groups import OLD_LOGPS, Batch, live_groups, split
from gream.training.prompt_pool import PromptPool
from gream.training.refill import Calls, GroupBuffer, refill
from gream.training.solve_chance import NameChance

G, P, STEPS, ROUNDS = 4, 2, 6, 2  # P: groups of a device


def rare_reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Many groups have no spread: one token in six is worth something."""
    return [float(ids[0] % 6 == 0) for ids in completion_ids]


class RefillingTrainer(GRPOTrainer):
    """GRPOTrainer whose dead groups are replaced."""

    pool: PromptPool

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.buffer = GroupBuffer()
        self.refilled: list[dict[str, int]] = []
        self.diary: list[str] = []
        self.asked: list[int] = []
        self.stale = 0
        self.current = 0
        self._of_the_day: dict[tuple[int, ...], Tensor] = {}

    def logps_of(self, batch: Batch) -> Tensor:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with torch.no_grad():
            found: Tensor = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, batch["completion_ids"].shape[1], batch_size=G
            )[0]
        return found

    def _remembered(self, batch: Batch) -> Batch:
        groups = split(batch | {OLD_LOGPS: self.logps_of(batch)}, range(P), G)
        for row in [row for group in gather_object(groups) for row in group.rows]:
            self._of_the_day[_key(row)] = row[OLD_LOGPS]
        return batch

    def _asked(self) -> list[dict[str, Any]]:
        accelerator = self.accelerator
        rows = self.pool.draw(P, "direct", accelerator.process_index, accelerator.num_processes)
        self.asked += [row["place"] for row in rows]
        return [row for row in rows for _ in range(G)]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        parent = super()._generate_and_score_completions

        def noted(name: str, call: Any) -> Any:
            def noting(*given: Any) -> Any:
                self.diary.append(name)
                return call(*given)

            return noting

        accelerator = self.accelerator
        calls = Calls(
            rank=accelerator.process_index,
            score=noted("score", lambda: self._remembered(parent(self._asked()))),
            logps_of=noted("logps", self.logps_of),
            gather=noted("gather", lambda values: accelerator.gather(torch.tensor([values])).tolist()),
            share=noted("share", lambda groups: gather_object([groups])),
        )
        batch, took = refill(
            calls.score(),  # the prompts of the loader are only a clock
            self.buffer,
            calls,
            num_generations=G,
            pad_id=self.processing_class.pad_token_id,
            rounds=ROUNDS,
        )
        self.refilled.append(asdict(took))
        self._check(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        """Rows that bring old log-probabilities bring those of the day they were written."""
        if OLD_LOGPS not in batch:
            return
        current = self.logps_of(batch)
        for place, group in enumerate(split(batch, range(P), G)):
            rows = range(place * G, place * G + G)
            if not live_groups(batch, G)[place]:
                continue
            changed = False
            for row, at in zip(group.rows, rows, strict=True):
                old = row[OLD_LOGPS]
                # Another width of padding and another order of sums: float32.
                torch.testing.assert_close(old, self._of_the_day[_key(row)], rtol=1e-4, atol=1e-4)
                changed |= bool((old - current[at, : len(old)]).abs().max() > 1e-2)
            self.stale += changed
            self.current += not changed


def _key(row: dict[str, Tensor]) -> tuple[int, ...]:
    return (*row["prompt_ids"].tolist(), -1, *row["completion_ids"].tolist())


def main(run_dir: Path) -> None:
    names = load_names(run_dir / "sids")
    model, tokenizer = load_model(run_dir / "base", names)
    prompter = Prompter(tokenizer, names, max_history=5)
    model.float()
    chance = NameChance(TorchBackend(model, tokenizer.pad_token_id), prompter, constraint_of(names))
    pool = PromptPool(
        load_interactions(run_dir / "data"),
        prompter,
        min_history=1,
        num_generations=G,
        candidates=2,
        solve_chance=chance,
    )
    arguments = GRPOConfig(
        output_dir=str(run_dir / "trainer"),
        max_steps=STEPS,
        per_device_train_batch_size=G,
        gradient_accumulation_steps=P,
        num_generations=G,
        max_completion_length=4,
        learning_rate=3e-2,  # so large that a day makes a difference
        beta=0.0,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        ddp_timeout=60,
    )
    trainer = RefillingTrainer(
        model=model,
        reward_funcs=[rare_reward],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "none"}] * 64),
        processing_class=tokenizer,
    )
    trainer.pool = pool
    trainer.train()
    rank = trainer.accelerator.process_index
    result = {
        "world_size": trainer.accelerator.num_processes,
        "diary": trainer.diary,
        "refilled": trainer.refilled,
        "asked": trainer.asked,
        "pool": pool.state(),
        "stale": trainer.stale,
        "current": trainer.current,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "weights": hashlib.sha256(
            b"".join(weight.detach().numpy().tobytes() for weight in model.parameters())
        ).hexdigest(),
    }
    (run_dir / f"rank-{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
