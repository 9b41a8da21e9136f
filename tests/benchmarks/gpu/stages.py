"""Recipes on the device: a copy with some settings changed, run by `gream run`, and what each stage recorded.

A finished stage is skipped when the piece is called again, so that a run that is cut off goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from gream.artifacts import read_manifest
from gream.cli import main
from gream.decoding.recommend import load_engine
from gream.pipeline import Step, read_recipe
from tests.benchmarks.figures import figure
from tests.benchmarks.gpu.results import Figures

RECIPES = Path(__file__).parents[3] / "recipes"
ON_DEVICE = ("sft", "srpo", "prm", "baselines", "evaluate")  # the others have nothing for a GPU with tf-idf
HALF = ("sft", "srpo")  # these compute in bfloat16; the scorer and SASRec are too small to gain


def copy_recipe(
    recipe: str, folder: Path, changes: Mapping[str, Mapping[str, Any]], without: Sequence[str] = ()
) -> Path:
    """Write a recipe's files, but those of some stages, into a folder with settings changed by file."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted((RECIPES / recipe).glob("*.yaml")):
        if file.stem.split("-")[1] not in without:
            settings = yaml.safe_load(file.read_text()) | changes.get(file.stem, {})
            (folder / file.name).write_text(yaml.safe_dump(settings))
    return folder


def run_recipe(recipe: Path, run_dir: Path, keep: Callable[[Figures], None], *, dry: bool) -> None:
    """Run what is not current, stage after stage; keep each one's figures as soon as it is through.

    Raises:
        RuntimeError: a stage failed; it has said why.
    """
    steps = read_recipe(recipe, {"run_dir": str(run_dir)})
    for number in range(1, len(steps) + 1):
        part = recipe.parent / f"{recipe.name}-part"
        part.mkdir(exist_ok=True)
        for step in steps[:number]:
            (part / step.file.name).write_text(step.file.read_text())
        if main(["run", str(part), "--run_dir", str(run_dir)]) != 0:
            raise RuntimeError(f"{steps[number - 1].title} failed")
        keep(of_stage(steps[number - 1], dry=dry))


def of_stage(step: Step, *, dry: bool) -> Figures:
    """Return what a finished stage recorded, with bars on where and in what it computed."""
    manifest = read_manifest(step.config.output_path)
    found = {f"{step.title}: seconds": figure(manifest.seconds, "s")}
    if step.stage in ON_DEVICE:
        bar = "" if dry else ">= 1"
        peak = figure(manifest.device_peak_mb, "MiB", bar)
        found[f"{step.title}: peak memory of the GPU, 0 if it did not compute there"] = peak
    if step.stage in HALF:
        half = float(manifest.counts["mixed_precision"] == "bf16")
        found[f"{step.title}: computed in bfloat16, 1 if so"] = figure(half, "", "" if dry else ">= 1")
    if step.stage == "sft":
        found[f"{step.title}: speed"] = figure(manifest.counts["tokens_per_second"], "tokens/s")
    if step.stage == "vocab":
        found[f"{step.title}: parameters"] = figure(manifest.counts["parameters"], "")
    return found | (_of_report(step, dry=dry) if step.stage == "evaluate" else {})


def _of_report(step: Step, *, dry: bool) -> Figures:
    """Return the rows of the report, and where and in what a model of the run is searched."""
    folder: Path = step.config.output_path
    found: Figures = {}
    for name, row in json.loads((folder / "report.json").read_text()).items():
        if isinstance(row, dict) and "recall@10" in row:
            measured = {key: row[key] for key in ("recall@10", "ndcg@10", "users_per_second") if key in row}
            found |= {f"{name}: {key}": figure(value, "") for key, value in measured.items()}
    config: Any = step.config
    backend: Any = load_engine(config.locate("sids"), config.locate("model")).backend
    half = float((backend.device.type, str(backend.model.dtype)) == ("cuda", "torch.bfloat16"))
    return found | {"the search: on the GPU in bfloat16, 1 if so": figure(half, "", "" if dry else ">= 1")}
