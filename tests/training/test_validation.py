"""Both modes as one score: worked by hand, from the engine that evaluation loads, and from before step 1."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gream.data.store import Case, Interactions
from gream.decoding.answer import Answer
from gream.decoding.recommend import Engine, Search, load_engine, recommend_many
from gream.evaluation import metrics
from gream.language.prompting import Prompter
from gream.training import validation
from gream.training.early_stop import ValidationStop, validation_cases
from gream.training.validation import BothModes, Measured, direct_recall, standard_error

# Four users: direct mode is right for the first and third, reasoning for the first three.
TARGETS = [0, 1, 2, 3]
LISTS = {"direct": [[0, 9], [0, 9], [2, 9], [9, 0]], "reasoning": [[0, 5], [6, 1], [7, 2], [8, 4]]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Search]:
    """Scripted lists; the searches that were asked for."""
    searches: list[Search] = []

    def recommend(engine: Engine, histories: Sequence[Sequence[int]], search: Search) -> list[Answer]:
        searches.append(search)
        return [Answer(np.array(items), np.zeros(2), None) for items in LISTS[search.mode]]

    monkeypatch.setattr(validation, "recommend_many", recommend)
    return searches


def shop(num_items: int = 20) -> tuple[Any, list[Case]]:
    cases = [Case(user, np.array([1]), target) for user, target in enumerate(TARGETS)]
    return SimpleNamespace(names=range(num_items)), cases


def test_the_score_weighs_both_modes_user_by_user(asked: list[Search]) -> None:
    """Scores 1, 1/4, 1 and 0: mean 9/16; their squared deviations sum to 51/64."""
    found = BothModes(0.25, 160, seed=7)(*shop())
    assert found.score == found.figures["validation_score"] == 9 / 16
    assert found.figures["validation_recall@10"] == 0.5
    assert found.figures["validation_reasoning_recall@10"] == 0.75
    assert found.figures["validation_score_error"] == pytest.approx(math.sqrt(51 / 64 / 3 / 4))
    assert found.figures["validation_coverage"] == 3 / 20  # items 0, 2, 9
    assert found.figures["validation_reasoning_coverage"] == 8 / 20  # all of 0, 5, 6, 1, 7, 2, 8, 4
    assert [search.mode for search in asked] == ["direct", "reasoning"]
    assert (asked[1].num_chains, asked[1].max_chain_tokens, asked[1].seed) == (1, 160, 7)
    assert (asked[1].k, asked[1].num_beams) == (asked[0].k, asked[0].num_beams)


def test_reasoning_that_is_not_trained_is_not_asked(asked: list[Search]) -> None:
    found = BothModes(0.0, 160, seed=7)(*shop())
    assert found.score == 0.5
    assert [search.mode for search in asked] == ["direct"]
    assert not [key for key in found.figures if "reasoning" in key]


def test_direct_mode_is_watched_though_reasoning_alone_is_trained(asked: list[Search]) -> None:
    found = BothModes(1.0, 160, seed=7)(*shop())
    assert (found.score, found.figures["validation_recall@10"]) == (0.75, 0.5)


def test_direct_recall_logs_nothing_else(asked: list[Search]) -> None:
    assert direct_recall(*shop()) == Measured(0.5, {"validation_recall@10": 0.5})


def test_one_user_tells_nothing_of_the_error() -> None:
    assert standard_error(np.array([1.0])) == math.inf
    assert standard_error(np.array([0.0, 1.0])) == pytest.approx(0.5)


def test_the_figures_are_those_that_the_saved_folder_gets(
    run_dir: Path, model_and_tokenizer: tuple[Any, Any], prompter: Prompter, interactions: Interactions
) -> None:
    cases = validation_cases(interactions, 9, seed=0)
    stop = ValidationStop(
        model_and_tokenizer[0], prompter, cases, every=1.0, patience=1, measure=BothModes(0.5, 12, seed=3)
    )
    found = stop.measure()
    assert stop.measure() == found
    engine = load_engine(run_dir / "sids", run_dir / "base", max_history=5)
    search = Search(k=10, num_beams=20, mode="reasoning", num_chains=1, max_chain_tokens=12, seed=3)
    answers = recommend_many(engine, [case.history.tolist() for case in cases], search)
    ranks = metrics.ranks_of_targets([a.items for a in answers], [case.target for case in cases])
    assert metrics.recall(ranks, 10) == found.figures["validation_reasoning_recall@10"] > 0


@pytest.fixture
def scripted(model_and_tokenizer: tuple[Any, Any], prompter: Prompter, interactions: Interactions) -> Any:
    """A stop whose measurements give these scores, one after the other."""

    def make(scores: list[float]) -> ValidationStop:
        given = iter(scores)
        return ValidationStop(
            model_and_tokenizer[0], prompter, validation_cases(interactions, 3, seed=0), every=0.5,
            patience=9, measure=lambda *_: Measured(score := next(given), {"validation_score": score}),
            name="validation_score", from_start=True,
        )  # fmt: skip

    return make


def drive(stop: ValidationStop, model: Any, log: list[dict[str, float]], num_steps: int = 4) -> None:
    """Train for some steps, each of which adds 1 to a weight."""
    state: Any = SimpleNamespace(global_step=0, max_steps=num_steps, log_history=log)
    control: Any = SimpleNamespace(should_training_stop=False)
    arguments: Any = None
    stop.on_train_begin(arguments, state, control)
    for _ in range(num_steps):
        with torch.no_grad():
            model.model.norm.weight += 1
        state.global_step += 1
        stop.on_step_end(arguments, state, control)


def test_training_that_helped_nothing_leaves_the_model_as_it_came(
    model_and_tokenizer: tuple[Any, Any], scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, log = model_and_tokenizer[0], []
    before = model.model.norm.weight.clone()
    stop = scripted([0.5, 0.4, 0.5])
    drive(stop, model, log)
    assert log == [{"step": s, "validation_score": v} for s, v in [(0, 0.5), (2, 0.4), (4, 0.5)]]
    with caplog.at_level(logging.INFO, logger="gream"):
        stop.restore()
    assert stop.step == 0
    assert torch.equal(model.model.norm.weight, before)
    assert "0.5000 at best, after step 0; measured 3 times" in caplog.text
    assert "the model stays as it came" in caplog.text


def test_training_that_helped_keeps_its_best_weights(
    model_and_tokenizer: tuple[Any, Any], scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, log = model_and_tokenizer[0], []
    before = model.model.norm.weight.clone()
    stop = scripted([0.5, 0.6, 0.55])
    drive(stop, model, log)
    stop.restore()
    assert stop.step == 2
    assert torch.equal(model.model.norm.weight, before + 2)
    assert "stays as it came" not in caplog.text


def test_a_resumed_training_does_not_measure_its_start_again(
    tmp_path: Path, model_and_tokenizer: tuple[Any, Any], scripted: Any
) -> None:
    first = scripted([0.7])
    state: Any = SimpleNamespace(global_step=0, max_steps=4, log_history=[])
    nothing: Any = None
    first.on_train_begin(nothing, state, nothing)
    first.save(tmp_path)
    again, log = scripted([0.1, 0.2]), []
    again.load(tmp_path)
    drive(again, model_and_tokenizer[0], log)
    assert [entry["step"] for entry in log] == [2, 4]
    assert (again.step, again.score) == (0, 0.7)
