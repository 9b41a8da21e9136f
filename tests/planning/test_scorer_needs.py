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
from gream.planning.needs import Needs
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


def changed(recipe: Path, changes: dict[str, Any]) -> None:
    file = recipe / "6-prm.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def planned(recipe: Path, **changes: Any) -> dict[str, Any]:
    changed(recipe, changes)
    made = as_json(make_plan(recipe, PlanConfig(probe=False)))
    found: dict[str, Any] = made["stages"][-1]
    return found


def needed(recipe: Path, memory: float = 0.0, **changes: Any) -> Needs:
    changed(recipe, changes)
    return make_plan(recipe, PlanConfig(probe=False, device_memory=memory)).stages[-1].needs


def targets_of(recipe: Path) -> PolicyTargets:
    config = yaml.safe_load((recipe / "6-prm.yaml").read_text())
    run = Path(config["run_dir"])
    names = load_names(run / "sids")
    prompter = Prompter(load_tokenizer(run / "base", names), names, max_history=config["max_history"])
    return PolicyTargets(
        None, prompter, load_interactions(run / "data").training_sequences(), config["batch_size"],
        per_sequence=config["targets_per_sequence"], train_policy=True,
    )  # fmt: skip


@pytest.mark.parametrize("per_sequence", [2, 1000])
def test_rows_and_tokens_are_those_of_the_batches(recipe: Path, per_sequence: int) -> None:
    """Exactly, where every purchase is asked for; a drawn epoch has a mean of its own."""
    found = planned(recipe, targets_per_sequence=per_sequence, train_policy=True)
    targets = targets_of(recipe)
    tokens = sum(int(b.real.sum()) for b in targets.batches(torch.Generator().manual_seed(0)))
    assert found["rows"] == 3 * len(targets)
    assert found["tokens"] == pytest.approx(3 * tokens, rel=0.1 if per_sequence == 2 else 1e-9)
    assert found["steps"] == pytest.approx(3 * targets.num_batches, abs=3)


def lengths_of(recipe: Path) -> list[int]:
    """Tokens of each row of an epoch, prompt and name."""
    batches = targets_of(recipe).batches(torch.Generator().manual_seed(0))
    return [length for batch in batches for length in batch.real.sum(dim=1).tolist()]


def test_what_a_policy_that_learns_computes_and_holds_is_that_of_the_batches(recipe: Path) -> None:
    found = needed(recipe, train_policy=True, targets_per_sequence=1000, batch_size=7)
    lengths, work, held = lengths_of(recipe), found.work, found.training
    assert held is not None and held.shape == found.shape and not found.answering
    assert (found.steps - 1) * 7 < 3 * len(lengths) <= found.steps * 7
    assert (work.sequences, work.passes * 7, work.updates) == (7, found.rows, found.steps)
    assert work.length == round(sum(lengths) / len(lengths)) and not work.read
    assert (held.sequences, held.length) == (7, max(lengths))
    # What the three tokens of a name are predicted from, and what follows the last.
    assert work.answers == held.answers == 7 * 4


def test_what_a_policy_that_is_read_computes_and_holds_is_that_of_the_batches(recipe: Path) -> None:
    """In half precision on a GPU, and as it is stored on a CPU."""
    found = needed(recipe, train_policy=False, targets_per_sequence=1000, batch_size=7)
    lengths, work, held = lengths_of(recipe), found.work, found.answering
    assert held is not None and not found.training
    assert (held.weight_bytes, held.compute_bytes, held.cached) == (4, 4, 0)
    assert held.at_once == 7 * max(lengths)
    assert work.read == found.tokens == pytest.approx(3 * sum(lengths)) and not work.passes
    assert work.read_length == round(sum(lengths) / len(lengths) - 3)
    on_gpu = needed(recipe, memory=80.0).answering
    assert on_gpu is not None and (on_gpu.weight_bytes, on_gpu.compute_bytes) == (2, 2)


def test_a_policy_that_learns_holds_gradients_and_one_that_is_read_none(recipe: Path) -> None:
    learns = planned(recipe, train_policy=True)["memory"]["single"]
    read = planned(recipe, train_policy=False)["memory"]["single"]
    assert (learns["gradients"], learns["optimizer"]) == (learns["weights"], 2 * learns["weights"])
    assert (read["gradients"], read["optimizer"]) == (0, 0) and read["weights"] == learns["weights"]


@pytest.mark.parametrize(("gigabytes", "computes_in"), [(0.0, 4), (80.0, 2)])
def test_a_policy_learns_in_float32_and_computes_in_half_precision_on_a_gpu(
    recipe: Path, gigabytes: float, computes_in: int
) -> None:
    held = needed(recipe, train_policy=True, memory=gigabytes).training
    assert held is not None and (held.weight_bytes, held.compute_bytes) == (4, computes_in)


def test_an_encoder_of_its_own_needs_no_plan(recipe: Path) -> None:
    found = planned(recipe, context="own", model="", train_policy=False)
    assert found["memory"] == {} and not found["rows"]
