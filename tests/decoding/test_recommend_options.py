"""Every option of a recommendation arrives where it acts, from the command line to the search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gream.arguments import load_config
from gream.cli import main
from gream.data.store import Catalogue, Interactions
from gream.decoding import recommend, recommender
from gream.decoding.answer import Answer
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.recommend_command import RecommendConfig, filters_of
from gream.decoding.recommender import Recommender
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.shown_list import ShownList, format_table
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

HISTORIES = [[3, 1], [7], [2, 9, 4]]


@pytest.fixture
def engine(model_and_tokenizer: tuple[Any, Any], prompter: Prompter, names: Names) -> Engine:
    """An engine with a scorer, and two categories of items."""
    model, tokenizer = model_and_tokenizer
    constraint = TrieConstraint(names)
    scorer = PrefixPathScorer(constraint, ScorerShape(hidden_size=8)).eval().requires_grad_(False)
    backend = TorchBackend(model, tokenizer.pad_token_id)
    return Engine(backend, prompter, constraint, names, scorer, np.arange(24) % 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of every search from now on."""
    options: list[dict[str, Any]] = []
    search = recommend.beam_search

    def recorded(*args: Any, **given: Any) -> Any:
        options.append(given)
        return search(*args, **given)

    monkeypatch.setattr(recommend, "beam_search", recorded)
    return options


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_every_setting_reaches_the_search(engine: Engine, asked: list[dict[str, Any]], mode: str) -> None:
    search = Search(
        k=3, mode=mode, num_beams=7, expand_width=9, rule="sum", scorer_weight=0.25, scorer_levels=(0, 2),
        prune_threshold=0.75, prune_level=0, max_chain_tokens=4,
    )  # fmt: skip
    recommend_many(engine, HISTORIES, search)
    [given] = asked
    guide, pruner = given["guide"], given["pruner"]
    assert given["num_beams"] == 7
    assert guide.scorer is engine.scorer
    assert (guide.expand_width, guide.rule, guide.weight, guide.levels) == (9, "sum", 0.25, (0, 2))
    assert (pruner.threshold, pruner.level, pruner.list_length) == (0.75, 0, 3)


def test_a_list_longer_than_the_beams_widens_them_and_the_scorers_choice(
    engine: Engine, asked: list[dict[str, Any]]
) -> None:
    answers = recommend_many(engine, HISTORIES, Search(k=12, num_beams=5, expand_width=6))
    assert asked[0]["num_beams"] == asked[0]["guide"].expand_width == 12
    assert [len(answer.items) for answer in answers] == [12, 12, 12]


def test_a_list_shorter_than_the_beams_is_cut(engine: Engine) -> None:
    for answer in recommend_many(engine, HISTORIES, Search(k=2, num_beams=5, expand_width=6)):
        assert answer.scores is not None
        assert len(answer.items) == len(answer.logps) == len(answer.scores) == 2


def test_the_settings_of_chains_reach_the_writer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    write = TorchBackend.complete

    def recorded(self: TorchBackend, prompts: Any, **options: Any) -> Any:
        given.append(options)
        return write(self, prompts, **options)

    monkeypatch.setattr(TorchBackend, "complete", recorded)
    search = Search(k=1, mode="reasoning", num_chains=3, max_chain_tokens=4, temperature=0.25, seed=8)
    recommend_many(engine, HISTORIES, search)
    recommend_many(engine, HISTORIES, replace(search, seed=9))
    first, second = given
    assert (first["temperature"], first["max_tokens"]) == (0.25, 4)
    assert first["stop"] == engine.prompter.answer_start
    seeds = [seed for options in given for of_user in options["seeds"] for seed in of_user]
    assert [len(of_user) for of_user in first["seeds"]] == [3, 3, 3]
    assert len(set(seeds)) == 2 * 9  # another for every run, user and chain


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_users_keep_their_own_filter_in_every_batch(engine: Engine, mode: str) -> None:
    wanted = [[1, 2, 3], [5, 6, 7], [0, 23, 11]]
    allowed = torch.zeros(3, 24, dtype=torch.bool)
    for user, items in enumerate(wanted):
        allowed[user, items] = True
    search = Search(k=3, mode=mode, num_chains=2, max_chain_tokens=3)
    answers = recommend_many(engine, HISTORIES, search, allowed=lambda part: allowed[part], batch_size=2)
    assert [sorted(answer.items.tolist()) for answer in answers] == [sorted(items) for items in wanted]


