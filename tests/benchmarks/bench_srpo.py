"""Reinforcement learning: how many of the groups that were written are trained on, and what a step costs.

GREAM's filter and gream's refilling see the same stream of groups, each live or dead by chance: no clock has
a part in it. GREAM's is written from its description (draw nine batches, keep the first live groups, throw
the surplus away, at most ten times); gream's is the real function on batches without a model.

Steps are timed against TRL's GRPOTrainer with the same rewards, prompts and random numbers, at a learning
rate of 0, so that both write the very same completions. They take turns in one process; of every step the
fastest turn counts, from its beginning to that of the next, with all that is logged between them.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from gream.cli import main
from gream.data.store import load_catalogue, load_interactions
from gream.language.vocab import load_model
from gream.semantic_ids.layout import load_names
from gream.training.checkpoints import Checkpoints
from gream.training.groups import Batch, Group
from gream.training.prompt_pool import mode_of_batch
from gream.training.refill import Calls, GroupBuffer, refill
from gream.training.srpo import SRPOConfig
from gream.training.srpo_training import Parts, train, trainer_arguments
from tests.benchmarks.figures import figure, other_process

ROOT = Path(__file__).parents[2]
STEPS, TURNS = 8, 5  # after a warm-up

PROMPTS = 64  # of a batch
BATCHES = 60  # that each trains on
LIVE_RATES = (0.05, 0.15, 0.5)
OVERSAMPLING, GENERATION_BATCHES = 9, 10  # of GREAM's filter
ROUNDS = 80  # of new prompts for one batch; enough to fill it where one group of twenty lives


def measure() -> dict[str, dict[str, Any]]:
    """Compare what becomes of the groups, and time the steps in a process of their own."""
    found = other_process("bench_srpo", "steps")
    return refilling() | {
        "srpo: time of the steps against TRL's GRPOTrainer on the same rollouts": figure(
            found["srpo"] / found["grpo"], "x", "<= 1.02"
        ),
        "srpo: largest difference of a mean reward": figure(found["difference"], "of the reward", "<= 0"),
    }


def refilling() -> dict[str, dict[str, Any]]:
    """Give the share of generated groups that reach the optimiser, by how many of them are live."""
    figures = {}
    for rate in LIVE_RATES:
        ours, theirs = our_share(stream(rate)), gream_share(stream(rate))
        about = f"{rate:.0%} of the groups live"
        figures |= {
            f"generated groups that reach the optimiser, {about}: refilled": figure(
                ours["used"] / ours["generated"], "of all"
            ),
            f"generated groups that reach the optimiser, {about}: GREAM's filter": figure(
                theirs["used"] / theirs["generated"], "of all"
            ),
            f"live groups that reach the optimiser, {about}: refilled": figure(
                ours["used"] / ours["live"], "of the live", ">= 0.98"
            ),
            f"live groups that reach the optimiser, {about}: GREAM's filter": figure(
                theirs["used"] / theirs["live"], "of the live"
            ),
            f"groups to write for one batch, {about}: GREAM's filter against refilled": figure(
                (theirs["generated"] / theirs["used"]) / (ours["generated"] / ours["used"]), "x", ">= 1.1"
            ),
        }
    return figures


def stream(rate: float) -> Iterator[bool]:
    """Say of one group after the other whether it is live."""
    generator = random.Random(0)
    while True:
        yield generator.random() < rate


def gream_share(flags: Iterator[bool]) -> dict[str, int]:
    """Count groups under GREAM's filter.

    Raises:
        RuntimeError: ten generation batches hold too few live groups, where the authors' run ends too.
    """
    counts = dict.fromkeys(("generated", "live", "used"), 0)
    for _ in range(BATCHES):
        kept = 0
        for _ in range(GENERATION_BATCHES):
            counts["generated"] += OVERSAMPLING * PROMPTS
            kept += sum(next(flags) for _ in range(OVERSAMPLING * PROMPTS))
            if kept >= PROMPTS:
                break
        else:
            raise RuntimeError("ten generation batches were not enough")
        counts["live"] += kept
        counts["used"] += PROMPTS
    return counts


def our_share(flags: Iterator[bool]) -> dict[str, int]:
    """Count groups where dead ones are refilled; a batch that is not full at the end counts as it is."""
    buffer, counts = GroupBuffer(), dict.fromkeys(("generated", "live", "used"), 0)

    def score() -> Batch:
        return _batch([next(flags) for _ in range(PROMPTS)])

    def share(groups: list[Group]) -> list[list[Group]]:
        return [groups]

    calls = Calls(
        rank=0,
        score=score,
        logps_of=lambda batch: torch.zeros(batch["completion_ids"].shape),
        gather=lambda numbers: [numbers],
        share=share,
    )
    for _ in range(BATCHES):
        _, took = refill(score(), buffer, calls, num_generations=1, pad_id=0, rounds=ROUNDS)
        counts["generated"] += took.generated_groups
        counts["live"] += took.live_groups
        counts["used"] += took.used_groups
    return counts


def _batch(live: list[bool]) -> Batch:
    """A batch of groups of one row of one token, where nothing but the advantage tells."""
    token = torch.ones(len(live), 1, dtype=torch.int64)
    return {
        "prompt_ids": token,
        "prompt_mask": token,
        "completion_ids": token,
        "completion_mask": token,
        "advantages": torch.tensor(live).float(),
        "num_items_in_batch": torch.tensor(len(live)),
    }


def steps() -> dict[str, float]:
    """Time the steps of the demo's fresh model: seconds by trainer, and how far their rewards differ."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        for name in ("01-data", "02-text", "03-embed", "04-sids", "05-vocab"):
            stage = name.split("-")[1]
            recipe = str(ROOT / "recipes" / "demo" / f"{name}.yaml")
            assert main([stage, "--config", recipe, "--run_dir", str(run)]) == 0, f"{name} failed"
        kinds = {"srpo": _ours, "grpo": _theirs}
        seconds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
        rewards: dict[str, list[float]] = {}
        orders = itertools.cycle([list(kinds), list(kinds)[::-1]])
        for turn in range(TURNS + 1):
            for kind in next(orders):
                rewards[kind], taken = kinds[kind](run)
                seconds[kind] += [taken] if turn else []
    apart = [abs(a - b) for a, b in zip(rewards["srpo"], rewards["grpo"], strict=True)]
    fastest = {kind: sum(map(min, zip(*turns, strict=True))) for kind, turns in seconds.items()}
    return fastest | {"difference": max(apart)}


