"""What is proposed where a stage does not fit, on a model of 10^9 weights whose figures are known by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.pipeline import Step
from gream.planning.fitting import GIB, advice, fits, held
from gream.planning.memory import Memory, Training
from gream.planning.needs import Answering, Needs, Work
from gream.planning.shapes import ModelShape
from gream.training.sft import SftConfig
from gream.training.srpo import SRPOConfig

SHAPE = ModelShape(
    hidden=1_000,
    feed_forward=3_000,
    layers=20,
    heads=10,
    query=1_000,
    key=500,
    vocabulary=1_000,
    tied=True,
    parameters=10**9,
    bytes=2,
)


def needs(stage: str = "sft", **changes: Any) -> Needs:
    """A stage that holds 8 GB of weights, gradients and moments, and 21 GB of activations."""
    training = Training(
        shape=SHAPE, weight_bytes=2, compute_bytes=2, sequences=6, length=4_000, answers=0, masked=False
    )
    config = SftConfig() if stage == "sft" else SRPOConfig()
    step = Step(Path(f"7-{stage}.yaml"), stage, config)
    return Needs(step, SHAPE, training=replace(training, **changes), work=Work(sequences=6))


def test_a_stage_that_fits_needs_no_advice() -> None:
    assert advice(needs(), "single", 1, 40 * GIB) is None
    assert fits(Memory(9, 0, 0, 0, 0), 10) and not fits(Memory(9, 1, 0, 0, 0), 10)


@pytest.mark.parametrize(
    ("stage", "devices", "gigabytes", "proposed"),
    [
        ("sft", 1, 20, "; `gradient_checkpointing: true` makes it"),
        ("sft", 1, 9.6, "; `gradient_checkpointing: true` with `micro_batch_size: 3` makes it"),
        ("srpo", 1, 20, "; `gradient_checkpointing: true` makes it"),
        ("sft", 4, 7.7, "and `--accelerate zero3` makes it"),
        ("sft", 1, 4.3, "and `trainable: lora` makes it"),
        ("sft", 1, 0.5, "no setting here makes it"),
    ],
)
def test_the_first_change_that_fits_is_named(
    stage: str, devices: int, gigabytes: float, proposed: str
) -> None:
    told = advice(needs(stage), "ddp" if devices > 1 else "single", devices, gigabytes * GIB)
    assert told is not None and proposed in told, told


def test_what_is_proposed_really_fits() -> None:
    found = held(needs(checkpointing=True), "single", 1, 0.0)
    assert found is not None and fits(found, 20 * GIB)
    before = held(needs(), "single", 1, 0.0)
    assert before is not None and not fits(before, 20 * GIB)


def test_without_a_reference_model_reinforcement_learning_needs_a_copy_less() -> None:
    given = {"sequences": 1, "length": 10, "reference": True, "checkpointing": True}
    wanted = replace(needs("srpo", **given), work=Work(sequences=1))
    told = advice(wanted, "single", 1, 9.5 * GIB)
    assert told is not None and "; `beta: 0`, which needs no reference model, makes it" in told


def test_the_cache_of_rollouts_counts_where_it_is_larger_than_the_activations() -> None:
    plain, cached = (held(replace(needs(), rollouts=n), "single", 1, 0.0) for n in (0, 10**6))
    assert plain is not None and cached is not None
    assert cached.total - plain.total == 10**6 * 2 * 20 * 500 * 2 - plain.activations


def test_vllm_takes_its_share_and_smaller_batches_make_an_evaluation_fit() -> None:
    answering = Answering(SHAPE, weight_bytes=4, compute_bytes=2, cached=10**6, at_once=0)
    wanted = replace(needs(), training=None, answering=answering)
    found = held(wanted, "single", 1, 40 * GIB)
    assert found == Memory(4 * 10**9, 0, 0, 0, 10**6 * 2 * 20 * 500 * 2)
    assert held(replace(wanted, vllm=0.8), "single", 1, 40 * GIB) == Memory(
        2 * 10**9, 0, 0, 0, round(0.8 * 40 * GIB) - 2 * 10**9
    )
    told = advice(wanted, "single", 1, 30 * GIB)
    assert told is not None and "`batch_size: 32`" in told


def test_a_scorer_that_trains_its_policy_is_offered_only_what_it_has() -> None:
    """Its processes share no weights out, whatever the configuration, and it knows no adapters."""
    wanted = needs("prm")
    for config, devices in (("single", 1), ("zero3", 8)):
        told = advice(wanted, config, devices, 20 * GIB)
        assert told is not None and "; `train_policy: false` makes it" in told
    alone, shared = (held(wanted, config, n, 0.0) for config, n in (("single", 1), ("zero3", 8)))
    assert alone == shared


@pytest.mark.parametrize("adapters", [{"rank": 16}, {"rows": 100}])
def test_fsdp_is_not_offered_token_rows_which_it_refuses(adapters: dict[str, int]) -> None:
    """Nor does a plan say that it would fit; reinforcement trains no rows, and keeps its adapters."""
    refused = needs(**adapters)
    assert held(refused, "fsdp", 4, 0.0) is None and held(refused, "zero3", 4, 0.0) is not None
    told = advice(refused, "fsdp", 4, 80 * GIB)
    assert told is not None and "take zero3" in told
    for gigabytes in np.linspace(0.5, 20, 40):
        assert "trainable: lora" not in str(advice(needs(), "fsdp", 4, gigabytes * GIB))
    assert held(needs("srpo", **adapters), "fsdp", 4, 0.0) is not None