def test_a_batch_holds_the_chains_of_its_users(engine: Engine, asked: list[dict[str, Any]]) -> None:
    """Four prompts at a time: 2 users with 2 chains each, then the third."""
    sizes: list[int] = []
    start = engine.backend.start
    engine.backend.start = lambda prompts, **options: sizes.append(len(prompts)) or start(prompts, **options)  # type: ignore[method-assign, func-returns-value]
    search = Search(k=1, mode="reasoning", num_chains=2, max_chain_tokens=3)
    recommend_many(engine, HISTORIES, search, batch_size=4)
    assert sizes == [4, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "product"}, "rule is 'product'; give one of scorer, sum, scorer_then_policy"),
        ({"choose": "longest"}, "choose is 'longest'; give one of merge, best"),
        ({"agree": 5, "num_chains": 4}, "agree is 5, but of 4 chains; give 0 to 4"),
        ({"agree": -1}, "agree is -1"),
        ({"num_chains": 0}, "num_chains is 0; give at least 1"),
        ({"expand_width": 19}, "expand_width is 19, but the scorer must keep num_beams = 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Search(**settings)


def test_pruning_without_categories_is_refused(engine: Engine) -> None:
    with pytest.raises(InputError, match="prune_threshold needs the items' categories"):
        recommend_many(replace(engine, categories=None), HISTORIES, Search(prune_threshold=0.5))


@pytest.fixture
def shop(
    engine: Engine, catalogue: Catalogue, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[Search, list[int], str]]:
    """Makes `Recommender.load` give the toy shop; holds search, seen items and engine of every request."""
    requests: list[tuple[Search, list[int], str]] = []
    engines: list[str] = []

    def load(run: str, engine_name: str = "torch", **options: str) -> Recommender:
        engines.append(options.get("engine", engine_name))
        return Recommender(engine, catalogue, interactions, Search(num_beams=8))

    def answered(_: Engine, histories: Any, search: Search, *, allowed: Any, **_given: Any) -> list[Answer]:
        assert len(histories) == 1
        [mask] = allowed(slice(0, 1)).tolist()
        requests.append((search, [item for item in range(24) if not mask[item]], engines[-1]))
        rest = "Preference: p\nIntent: i\nRecommendation: r\nHistory: h"
        chains = [f"Evidence: ink\n{rest}", f"Evidence: tents\n{rest}"]
        return [Answer(np.array([4, 9]), np.array([-1.0, -2.0]), np.array([0.25, 0.5]), chains, [1, 0])]

    monkeypatch.setattr(Recommender, "load", load)
    monkeypatch.setattr(recommender, "recommend_many", answered)
    return requests


def test_every_option_of_the_command_line_reaches_the_search(
    shop: list[tuple[Search, list[int], str]],
) -> None:
    options = "--k 5 --mode reasoning --engine vllm --num_chains 3 --expand_width 16 --seed 6"
    command = ["recommend", "run", "--history", "item-3, item-1", *options.split()]
    assert main([*command, "--exclude_seen", "false"]) == main(command) == 0
    (search, seen, engine), (_, seen_by_default, _) = shop
    assert (search.k, search.mode, search.num_chains, search.expand_width) == (5, "reasoning", 3, 16)
    assert (search.seed, search.num_beams, engine) == (6, 8, "vllm")
    assert (seen, seen_by_default) == ([], [1, 3])


def test_without_an_expand_width_no_scorer_is_asked(shop: list[tuple[Search, list[int], str]]) -> None:
    assert main(["recommend", "run", "--history", "item-3"]) == 0
    assert shop[0][0].expand_width is None and shop[0][2] == "torch"


def test_a_scorer_that_must_keep_more_than_it_sees_is_one_sentence(
    shop: list[tuple[Search, list[int], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "run", "--history", "item-3", "--expand_width", "3"]) == 2
    error = capsys.readouterr().err
    assert "expand_width is 3, but the scorer must keep num_beams = 10" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("", "Give either --history ID,ID or --user ID for one list, or"),
        ("--history item-3 --user user-1", "Give either --history"),
        ("--history item-3 --all_users", "Give either --history"),
        ("--histories h.jsonl", "`--histories` needs a folder to write into"),
        ("--all_users", "`--all_users` needs a folder to write into"),
        ("--all_users --output lists --json", "`--json` prints one list"),
        ("--history item-3 --output lists", "`--output` is for lists of many"),
        ("--all_users --output lists --chains", "`--chains` needs `--mode reasoning`"),
        ("--history item-3 --chains --mode reasoning", "`--chains` is a column of the files"),
        ("--all_users --output lists --unknown_items leave", "Input should be 'error', 'drop' or 'skip'"),
        ("--history item-3 --k 0", "k is 0; give at least 1"),
        ("--history item-3 --categories tools", "No item has the category 'tools'"),
        ('--history item-3 --deny "item-3', "has broken quotes"),
        ("--history item-3 --min_price 9 --max_price 3", "give the lower one first"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(
    shop: list[tuple[Search, list[int], str]], options: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", "run", *options.split()]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not shop


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--categories", "tents,Lamps"], [*range(12, 16), *range(20, 24)]),
        (["--brands", "volta"], range(0, 24, 3)),
        (["--min_price", "5", "--max_price", "7.5"], [4, 5, 6]),
        (["--allow", 'item-7, "item-9",item-11'], [7, 9, 11]),
        (["--deny", "item-7,item-9", "--categories", "paper"], [8, 10, 11]),
    ],
)
def test_filters_reach_the_search(
    shop: list[tuple[Search, list[int], str]], options: list[str], left: Sequence[int]
) -> None:
    assert main(["recommend", "run", "--history", "item-3", "--exclude_seen", "false", *options]) == 0
    [(_, refused, _)] = shop
    assert set(range(24)) - set(refused) == set(left)


def test_a_value_with_a_comma_stands_in_quotes() -> None:
    config = load_config(RecommendConfig, None, {"categories": '"Toys, Games", Office ,'})
    assert filters_of(config).categories == ["Toys, Games", "Office"]


def test_every_item_comes_with_its_score_and_the_chain_that_found_it(
    shop: list[tuple[Search, list[int], str]], catalogue: Catalogue
) -> None:
    found = Recommender.load("run").recommend(["item-3"], k=2, mode="reasoning")
    assert [(r.rank, r.item_id, r.title) for r in found] == [
        (1, "item-4", catalogue.titles[4]),
        (2, "item-9", catalogue.titles[9]),
    ]
    assert [(r.logp, r.score) for r in found] == [(-1.0, 0.25), (-2.0, 0.5)]
    assert [r.chain and r.chain.evidence for r in found] == ["tents", "ink"]
    text = format_table(ShownList("reasoning", [("item-3", catalogue.titles[3])], found, 0.1))
    assert "Reasoning\n  evidence           tents\n" in text  # that of the first item
    assert "item-9          14 %  -2.00   0.50" in text
