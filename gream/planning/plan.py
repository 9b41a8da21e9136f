"""The command `gream plan RECIPE`: what the recipe will need, before anything runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gream.arguments import StageConfig, option
from gream.errors import InputError
from gream.pipeline import Step, read_recipe
from gream.planning.corpus import Corpus
from gream.planning.fitting import GIB, advice, held
from gream.planning.memory import CONFIGS, DDP, SINGLE, Training, activation_bytes, vllm_tokens
from gream.planning.needs import Needs
from gream.planning.probe import Probe, Speed, forward_operations, given_speed, training_operations
from gream.planning.report import Plan, StagePlan, as_json, render
from gream.planning.stages import Planner


@dataclass(kw_only=True)
class PlanConfig(StageConfig):
    """Settings of `gream plan`."""

    run_dir: str = option("", doc="the run's folder in place of the recipe's")
    devices: int = option(1, doc="devices that a training is shared out over")
    device_memory: float = option(
        0.0, doc="GB of one device, as cards are sold; 0 for the present machine's, which is then planned for"
    )
    accelerate: str = option(
        "", doc=f"what warnings are about: {', '.join(CONFIGS)}; empty: single, ddp for several devices"
    )
    users: int = option(0, doc="users, in place of those of the data; 0 for theirs")
    items: int = option(0, doc="items, in place of those of the data; 0 for theirs")
    probe: bool = option(True, doc="whether to measure the present machine; else no times are told")
    device_tflops: float = option(
        0.0, doc="10^12 operations a second that a device sustains, in place of a measurement"
    )
    device_bandwidth: float = option(
        1000.0, doc="10^9 bytes a second of its memory; no effect without device_tflops"
    )
    json: bool = option(False, doc="whether to print JSON")


def plan(recipe: Path, config: PlanConfig) -> str:
    """Return the plan of a recipe, as a table or as JSON.

    Raises:
        InputError: settings out of range, or a mistake in the recipe.
    """
    _check(config)
    made = make_plan(recipe, config)
    return json.dumps(as_json(made), indent=2) if config.json else render(made)


def make_plan(recipe: Path, config: PlanConfig) -> Plan:
    """Work out what a recipe needs."""
    steps = read_recipe(recipe, {"run_dir": config.run_dir} if config.run_dir else None)
    on_gpu = bool(config.device_memory) or torch.cuda.is_available()
    device = config.device_memory * GIB or _present_memory()
    corpus = _corpus(steps, config)
    needs = Planner(steps, corpus, on_gpu=on_gpu, devices=config.devices).needs()
    accelerate = config.accelerate or (DDP if config.devices > 1 else SINGLE)
    clock = _Clock(config, on_gpu)
    stages = []
    for need in needs:
        memory = {name: held(need, name, config.devices, device) for name in CONFIGS}
        shape = need.shape
        stages.append(
            StagePlan(
                need,
                {name: found for name, found in memory.items() if found is not None},
                _kept(need),
                advice(need, accelerate, config.devices, device),
                clock.seconds(need),
                vllm_tokens(shape, need.vllm, device) if need.vllm and shape else None,
            )
        )
    return Plan(recipe, corpus, config.devices, device, on_gpu, accelerate, clock.told, stages)


class _Clock:
    """Seconds of a stage, by a measurement of this machine or by what is known of another."""

    def __init__(self, config: PlanConfig, on_gpu: bool) -> None:
        self._devices = config.devices
        self._given: Speed | None = None
        self._probe: Probe | None = None
        self.told = "no times: nothing was measured"
        if config.device_tflops:
            self._given = given_speed(config.device_tflops, config.device_bandwidth, 2 if on_gpu else 4)
            self.told = self._given.told
        elif config.probe:
            self._probe = Probe(on_gpu=torch.cuda.is_available())
            self.told = "times are for the present machine, measured on a slice of each model for seconds"

    def seconds(self, needs: Needs) -> float | None:
        """Return the seconds of a stage on all devices together; None where it is not known."""
        work, shape = needs.work, needs.shape
        if shape is None or not (work.passes or work.read) or not (self._given or self._probe):
            return None
        training = needs.training or Training(
            shape=shape, weight_bytes=4, compute_bytes=4, sequences=8, length=work.read_length, answers=8
        )
        shaped = work if needs.training else replace(work, sequences=8, length=work.read_length, answers=8)
        rate = (
            self._given.rate if self._given else self._measured().training_rate(needs.model, training, shaped)
        )
        operations = training_operations(training, work) if needs.training else 0.0
        operations += forward_operations(shape, work.read, work.read_length, 0)
        found = operations / rate
        if work.written:
            before = work.read_length + round(work.written / max(1.0, needs.rows) / 2)
            step = (
                self._given.step_seconds(shape, work.side_by_side, before)
                if self._given
                else self._measured().step_seconds(needs.model, shape, work.side_by_side, before)
            )
            found += work.written / work.side_by_side * step
        return found / self._devices

    def _measured(self) -> Probe:
        assert self._probe is not None
        return self._probe


def _check(config: PlanConfig) -> None:
    for name, least in (
        ("devices", 1),
        ("device_memory", 0),
        ("users", 0),
        ("items", 0),
        ("device_tflops", 0),
    ):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give at least {least}.")
    if config.device_bandwidth <= 0:
        raise InputError(f"device_bandwidth is {config.device_bandwidth}; give a number above 0.")
    if config.accelerate and config.accelerate not in CONFIGS:
        raise InputError(f"accelerate is {config.accelerate!r}; give one of {', '.join(CONFIGS)}.")


def _corpus(steps: list[Step], config: PlanConfig) -> Corpus:
    data: Any = next((step.config for step in steps if step.stage == "data"), None)
    if data is None:
        raise InputError("The recipe has no `data` file, so nobody knows what it is about; add one.")
    text: Any = next((step.config for step in steps if step.stage == "text"), None)
    described = {"max_description": text.max_description} if text is not None else {}
    return Corpus(data, users=config.users, items=config.items, **described)


def _kept(needs: Needs) -> tuple[int, int] | None:
    if needs.training is None:
        return None
    plain, again = (activation_bytes(replace(needs.training, checkpointing=c)) for c in (False, True))
    return plain, again


def _present_memory() -> float:
    """Bytes of this machine's device: of the GPU, or what of the main memory is free."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[1])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