class _Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Reads the clock where a step begins, and at the end."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Begin a step, and end the one before."""
        self._marks.append(time.perf_counter())

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """End the last step."""
        self._marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Give the seconds of every step."""
        return [end - start for start, end in itertools.pairwise(self._marks)]


class _TimedCheckpoints(Checkpoints, _Clock):
    """Goes with a training as its checkpoints do, and times its steps."""

    def __init__(self, output: Path) -> None:
        Checkpoints.__init__(self, output, {})
        _Clock.__init__(self)


def _config(run: Path) -> SRPOConfig:
    return SRPOConfig(
        run_dir=str(run),
        max_history=12,
        min_history=2,
        prompts_per_batch=8,
        max_steps=STEPS,
        max_completion_length=32,
        learning_rate=0.0,
        rewards={"residual_sensitive": 1.0, "format": 0.1},
    )


def _parts(config: SRPOConfig) -> tuple[Any, Parts]:
    run = Path(config.run_dir)
    names = load_names(run / "sids")
    model, tokenizer = load_model(run / "base", names)
    data = run / "data"
    return model, Parts.of(config, names, load_catalogue(data), load_interactions(data), model, tokenizer)


def _ours(run: Path) -> tuple[list[float], list[float]]:
    """Train as the stage does: the reward of every step, and its seconds."""
    config = _config(run)
    model, parts = _parts(config)
    with _TimedCheckpoints(config.output_path) as checkpoints:
        _, log = train(model, parts, config, checkpoints)
    return [entry["reward"] for entry in log if "reward" in entry], checkpoints.seconds()


def _theirs(run: Path) -> tuple[list[float], list[float]]:
    """Train with TRL's own trainer on the prompts that the pool would draw."""
    config = _config(run)
    model, parts = _parts(config)
    clock = _Clock()
    modes = [mode_of_batch(batch, config.reasoning_share) for batch in range(STEPS)]
    rows = [row for mode in modes for row in parts.pool.draw(config.prompts_per_batch, mode)]
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=list(parts.terms.functions),
        args=trainer_arguments(config, run / "trl", parts.terms.weights),
        train_dataset=Dataset.from_list(rows),
        processing_class=parts.prompter.tokenizer,
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    log = trainer.state.log_history
    return [entry["reward"] for entry in log if "reward" in entry], clock.seconds()


if __name__ == "__main__":
    print(json.dumps({"steps": steps}[sys.argv[1]]()))
