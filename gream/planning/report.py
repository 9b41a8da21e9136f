"""A plan as a table for a terminal, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gream.planning.corpus import Corpus
from gream.planning.fitting import GIB, fits
from gream.planning.memory import Memory
from gream.planning.needs import Needs
from gream.terminal import text_table


@dataclass(frozen=True)
class StagePlan:
    """What is told of one stage."""

    needs: Needs
    memory: Mapping[str, Memory]  # by accelerate configuration; empty without a language model
    kept: tuple[int, int] | None  # activations of a training, as they are without and with checkpointing
    warning: str | None
    seconds: float | None
    vllm_tokens: int | None  # that fit into vLLM's cache


@dataclass(frozen=True)
class Plan:
    """What is told of a recipe."""

    recipe: Path
    corpus: Corpus
    devices: int
    device: float  # bytes
    on_gpu: bool
    accelerate: str
    speed: str
    stages: list[StagePlan]


def as_json(made: Plan) -> dict[str, Any]:
    """Return what `--json` prints; sizes are bytes."""
    return {
        "recipe": str(made.recipe),
        "devices": made.devices,
        "device_memory": round(made.device),
        "accelerate": made.accelerate,
        "data": asdict(made.corpus.counts),
        "sources": made.corpus.told,
        "time": made.speed,
        "stages": [_stage_json(stage, made.device) for stage in made.stages],
    }


def _stage_json(stage: StagePlan, device: float) -> dict[str, Any]:
    needs, shape = stage.needs, stage.needs.shape
    found: dict[str, Any] = {
        "file": needs.step.file.name,
        "stage": needs.step.stage,
        "output": needs.step.config.output,
        "parameters": shape.parameters if shape else None,
        "trained": needs.training.trained if needs.training else None,
        "rows": round(needs.rows),
        "tokens": round(needs.tokens),
        "steps": needs.steps,
        "seconds": stage.seconds,
        "took": needs.took,
        "warning": stage.warning,
        "notes": list(needs.notes),
        "memory": {
            name: asdict(m) | {"total": m.total, "fits": fits(m, device)} for name, m in stage.memory.items()
        },
    }
    if stage.kept:
        found["activations"] = {"plain": stage.kept[0], "checkpointing": stage.kept[1]}
    if stage.vllm_tokens is not None:
        found["vllm_cache_tokens"] = stage.vllm_tokens
    return found


def render(made: Plan) -> str:
    """Return the plan for a terminal of 100 columns."""
    counts = made.corpus.counts
    head = f"{counts.users:,} users, {counts.items:,} items, {counts.purchases:,} purchases"
    parts = [
        text_table(f"{made.recipe}: {head}", ["stage", *_STAGE_HEAD], [_stage_row(s) for s in made.stages])
    ]
    for stage in made.stages:
        if stage.memory:
            parts.append(_memory_table(stage, made))
    parts += [f"{stage.needs.title}: {note}" for stage in made.stages for note in _notes(stage)]
    parts += [f"{what}: {where}" for what, where in made.corpus.told.items()]
    parts.append(f"time: {made.speed}")
    warnings = [f"WARNING {stage.needs.title}: {stage.warning}" for stage in made.stages if stage.warning]
    kind = "accelerator" if made.on_gpu else "main memory"
    of_device = f"{made.devices} x {made.device / GIB:.1f} GB ({kind}), {made.accelerate}"
    return "\n".join([*parts, "", *(warnings or [f"Every stage fits: {of_device}."])])


_STAGE_HEAD = ("weights", "trained", "rows", "tokens", "steps", "time", "took")
_MEMORY_HEAD = ("weights", "gradients", "optimizer", "activations", "other", "total", "")


def _stage_row(stage: StagePlan) -> list[str]:
    needs, shape = stage.needs, stage.needs.shape
    return [
        needs.title,
        _count(shape.parameters) if shape else "",
        _count(needs.training.trained) if needs.training else "",
        f"{needs.rows:,.0f}" if needs.rows else "",
        _count(needs.tokens) if needs.tokens else "",
        f"{needs.steps:,}" if needs.steps else "",
        _time(stage.seconds) if stage.seconds is not None else "",
        _time(needs.took) if needs.took is not None else "",
    ]


def _memory_table(stage: StagePlan, made: Plan) -> str:
    """One line for each accelerate configuration, or one alone where nothing is trained."""
    training = stage.needs.training
    memory = stage.memory if training else dict(list(stage.memory.items())[:1])
    rows = []
    for name, m in memory.items():
        sizes = (m.weights, m.gradients, m.optimizer, m.activations, m.other, m.total)
        verdict = "" if fits(m, made.device) else "too large"
        rows.append([name if training else "", *map(_size, sizes), verdict])
    share = f", one device of {made.devices}" if training else ""
    title = f"memory of {stage.needs.title}{share}"
    return text_table(title, ["", *_MEMORY_HEAD], rows).rstrip("\n")


def _notes(stage: StagePlan) -> list[str]:
    found = list(stage.needs.notes)
    if stage.kept:
        plain, again = stage.kept
        found.append(f"activations take {_size(plain)}, with checkpointing {_size(again)}")
    if stage.vllm_tokens is not None:
        found.append(
            f"vLLM takes {stage.needs.vllm:.0%} of the device, with room for {stage.vllm_tokens:,} tokens"
        )
    return found


def _count(number: float) -> str:
    for name, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{name}"
    return f"{number:.0f}"


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GB" if size >= GIB / 10 else f"{size / 2**20:.1f} MB" if size else "0"


def _time(seconds: float) -> str:
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"
