"""Both modes through one door: real items, filters, and the run's own Recommender."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.cli import main
from gream.data.store import Catalogue, Interactions
from gream.decoding.readable import item_titles, readable_chain
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.recommender import RUN_FILE, Recommender
from gream.decoding.run_file import SERVED
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.evaluation.evaluate import EvaluateConfig
from gream.evaluation.settings import reasoning_search
from gream.language.prompting import Prompter
from gream.pipeline import Step, _write_run_file
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

HISTORIES = [[3, 1], [7], [2, 9, 4, 20, 11, 5]]


@pytest.fixture
def engine(model_and_tokenizer: tuple[Any, Any], prompter: Prompter, names: Names) -> Engine:
    model, tokenizer = model_and_tokenizer
    return Engine(TorchBackend(model, tokenizer.pad_token_id), prompter, TrieConstraint(names), names)


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_every_recommendation_is_an_item_and_none_comes_twice(engine: Engine, mode: str) -> None:
    """The model is untrained, so its chains never end by themselves: the answer is real all the same."""
    search = Search(k=6, mode=mode, num_beams=6, num_chains=2, max_chain_tokens=7)
    for answer in recommend_many(engine, HISTORIES, search):
        assert len(answer.items) == 6 == len(set(answer.items.tolist()))
        assert (answer.items >= 0).all() and (answer.items < 24).all()
        assert (np.diff(answer.logps) <= 0).all()


def test_a_batch_gives_what_its_users_give_alone(engine: Engine) -> None:
    search = Search(k=5, num_beams=24)
    together = recommend_many(engine, HISTORIES, search)
    alone = [recommend_many(engine, [history], search)[0] for history in HISTORIES]
    for one, two in zip(together, alone, strict=True):
        assert one.items.tolist() == two.items.tolist()
        np.testing.assert_allclose(one.logps, two.logps, atol=1e-5)  # other padding, other summation order


def test_same_seed_writes_the_same_chains(engine: Engine) -> None:
    search = Search(k=3, mode="reasoning", num_chains=2, max_chain_tokens=5, temperature=1.0)
    first, again = (recommend_many(engine, HISTORIES, search) for _ in range(2))
    assert [a.chains for a in first] == [a.chains for a in again]
    assert len({text for a in first for text in a.chains}) > 1


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_only_allowed_items_are_recommended(engine: Engine, mode: str) -> None:
    allowed = torch.zeros(3, 24, dtype=torch.bool)
    for user, items in enumerate([[1, 2, 3], [5, 6], [0, 23, 11, 12]]):
        allowed[user, items] = True
    search = Search(k=4, mode=mode, num_chains=2, max_chain_tokens=4)
    answers = recommend_many(engine, HISTORIES, search, allowed=lambda part: allowed[part])
    assert [set(a.items.tolist()) for a in answers] == [{1, 2, 3}, {5, 6}, {0, 23, 11, 12}]


def test_guided_search_without_a_scorer_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="needs a scorer"):
        recommend_many(engine, HISTORIES, Search(expand_width=40))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"mode": "fast"}, "mode is 'fast'"), ({"k": 0}, "k is 0"), ({"expand_width": 3}, "expand_width is 3")],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(**settings)


def test_names_in_a_chain_are_shown_as_titles(names: Names, catalogue: Catalogue) -> None:
    text = (
        f"Evidence: ink {names.spell(4)}\nPreference: office\nIntent: more ink\nRecommendation: ink\n"
        f"History: {names.spell(4)}{names.spell(1)}<a_0><b_0><c_99>"
    )
    chain = readable_chain(text, item_titles(names, catalogue))
    assert chain.evidence == f"ink {catalogue.titles[4]}"
    assert chain.rewritten_history == f"{catalogue.titles[4]}, {catalogue.titles[1]}, <a_0><b_0><c_99>"


def test_a_run_is_served_with_the_settings_of_its_last_evaluation(run_folder: Path) -> None:
    """Every one of them differs from the default of `Search`."""
    config = EvaluateConfig(
        run_dir=str(run_folder), model="srpo", num_beams=7, rule="sum", scorer_weight=0.25,
        scorer_levels=[0, 2], prune_threshold=0.5, prune_level=0, num_chains=5, max_chain_tokens=9,
        temperature=0.4, choose="merge", agree=2, max_history=3,
    )  # fmt: skip
    _write_run_file(run_folder, [Step(Path("11-evaluate.yaml"), "evaluate", config)])
    recommender = Recommender.load(run_folder)
    expected = reasoning_search(config)
    assert {name: getattr(recommender.search, name) for name in SERVED} == {
        name: getattr(expected, name) for name in SERVED
    }
    assert recommender.search.scorer_levels == (0, 2) and recommender.search.agree == 2
    assert recommender.engine.prompter.max_history == 3


def test_a_run_file_of_an_older_gream_is_told(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of a run that was made before pruning and the choice among chains had settings."""
    settings = json.loads((run_folder / RUN_FILE).read_text())
    for name in ("prune_level", "choose", "agree"):
        del settings[name]
    (run_folder / RUN_FILE).write_text(json.dumps(settings))
    assert main(["recommend", str(run_folder), "--user", "user-1"]) == 2
    error = capsys.readouterr().err
    assert "lacks prune_level, choose, agree; run `gream run RECIPE` again" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prune_threshold": 1.5}, "threshold of pruning is 1.5; give a consistency between 0 and 1"),
        ({"prune_threshold": 0.5, "prune_level": 2}, "level of pruning is 2, but paths of 3 codes"),
        ({"scorer_levels": [0, 3]}, "to keep at level 3, but names of 3 codes have the levels 0 to 2"),
    ],
)
def test_a_search_that_does_not_fit_the_names_is_told_when_a_run_is_loaded(
    run_folder: Path, change: dict[str, Any], told: str
) -> None:
    """And not by the first request that a service gets; before a model is loaded, which takes minutes."""
    settings = json.loads((run_folder / RUN_FILE).read_text())
    (run_folder / RUN_FILE).write_text(json.dumps(settings | change | {"model": "none", "scorer": "prm"}))
    with pytest.raises(InputError, match=rf"run\.json: .*{told}"):
        Recommender.load(run_folder)


