"""`gream plan`: rows and tokens against what a real training counts, sizes, warnings, sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gream.artifacts import read_manifest
from gream.cli import main
from gream.errors import InputError
from gream.planning.memory import CONFIGS, Training
from gream.planning.needs import Work
from gream.planning.plan import PlanConfig, make_plan
from gream.planning.probe import forward_operations, given_speed, training_operations
from gream.planning.report import as_json
from gream.planning.shapes import ModelShape
from tests.test_recipes import RECIPES, small_copy

STAGE_COUNTS = ("rows", "tokens", "steps")


def planned(recipe: Path, **settings: Any) -> dict[str, Any]:
    """The plan as JSON, by file; without any measurement."""
    made: dict[str, Any] = as_json(make_plan(recipe, PlanConfig(probe=False, **settings)))
    made["by_file"] = {stage["file"]: stage for stage in made["stages"]}
    return made


@pytest.fixture(scope="module")
def before_and_after(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The plan of a small shop's recipe before it runs and after, and the run."""
    folder = tmp_path_factory.mktemp("planned")
    recipe = small_copy("demo", folder)
    before = planned(recipe)
    assert main(["run", str(recipe)]) == 0
    return before, planned(recipe), folder / "run"


@pytest.mark.parametrize("name", ["sft-alignment", "sft-reasoning"])
def test_rows_tokens_and_steps_are_those_of_the_training(before_and_after: Any, name: str) -> None:
    """Before the run and after it.

    All users and items of so small a shop are seen, so rows are exact but for near copies of traces. Tokens
    differ by the phrasings that chance draws, 3 %, and before the run by names of four codes where these have
    three.
    """
    before, after, run = before_and_after
    for plan, tolerance in ((before, 0.12), (after, 0.03)):
        stage = next(s for s in plan["stages"] if s["file"].endswith(f"{name}.yaml"))
        counts = read_manifest(run / stage["output"]).counts
        assert stage["rows"] == pytest.approx(counts["rows"], rel=0.02)
        assert stage["steps"] == pytest.approx(counts["steps"], rel=0.03)
        assert stage["tokens"] == pytest.approx(counts["tokens"], rel=tolerance)
        assert stage["trained"] == pytest.approx(counts["trained_weights"], rel=tolerance)


def test_after_a_run_its_folders_tell_the_sizes_and_what_stages_took(before_and_after: Any) -> None:
    before, after, run = before_and_after
    vocab = next(s for s in after["stages"] if s["stage"] == "vocab")
    assert vocab["parameters"] == read_manifest(run / "base").counts["parameters"]
    assert {after["sources"][name] for name in ("data", "names", "tokenizer", "traces")} == {
        str(run / name) for name in ("data", "sids", "base", "traces")
    }
    assert all(stage["took"] is None for stage in before["stages"])
    assert all(stage["took"] is not None for stage in after["stages"])
    assert before["sources"]["names"].startswith("assumed: ")


def test_data_that_cannot_be_read_give_way_to_the_simulated_shop_and_it_is_said(tmp_path: Path) -> None:
    recipe = small_copy("demo", tmp_path)
    file = recipe / "01-data.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | {"source": "jsonl", "path": "nowhere"}))
    found = planned(recipe, users=50_000, items=7_000)
    assert found["sources"]["data"] == (
        "assumed: the simulated shop, because nowhere does not exist; correct `path`."
    )
    assert (found["data"]["users"], found["data"]["items"]) == (50_000, 7_000)
    alignment = found["by_file"]["07-sft-alignment.yaml"]
    assert alignment["rows"] > 50_000


SIZES = {
    "Qwen/Qwen3-0.6B": (596_049_920, 1024),
    "Qwen/Qwen3-1.7B": (1_720_574_976, 2048),
    "Qwen/Qwen3-4B-Instruct-2507": (4_022_468_096, 2560),
}
SETS = {"beauty": (22_363, 12_101), "sports": (35_598, 18_357), "instruments": (24_772, 9_922)}
PAIRS = [
    *(("gream-lora", *pair) for pair in zip(SIZES, SETS, strict=True)),
    *(("gream-full", *pair) for pair in zip(SIZES, reversed(SETS), strict=True)),
]


