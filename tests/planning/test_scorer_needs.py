"""The plan of a scorer that reads a policy: rows and tokens are those that its own batches have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gream.data.store import load_interactions
from gream.language.prompting import Prompter
from gream.language.vocab import load_tokenizer
from gream.pipeline import run_recipe
from gream.planning.plan import PlanConfig, make_plan
from gream.planning.report import as_json
from gream.semantic_ids.layout import load_names
from gream.training.policy_targets import PolicyTargets
from tests.test_recipes import small_copy


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first five stages of recipes/promise, finished, and its scorer behind them."""
    folder = small_copy("promise", tmp_path_factory.mktemp("planned"))
    scorer = next(folder.glob("*-prm.yaml"))
    settings = yaml.safe_load(scorer.read_text()) | {"model": "base", "epochs": 3}
    for file in folder.glob("*.yaml"):
        if int(file.name.split("-")[0]) > 5:
            file.unlink()
    run_recipe(folder)
    (folder / "6-prm.yaml").write_text(yaml.safe_dump(settings))
    return folder


def planned(recipe: Path, **changes: Any) -> dict[str, Any]:
    file = recipe / "6-prm.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))
    made = as_json(make_plan(recipe, PlanConfig(probe=False)))
    found: dict[str, Any] = made["stages"][-1]
    return found


@pytest.mark.parametrize("per_sequence", [2, 1000])
def test_rows_and_tokens_are_those_of_the_batches(recipe: Path, per_sequence: int) -> None:
    """Exactly, where every purchase is asked for; a drawn epoch has a mean of its own."""
    found = planned(recipe, targets_per_sequence=per_sequence, train_policy=True)
    config = yaml.safe_load((recipe / "6-prm.yaml").read_text())
    run = Path(config["run_dir"])
    names = load_names(run / "sids")
    prompter = Prompter(load_tokenizer(run / "base", names), names, max_history=config["max_history"])
    targets = PolicyTargets(
        None, prompter, load_interactions(run / "data").training_sequences(), config["batch_size"],
        per_sequence=per_sequence, train_policy=True,
    )  # fmt: skip
    tokens = sum(int(b.real.sum()) for b in targets.batches(torch.Generator().manual_seed(0)))
    assert found["rows"] == 3 * len(targets)
    assert found["tokens"] == pytest.approx(3 * tokens, rel=0.1 if per_sequence == 2 else 1e-9)
    assert found["steps"] == pytest.approx(3 * targets.num_batches, abs=3)


def test_a_policy_that_learns_holds_gradients_and_one_that_is_read_none(recipe: Path) -> None:
    learns = planned(recipe, train_policy=True)["memory"]["single"]
    read = planned(recipe, train_policy=False)["memory"]["single"]
    assert (learns["gradients"], learns["optimizer"]) == (learns["weights"], 2 * learns["weights"])
    assert (read["gradients"], read["optimizer"]) == (0, 0) and read["weights"] == learns["weights"]


def test_an_encoder_of_its_own_needs_no_plan(recipe: Path) -> None:
    found = planned(recipe, context="own", model="", train_policy=False)
    assert found["memory"] == {} and not found["rows"]
