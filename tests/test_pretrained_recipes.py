"""The recipes for pretrained models, as far as they can be checked without the weights.

Shapes and sizes are those of the published configurations of Qwen3; the models are built on the `meta`
device, which holds no weights. The dry run takes every file as it is, with a tiny model of the same
architecture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from gream.cli import main
from gream.language.vocab import build_model, train_tokenizer
from gream.pipeline import STAGES, read_recipe
from gream.semantic_ids.layout import Names
from gream.training.adapters import adapt
from tests.test_recipes import RECIPES, report_of, small_copy

RECIPE_NAMES = ("gream-lora", "gream-full")
# hidden size, feed-forward size, layers, heads; all have 8 key-value heads of width 128 and tied embeddings
SHAPES = {
    "Qwen/Qwen3-0.6B": (1024, 3072, 28, 16),
    "Qwen/Qwen3-1.7B": (2048, 6144, 28, 16),
    "Qwen/Qwen3-4B-Instruct-2507": (2560, 9728, 36, 32),
}
PARAMETERS = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B-Instruct-2507": 4_022_468_096,
}
ROWS, ENTRIES = 151_936, 151_669  # of the table of embeddings, and of the tokenizer


def on_meta(name: str) -> Any:
    hidden, feed_forward, layers, heads = SHAPES[name]
    config = Qwen3Config(
        vocab_size=ROWS,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return Qwen3ForCausalLM(config)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers of 16, with the architecture and the chat template of the real ones."""
    folder = tmp_path_factory.mktemp("stand-in")
    tokenizer = train_tokenizer(["oak desk for tall people", "tin stove", "brass lamp"] * 9, 300)
    build_model(len(tokenizer), hidden_size=16, num_layers=2, num_heads=4, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_every_file_parses_and_the_environment_names_model_and_data(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = read_recipe(RECIPES / recipe)
    assert {step.stage for step in plain} == set(STAGES) - {"synthesize profiles"}
    models = {getattr(step.config, name, None) for step in plain for name in ("base_model", "encoder")}
    assert models - {None} == {"Qwen/Qwen3-4B-Instruct-2507"}
    monkeypatch.setenv("GREAM_MODEL", "Qwen/Qwen3-0.6B")
    monkeypatch.setenv("GREAM_SOURCE", "amazon2014")
    monkeypatch.setenv("GREAM_PURCHASES", "reviews.json.gz")
    monkeypatch.setenv("GREAM_ITEMS", "meta.json.gz")
    found: Any = {step.stage: step.config for step in read_recipe(RECIPES / recipe)}
    assert found["vocab"].base_model == "Qwen/Qwen3-0.6B"
    data = found["data"]
    assert (data.source, data.path, data.items_path) == ("amazon2014", "reviews.json.gz", "meta.json.gz")


def test_the_two_recipes_differ_where_one_device_differs_from_eight_only() -> None:
    lora, full = (
        {step.stage: step.config.recorded() for step in read_recipe(RECIPES / r)} for r in RECIPE_NAMES
    )
    differing = {
        stage: {key for key in settings if settings[key] != full[stage][key]}
        for stage, settings in lora.items()
    }
    adapters = {"trainable", "lora_rank", "lora_alpha", "learning_rate"}
    assert {stage: keys for stage, keys in differing.items() if keys} == {
        "sft": adapters | {"batch_size"}, "srpo": adapters,
    }  # fmt: skip
    assert lora["sft"]["batch_size"] == 8 * full["sft"]["batch_size"] == 256


@pytest.mark.parametrize("name", SHAPES)
def test_models_have_their_published_sizes_and_room_for_the_names(name: str, names: Names) -> None:
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    tokens = (
        4 * 256
    )  # of the recipes' names; their fifth level is as long as the largest group that shares four
    model.resize_token_embeddings(ENTRIES + 3 + tokens, pad_to_multiple_of=64, mean_resizing=False)
    table = model.get_input_embeddings().weight
    assert table.shape == (152_704, SHAPES[name][0]) and table.device.type == "meta"
    assert model.get_output_embeddings().weight is table


@pytest.mark.parametrize("name", SHAPES)
def test_adapters_have_the_size_that_their_shapes_give(name: str, prompter: Any) -> None:
    """Rank 64 on seven linear layers of every block, and the rows of names and markers."""
    hidden, feed_forward, layers, heads = SHAPES[name]
    step = next(step for step in read_recipe(RECIPES / "gream-lora") if step.stage == "sft")
    settings: Any = step.config
    adapted = adapt(
        on_meta(name),
        prompter,
        settings.trainable,
        rank=settings.lora_rank,
        alpha=settings.lora_alpha,
        seed=0,
    )
    query, keys = heads * 128, 8 * 128
    ends = 2 * (hidden + query) + 2 * (hidden + keys) + 3 * (hidden + feed_forward)
    rows = len(prompter.item_block) + 4  # <think>, </think>, <answer>, </answer>
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == layers * 64 * ends + rows * hidden


@pytest.mark.parametrize("recipe", RECIPE_NAMES)
def test_every_stage_runs_from_the_same_files_with_a_stand_in(
    recipe: str, stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREAM_MODEL", str(stand_in))
    monkeypatch.setenv("GREAM_ENCODER", str(stand_in))
    assert main(["run", str(small_copy(recipe, tmp_path))]) == 0
    report = report_of(tmp_path / "run" / "evaluation")
    rows = [name for name in report if isinstance(report[name], dict) and "recall@10" in report[name]]
    assert rows == [
        "best_reachable", "popularity", "item_knn", "sasrec", "direct_before_srpo", "direct", "prm",
        "reasoning",
    ]  # fmt: skip
    assert report["users"] == report["users_in_split"] > 20