@pytest.mark.parametrize(("recipe", "name", "data"), PAIRS)
def test_pretrained_recipes_have_a_plan_without_weights(
    recipe: str, name: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every size and every set with both recipes; rows grow with users and items alone."""
    parameters, width = SIZES[name]
    users, items = SETS[data]
    monkeypatch.setenv("GREAM_MODEL", name)
    monkeypatch.setenv("GREAM_ENCODER", name)
    monkeypatch.setenv("GREAM_PURCHASES", "nowhere")
    devices = 8 if recipe == "gream-full" else 1
    found = planned(
        RECIPES / recipe, users=users, items=items, devices=devices, device_memory=80.0, device_tflops=400.0
    )
    stages = {stage["stage"]: stage for stage in found["stages"]}
    # the item tokens and their padding: 4 levels of 256 and one of 16, and what the table had free
    assert stages["vocab"]["parameters"] == parameters + (152_768 - 151_936) * width
    assert stages["embed"]["parameters"] == parameters
    for stage in ("sft", "srpo"):
        refused = {"fsdp"} if (recipe, stage) == ("gream-lora", "sft") else set()
        assert set(stages[stage]["memory"]) == set(CONFIGS) - refused
        assert stages[stage]["seconds"] > 0
        assert stages[stage]["activations"]["checkpointing"] < stages[stage]["activations"]["plain"]
    full = devices > 1
    assert (stages["sft"]["trained"] == stages["vocab"]["parameters"]) == full
    assert stages["srpo"]["vllm_cache_tokens"] > 0


def test_a_stage_that_does_not_fit_is_warned_of_with_the_setting_that_makes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = small_copy("demo", tmp_path)
    words = ["plan", str(recipe), "--probe", "false"]
    assert main([*words, "--device_memory", "4"]) == 0
    assert "Every stage fits: 1 x 4.0 GB (accelerator), single." in capsys.readouterr().out
    assert main([*words, "--device_memory", "0.02"]) == 0
    told = capsys.readouterr().out
    assert "WARNING sft-alignment: does not fit (" in told and "`micro_batch_size: " in told
    assert main([*words, "--device_memory", "0.02", "--json"]) == 0
    assert "`micro_batch_size: " in json.loads(capsys.readouterr().out)["stages"][6]["warning"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"devices": 0}, "devices is 0"),
        ({"accelerate": "zero1"}, "accelerate is 'zero1'; give one of single, ddp, zero2, zero3, fsdp"),
        ({"device_bandwidth": 0.0}, "device_bandwidth is 0"),
    ],
)
def test_settings_out_of_range_are_told(
    settings: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["plan", str(RECIPES / "demo"), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_model_that_no_file_writes_is_told(tmp_path: Path) -> None:
    recipe = small_copy("demo", tmp_path)
    next(recipe.glob("*vocab*")).unlink()
    with pytest.raises(InputError, match="No file of the recipe writes the model 'base'"):
        planned(recipe)


SHAPE = ModelShape(
    hidden=4,
    feed_forward=8,
    layers=2,
    heads=2,
    query=4,
    key=2,
    vocabulary=10,
    tied=True,
    parameters=340,
    bytes=4,
)


def test_operations_by_hand() -> None:
    """300 weights in blocks, 40 in the table: 2 x 300 and 2 x 4 x 6 x 2 a token, 2 x 40 an answer."""
    assert forward_operations(SHAPE, tokens=12, length=6, answers=3) == 12 * (600 + 96) + 3 * 80
    training = Training(shape=SHAPE, weight_bytes=4, compute_bytes=4, sequences=2, length=9, answers=9)
    work = Work(passes=5, sequences=2, length=6, answers=3)
    forward, blocks = 12 * 696 + 240, 12 * 696
    assert training_operations(training, work) == 5 * 3 * forward
    again = Training(**vars(training) | {"checkpointing": True})
    assert training_operations(again, work) == 5 * (3 * forward + blocks)
    adapters = Training(**vars(training) | {"rank": 1})
    assert training_operations(adapters, work) == 5 * (2 * forward + 6 * 12 * SHAPE.adapters(1))


def test_a_token_costs_what_memory_or_arithmetic_takes_whichever_is_longer() -> None:
    few = given_speed(
        tera=1e-6, bandwidth=1e-6, value_bytes=2
    )  # a million operations, a thousand bytes a second
    assert few.step_seconds(SHAPE, 1, 10) == pytest.approx(2 * (340 + 10 * 8) / 1_000)
    many = given_speed(tera=1e-9, bandwidth=1.0, value_bytes=2)  # a thousand operations a second
    assert many.step_seconds(SHAPE, 5, 10) == pytest.approx(2 * 5 * 340 / 1_000)


@pytest.mark.slow
def test_the_measured_rate_tells_the_time_of_a_training(before_and_after: Any) -> None:
    """The estimate of a training's time lies within a factor of three of what it took.

    A machine that does other things besides halves or doubles either; more would be a wrong formula.
    """
    _, _, run = before_and_after
    recipe = run.parent / "demo"
    found = as_json(make_plan(recipe, PlanConfig()))
    stage = next(s for s in found["stages"] if s["file"] == "07-sft-alignment.yaml")
    counts = read_manifest(run / "sft-alignment").counts
    took = counts["tokens"] / counts["tokens_per_second"]
    assert np.log(3) > abs(np.log(stage["seconds"] / took))
