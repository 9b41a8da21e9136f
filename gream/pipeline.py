"""The order of the stages, and `gream run RECIPE`: run what is not current, skip the rest.

A recipe is a folder of YAML files, `1-data.yaml`, `2-text.yaml`, `5-sft-alignment.yaml`: the number gives
the order, the first word the stage (the first two in `synthesize-profiles`). Every file also works alone with
`gream STAGE --config FILE`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gream.arguments import StageConfig, load_config
from gream.artifacts import MANIFEST, damaged_file, is_current, read_manifest, sweep, write_file
from gream.errors import InputError
from gream.run_folder import working_in

logger = logging.getLogger(__name__)

STAGES = {
    "data": "gream.data.prepare",
    "synthesize profiles": "data_synthesis.profiles",
    "text": "gream.semantic_ids.item_text",
    "embed": "gream.semantic_ids.embed",
    "sids": "gream.semantic_ids.build",
    "vocab": "gream.language.vocab",
    "synthesize": "data_synthesis.traces",
    "sft": "gream.training.sft",
    "srpo": "gream.training.srpo",
    "prm": "gream.training.prm",
    "baselines": "gream.evaluation.tune",
    "evaluate": "gream.evaluation.evaluate",
}
_FILE = re.compile(r"(\d+)-([a-z]+)(-[a-z0-9-]+)?\.yaml")


@dataclass(frozen=True)
class Step:
    """One stage of a recipe, ready to run."""

    file: Path
    stage: str
    config: StageConfig

    @property
    def title(self) -> str:
        """What the terminal shows: the file's name without its number."""
        return self.file.stem.partition("-")[2]


def stage_module(stage: str) -> ModuleType:
    """Import the module of a stage; only here, so that `gream --help` imports no torch."""
    return importlib.import_module(STAGES[stage])


def read_recipe(folder: Path, overrides: Mapping[str, Any] | None = None) -> list[Step]:
    """Read and check every YAML file of a recipe, in the order of their numbers.

    Args:
        folder: the recipe.
        overrides: settings that win in every file, such as `run_dir`.

    Raises:
        InputError: no such folder, no numbered file, a file of an unknown stage, a mistake in a file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give a recipe's folder, such as recipes/demo.")
    matches = [(m, path) for path in folder.glob("*.yaml") if (m := _FILE.fullmatch(path.name))]
    if not matches:
        raise InputError(f"{folder} holds no numbered YAML file such as 1-data.yaml; give a recipe's folder.")
    steps = []
    for match, path in sorted(matches, key=lambda pair: int(pair[0][1])):
        stage = _stage_of(match)
        if stage not in STAGES:
            raise InputError(f"{path} names the stage {stage!r}; known stages: {', '.join(STAGES)}.")
        steps.append(Step(path, stage, load_config(stage_module(stage).CONFIG, path, overrides)))
        _check_place(steps[-1].config, str(path))
    return steps


def _check_place(config: StageConfig, where: str) -> None:
    """Refuse to write anywhere but into a folder of the run: whatever stands there is replaced."""
    name = config.output
    if name in ("", ".", "..") or Path(name).name != name or "\0" in name or "\0" in config.run_dir:
        raise InputError(
            f"{where}: `output` is {name!r} in `run_dir` {config.run_dir!r}; give the plain name of one "
            f"folder inside of `run_dir`, such as {type(config).output!r}."
        )


def _stage_of(match: re.Match[str]) -> str:
    """The stage that a file's name tells: its first two words where they are one, else the first."""
    two_words = " ".join([match[2], *(match[3] or "").split("-")[1:2]])
    return two_words if two_words in STAGES else match[2]


def run_recipe(
    folder: Path,
    overrides: Mapping[str, Any] | None = None,
    launch: Callable[[Step], bool] = lambda step: False,
) -> tuple[Path, StageConfig]:
    """Run all stages of a recipe that are not current; returns the run's folder and the last stage.

    Args:
        folder: the recipe.
        overrides: settings that win in every file, such as `run_dir`.
        launch: runs a stage on several processes, and says whether it did; what it leaves runs here.

    Raises:
        InputError: a mistake in the recipe or in what it reads; another command works in the run's folder;
            the disk is full or must not be written.
    """
    steps = read_recipe(folder, overrides)
    started = time.monotonic()
    run_dir = Path(steps[-1].config.run_dir)
    with contextlib.ExitStack() as held:
        for place in dict.fromkeys(Path(step.config.run_dir) for step in steps):
            held.enter_context(working_in(place, f"gream run {folder}"))
        for number, step in enumerate(steps, start=1):
            run_step(step, f"[{number}/{len(steps)}]", launch)
        _write_run_file(run_dir, steps)
    logger.info("%s is complete after %.0f s", run_dir, time.monotonic() - started)
    return run_dir, steps[-1].config


def run_step(step: Step, label: str, launch: Callable[[Step], bool] = lambda step: False) -> None:
    """Run one stage, or say that its folder is current."""
    config = step.config
    if is_current(config.output_path, stage=step.stage, config=config.recorded(), inputs=config.inputs()):
        sweep(config.output_path)
        logger.info("%s %s: current, skipped", label, step.title)
        return
    logger.info("%s %s", label, step.title)
    _tell_of_damage(config.output_path)
    if not launch(step):
        stage_module(step.stage).run(config)
        _report_stage(config)
        _free_device()


def _free_device() -> None:
    """Give back what a stage left on a GPU: a trainer refers to itself, and would hold its model on."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _tell_of_damage(folder: Path) -> None:
    """Say that a finished folder is made again because its files are not what was written."""
    if not (folder / MANIFEST).is_file():
        return
    try:
        damaged = damaged_file(folder, read_manifest(folder))
    except InputError as error:
        logger.info("%s", error)
        return
    if damaged is not None:
        logger.info("%s is missing, damaged or changed; %s is made again", folder / damaged, folder)


def run_alone(stage: str, config: StageConfig) -> None:
    """Run one stage without a recipe, current or not.

    Raises:
        InputError: as `run_recipe`.
    """
    _check_place(config, f"gream {stage}")
    with working_in(Path(config.run_dir), f"gream {stage}"):
        stage_module(stage).run(config)
    _report_stage(config)


def _report_stage(config: StageConfig) -> None:
    """Log where a finished stage wrote and what it cost; its counts it has told itself."""
    manifest = read_manifest(config.output_path)
    logger.info(
        "wrote %s in %.0f s, peak memory %d MB", config.output_path, manifest.seconds, manifest.peak_memory_mb
    )


def _write_run_file(run_dir: Path, steps: list[Step]) -> None:
    """Note the folders of the last evaluation, which are those that the run is served with."""
    last: Any = next((s.config for s in reversed(steps) if s.stage == "evaluate"), None)
    if last is None:
        return
    from gream.decoding.recommender import RUN_FILE  # here, because it imports torch
    from gream.decoding.run_file import SERVED
    from gream.evaluation.settings import plain_search, reasoning_search
    from gream.semantic_ids.adding import find_run, point_run_to

    folders = {name: getattr(last, name) for name in ("data", "sids", "model", "scorer")}
    search = reasoning_search(last) if last.reasoning else plain_search(last)
    settings = {name: getattr(search, name) for name in SERVED} | {"max_history": last.max_history}
    write_file(run_dir / RUN_FILE, json.dumps(folders | settings, indent=2) + "\n")
    # Items that were added to these names stay, as long as the names do.
    point_run_to(run_dir, find_run(last.locate("data"), last.locate("sids")))
