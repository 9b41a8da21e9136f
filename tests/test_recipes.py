"""Recipes that nothing else runs, from the first stage to a recommendation, at the smallest sizes.

Every file is the recipe's own; only sizes and budgets shrink, and real purchases give way to the simulator.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gream import Recommender
from gream.cli import main
from gream.data.store import load_interactions
from gream.semantic_ids.layout import load_names

RECIPES = Path(__file__).parents[1] / "recipes"
SMALL: dict[str, dict[str, Any]] = {
    "embed": {"dim": 16},
    "sids": {"codebook_size": 8},
    "vocab": {"hidden_size": 16, "num_layers": 1, "text_tokens": 300},
    "sft": {"epochs": 1},
    "srpo": {"max_steps": 2, "prompts_per_batch": 2, "num_generations": 2, "micro_batch_size": 4}
    | {"max_completion_length": 16, "engine": "torch"},  # vLLM writes rollouts on a GPU only
    "prm": {"hidden_size": 8, "epochs": 1, "batch_size": 32},
    "baselines": {"sasrec_size": 8, "sasrec_epochs": 1},
    "evaluate": {"num_beams": 50, "max_chain_tokens": 16, "engine": "torch"},
}
SHOP = {"source": "simulator", "num_items": 120, "num_customers": 60}


def small_copy(recipe: str, folder: Path) -> Path:
    """Copy a recipe with small numbers in place of its own."""
    copied = folder / recipe
    copied.mkdir()
    for file in sorted((RECIPES / recipe).glob("*.yaml")):
        stage = file.stem.split("-")[1]
        settings = yaml.safe_load(file.read_text()) | SMALL.get(stage, {})
        if stage == "data":
            settings = {name: settings[name] for name in ("run_dir", "output")} | SHOP
        if settings.get("method") == "mpq":
            settings |= {"hidden": [16], "latent_dim": 12, "epochs": 3}
        settings["run_dir"] = str(folder / "run")
        (copied / file.name).write_text(yaml.safe_dump(settings))
    return copied


def report_of(folder: Path) -> dict[str, Any]:
    """Read what an evaluation wrote."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize(
    ("recipe", "rows"),
    [
        ("scientific-reg4rec", ["direct_before_srpo", "direct"]),
        ("promise", ["direct_before_srpo", "direct", "prm"]),
        ("lora", ["direct"]),
        ("beauty", ["direct", "prm"]),
        ("ablation", ["direct", "prm"]),
    ],
)
def test_a_recipe_runs_to_its_end_and_recommends_real_items(
    recipe: str, rows: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert main(["run", str(small_copy(recipe, tmp_path))]) == 0
    report = report_of(run / "evaluation")
    assert report["users"] == report["users_in_split"] > 20
    assert [name for name in report if name.startswith(("direct", "prm"))] == rows
    assert all(report[name]["invalid_rate"] == 0 for name in rows)
    ordered = load_names(run / "sids").layout.ordered
    assert ordered == (recipe != "scientific-reg4rec")
    if not ordered:  # the recipe that prunes
        assert 0 <= report_of(run / "evaluation-corp")["direct"]["false_prune_rate"] <= 1
    recommender = Recommender.load(run)
    history = [recommender.catalogue.item_ids[i] for i in load_interactions(run / "data").sequences[0][:3]]
    found = recommender.recommend(history=history, k=5)
    assert len({r.item_id for r in found}) == 5
    assert [r.logp for r in found] == sorted((r.logp for r in found), reverse=True) or recipe == "promise"
