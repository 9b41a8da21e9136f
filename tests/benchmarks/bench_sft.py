"""Supervised fine-tuning: packed rows against padded ones, and gream's step against TRL's plain one.

Rows are those of the demo's recipe, made anew: all five reasoning stages and direct prompts, evenly mixed.
Everything takes turns in one process, in an order that changes, each turn a whole training of the same rows
by a fresh trainer; the fastest turn of each counts. The losses of what is compared are compared too.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PrinterCallback
from trl import SFTTrainer

from gream.cli import main
from gream.data.store import load_catalogue, load_interactions
from gream.language.alignment import REASONING
from gream.language.curriculum import Curriculum, build_curriculum, group_by_length
from gream.language.prompting import Prompter
from gream.language.reasoning import load_traces
from gream.language.rows import Row
from gream.language.vocab import load_model
from gream.semantic_ids.layout import load_names
from gream.training.checkpoints import Checkpoints
from gream.training.sft import SftConfig
from gream.training.sft_trainer import rows_dataset, train, trainer_arguments
from tests.benchmarks.figures import figure, other_process

ROOT = Path(__file__).parents[2]
ROWS, BATCH_SIZE, MAX_HISTORY = 640, 32, 12
TURNS = 3  # the fastest counts, after a warm-up


def measure() -> dict[str, dict[str, Any]]:
    """Measure in a process of its own."""
    found = other_process("bench_sft", "speed")
    speed, lengths = found["tokens_per_second"], found["lengths"]
    rows = f"rows of {lengths[0]} to {lengths[2]} tokens, {lengths[1]} in the middle"
    return {
        f"packed rows, {rows}: tokens a second against padded ones in the same order": figure(
            speed["packed"] / speed["padded"], "x", ">= 2"
        ),
        "packed rows: tokens a second against TRL's SFTTrainer": figure(
            speed["packed"] / speed["trl"], "x", ">= 2"
        ),
        "packed rows: tokens a second against rows grouped by length": figure(
            speed["packed"] / speed["grouped"], "x"
        ),
        "padding of the shuffled rows": figure(found["padding"], "of the places"),
        "sft on padded rows: time of a training against TRL's SFTTrainer": figure(
            speed["trl"] / speed["padded"], "x", "<= 1.03"
        ),
        "largest difference of a mean loss": figure(found["difference"], "nats", "<= 0.001"),
    }


def speed() -> dict[str, Any]:
    """Train the same rows packed, padded, grouped by length, and with TRL alone."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        plan = reasoning_plan(run)
        rows, grouped = plan.rows, group_by_length(plan, BATCH_SIZE).rows
        kinds = {
            "packed": lambda: _ours(run, rows, packing=True),
            "padded": lambda: _ours(run, rows, packing=False),
            "grouped": lambda: _ours(run, grouped, packing=False),
            "trl": lambda: _theirs(run, rows),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        losses: dict[str, float] = {}
        orders = itertools.cycle([list(kinds), list(kinds)[::-1]])
        for turn in range(TURNS + 1):
            for kind in next(orders):
                losses[kind], taken = kinds[kind]()
                seconds[kind] += [taken] if turn else []
    lengths = np.array([len(prompt) + len(answer) for prompt, answer in rows])
    steps = [lengths[i : i + BATCH_SIZE] for i in range(0, len(lengths), BATCH_SIZE)]
    same = [losses[kind] for kind in ("packed", "padded", "trl")]  # grouped rows come in another order
    return {
        "tokens_per_second": {kind: float(lengths.sum()) / min(times) for kind, times in seconds.items()},
        "lengths": [int(n) for n in (lengths.min(), np.median(lengths), lengths.max())],
        "padding": 1 - float(lengths.sum()) / sum(len(step) * int(step.max()) for step in steps),
        "difference": max(same) - min(same),
    }


def reasoning_plan(run: Path) -> Curriculum:
    """Make the demo's data, model and traces in `run`, and rows of all reasoning stages and direct ones."""
    for name in ("01-data", "02-text", "03-embed", "04-sids", "05-vocab", "06-synthesize"):
        stage = name.split("-")[1]
        code = main(
            [stage, "--config", str(ROOT / "recipes" / "demo" / f"{name}.yaml"), "--run_dir", str(run)]
        )
        assert code == 0, f"{name} failed"
    plan = build_curriculum(
        {**dict.fromkeys(REASONING, 0.2), "next_item": 0.5},
        load_catalogue(run / "data"),
        load_interactions(run / "data"),
        _loaded(run)[1],
        traces=load_traces(run / "traces"),
    )
    return Curriculum(plan.rows[:ROWS], plan.tasks[:ROWS], dict(Counter(plan.tasks[:ROWS])))


def _loaded(run: Path) -> tuple[Any, Prompter]:
    names = load_names(run / "sids")
    model, tokenizer = load_model(run / "base", names)
    return model, Prompter(tokenizer, names, max_history=MAX_HISTORY)


def _ours(run: Path, rows: list[Row], *, packing: bool) -> tuple[float, float]:
    """Train as the stage does: mean loss, and seconds."""
    model, prompter = _loaded(run)
    config = SftConfig(run_dir=str(run), output="sft", batch_size=BATCH_SIZE, packing=packing)
    with Checkpoints(config.output_path, {}) as checkpoints:
        started = time.perf_counter()
        trained = train(model, prompter, rows, config, checkpoints)
        return trained.counts["loss"], time.perf_counter() - started


def _theirs(run: Path, rows: list[Row]) -> tuple[float, float]:
    """Train with TRL's own trainer: mean loss, and seconds."""
    model, prompter = _loaded(run)
    started = time.perf_counter()
    trainer = SFTTrainer(
        model=model.train(),
        args=trainer_arguments(SftConfig(batch_size=BATCH_SIZE), run / "trl"),
        train_dataset=rows_dataset(rows),
        processing_class=prompter.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return float(trainer.state.log_history[-1]["train_loss"]), time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps({"speed": speed}[sys.argv[1]]()))