def test_levels_of_a_scorer_do_not_matter_without_one(run_folder: Path) -> None:
    settings = json.loads((run_folder / RUN_FILE).read_text())
    (run_folder / RUN_FILE).write_text(json.dumps(settings | {"scorer_levels": [0, 3], "scorer": ""}))
    assert Recommender.load(run_folder).recommend(["item-3"], k=2)


def test_fewer_chains_and_no_scorer_are_served_whatever_the_run_chose(run_folder: Path) -> None:
    """The run stops when 3 chains agree and takes the best by the scorer; asked are 2 chains without it."""
    recommender = Recommender.load(run_folder)
    assert (recommender.search.choose, recommender.search.agree) == ("best", 3)
    found = recommender.recommend(["item-3"], k=2, mode="reasoning", num_chains=2)
    assert len(found) == 2 and all(r.chain is not None for r in found)


def test_recommender_leaves_out_what_was_bought(run_folder: Path, catalogue: Catalogue) -> None:
    recommender = Recommender.load(run_folder)
    history = ["item-3", "item-1"]
    found = recommender.recommend(history, k=22)
    assert {r.item_id for r in found} == set(catalogue.item_ids) - set(history)
    assert [r.rank for r in found] == list(range(1, 23))
    assert found[0].title == catalogue.titles[catalogue.item_ids.index(found[0].item_id)]


def test_recommender_knows_its_users(run_folder: Path, interactions: Interactions) -> None:
    recommender = Recommender.load(run_folder)
    assert recommender.history_of("user-2") == [f"item-{i}" for i in interactions.sequences[2]]
    with pytest.raises(InputError, match="User 'nobody' is unknown"):
        recommender.history_of("nobody")


def test_unknown_item_in_a_history_is_one_sentence(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(run_folder), "--history", "item-3,item-99"]) == 2
    error = capsys.readouterr().err
    assert "item-99" in error and error.count("\n") == 1


def test_command_line_prints_history_reasoning_and_list(
    run_folder: Path, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", str(run_folder), "--user", "user-1", "--mode", "reasoning", "--k", "3"]) == 0
    text = capsys.readouterr().out
    assert "History, oldest first\n" in text and "\nReasoning\n" in text
    assert [line.split()[0] for line in text.splitlines()[-3:]] == ["1", "2", "3"]
