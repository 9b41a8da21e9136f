"""Reasoning mode with scripted chains: rounds, budget, merge, choice by the scorer; then with a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.answer import Answer
from gream.decoding.beam import BeamResult
from gream.decoding.chains import Chain, best_chain, chain_seed, merge_chains, reason
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.prompting import ANSWER_START, THINK_END, Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

HISTORIES = [[3, 1], [7], [2, 9, 4]]


def result(items: list[int], logps: list[float], scores: list[float] | None = None) -> BeamResult:
    judged = None if scores is None else np.asarray(scores, dtype=np.float32)
    return BeamResult(np.asarray(items), np.asarray(logps, dtype=np.float32), judged, (), ())


def chain(items: list[int], logps: list[float], scores: list[float] | None = None) -> Chain:
    return Chain("thought", 7, result(items, logps, scores))


def log(*probabilities: float) -> list[float]:
    return np.log(probabilities).tolist()


def test_chains_are_merged_by_the_mean_probability_of_each_item() -> None:
    """Chain 1 gives items 5 and 2 .6 and .2, chain 2 gives 2 and 9 .7 and .1: means .3, .45, .05."""
    answer = merge_chains([chain([5, 2], log(0.6, 0.2)), chain([2, 9], log(0.7, 0.1))], Search(k=3))
    assert answer.items.tolist() == [2, 5, 9]
    np.testing.assert_allclose(np.exp(answer.logps), [0.45, 0.3, 0.05], rtol=1e-6)
    assert answer.chain_of == [1, 0, 1]
    assert answer.chain_tops == [5, 2]
    assert [items.tolist() for items in answer.chain_lists] == [[5, 2], [2, 9]]
    np.testing.assert_allclose(np.exp(answer.chain_logps), [[0.6, 0.2], [0.7, 0.1]], rtol=1e-6)
    assert answer.chain_tokens == [7, 7] and answer.tokens == 14


def test_the_mean_is_over_the_chains_that_were_written() -> None:
    """Two chains of four that were allowed: item 1 has (.6 + .4) / 2 = .5, item 2 (0 + .2) / 2 = .1."""
    chains = [chain([1], log(0.6)), chain([1, 2], log(0.4, 0.2))]
    answer = merge_chains(chains, Search(k=2, num_chains=4, agree=2))
    assert answer.items.tolist() == [1, 2]
    np.testing.assert_allclose(np.exp(answer.logps), [0.5, 0.1], rtol=1e-6)


def test_equal_items_of_a_merge_are_ordered_by_id() -> None:
    answer = merge_chains([chain([8], [-1.0]), chain([3], [-1.0])], Search(k=2))
    assert answer.items.tolist() == [3, 8]


def test_of_chains_that_give_an_item_the_same_probability_the_first_found_it() -> None:
    answer = merge_chains([chain([8], [-2.0]), chain([3], [-1.0]), chain([3], [-1.0])], Search(k=2))
    assert answer.chain_of == [1, 0]


def test_one_chain_merges_to_itself() -> None:
    answer = merge_chains([chain([4, 1], [-0.5, -2.0])], Search(k=2))
    np.testing.assert_allclose(answer.logps, [-0.5, -2.0])


@pytest.mark.parametrize(
    ("rule", "order"),
    [("scorer", [3, 2, 1]), ("sum", [2, 1, 3]), ("scorer_then_policy", [1, 2, 3])],
)
def test_a_merged_list_is_ordered_by_the_rule_of_the_search(rule: str, order: list[int]) -> None:
    """Means .3, .25, .15; with half the score added to their logarithms: -1.95, -1.84, -2.3."""
    chains = [
        chain([1, 2], log(0.6, 0.2), [-1.5, -0.9]),
        chain([2, 3], log(0.3, 0.3), [-0.9, -0.8]),
    ]
    answer = merge_chains(chains, Search(k=3, rule=rule, scorer_weight=0.5))
    assert answer.items.tolist() == order
    assert answer.scores is not None
    judged = {1: -1.5, 2: -0.9, 3: -0.8}
    np.testing.assert_allclose(answer.scores, [judged[item] for item in order], rtol=1e-6)


def test_the_best_chain_is_the_one_whose_first_item_the_scorer_likes_best() -> None:
    """The second and the third are equal; a better score further down the first list does not count."""
    chains = [
        chain([1, 2], [-0.1, -0.2], [1.0, 9.0]),
        chain([3, 4, 5], [-3.0, -4.0, -5.0], [2.0, 1.5, 0.5]),
        chain([3, 6], [-1.0, -2.0], [2.0, 0.0]),
    ]
    answer = best_chain(chains, Search(k=2, num_chains=3, choose="best"))
    assert answer.items.tolist() == [3, 4]
    assert answer.logps.tolist() == [-3.0, -4.0]
    assert answer.scores is not None and answer.scores.tolist() == [2.0, 1.5]
    assert answer.chain_of == [1, 1]
    assert answer.chain_tops == [1, 3, 3]
    assert [items.tolist() for items in answer.chain_lists] == [[1, 2], [3, 4, 5], [3, 6]]  # uncut
    assert len(answer.chains) == 3 and answer.tokens == 21


class Script:
    """An engine whose text for a seed is that seed's token, and a search with a list for each seed."""

    def __init__(self, prompter: Prompter, tops: list[list[int]]) -> None:
        self.prompter = prompter
        self.tops = tops  # for each user the first item after each of its chains
        self.numbers = {
            chain_seed(5, 10 + user, number): (user, number)
            for user in range(len(tops))
            for number in range(len(tops[user]))
        }
        self.written: list[list[list[tuple[int, int]]]] = []  # rounds of users of chains
        self.searched: list[list[int]] = []

    def complete(
        self, prompts: list[list[int]], *, seeds: Sequence[Sequence[int]], stop: int, **_: Any
    ) -> list[list[list[int]]]:
        self.written.append([[self.numbers[seed] for seed in of_user] for of_user in seeds])
        # user 1 never ends a chain by itself
        return [
            [[20 + number, 30] + [stop] * (user != 1) for user, number in of_user]
            for of_user in self.written[-1]
        ]

    def find(self, prompts: list[list[int]], users: list[int]) -> list[BeamResult]:
        self.searched += prompts
        asked = [pair for of_user in self.written[-1] for pair in of_user]
        assert users == [user for user, _ in asked]
        return [result([self.tops[user][number], 23], [-1.0, -2.0]) for user, number in asked]

    def reason(self, search: Search) -> list[Answer]:
        return reason(self, self.prompter, HISTORIES, search, self.find, users=[10, 11, 12])  # type: ignore[arg-type]


def searching(**settings: Any) -> Search:
    return Search(k=1, mode="reasoning", num_chains=4, seed=5, **settings)


def test_users_whose_first_chains_agree_get_no_more(prompter: Prompter) -> None:
    script = Script(prompter, [[3, 3, 8, 8], [3, 4, 4, 4], [6, 5, 5, 6]])
    answers = script.reason(searching(agree=2))
    assert script.written == [
        [[(user, 0), (user, 1)] for user in range(3)],
        [[(user, 2), (user, 3)] for user in (1, 2)],
    ]
    assert [answer.chain_tops for answer in answers] == [[3, 3], [3, 4, 4, 4], [6, 5, 5, 6]]
    # 3 tokens of a chain (2 of one that was cut) and the 3 codes of a name
    assert [answer.tokens for answer in answers] == [2 * 6, 4 * 5, 4 * 6]


@pytest.mark.parametrize("agree", [0, 4])
def test_without_early_stop_all_chains_come_in_one_round(prompter: Prompter, agree: int) -> None:
    script = Script(prompter, [[3] * 4, [3] * 4, [6] * 4])
    script.reason(searching(agree=agree))
    assert [[len(of_user) for of_user in users] for users in script.written] == [[4, 4, 4]]


def test_no_second_round_when_everybody_agrees(prompter: Prompter) -> None:
    script = Script(prompter, [[3] * 4, [3] * 4, [6] * 4])
    script.reason(searching(agree=3))
    assert [[len(of_user) for of_user in users] for users in script.written] == [[3, 3, 3]]


def test_agreement_is_that_of_all_first_chains(prompter: Prompter) -> None:
    script = Script(prompter, [[4, 3, 3, 8], [3, 3, 4, 8], [6] * 4])
    script.reason(searching(agree=3))
    assert script.written[1:] == [[[(0, 3)], [(1, 3)]]]


def test_a_chain_without_an_end_is_closed_by_force(prompter: Prompter) -> None:
    script = Script(prompter, [[3], [4], [5]])
    answers = script.reason(Search(k=1, mode="reasoning", num_chains=1, seed=5))
    assert not any(ANSWER_START in answer.chains[0] for answer in answers)  # what is shown is the thought
    ended = [20, 30, prompter.answer_start]
    forced = [20, 30, *prompter.encode(f"\n{THINK_END}\n{ANSWER_START}")]
    endings = [ended, forced, ended]
    assert script.searched == [
        prompter.reasoning(history) + ending for history, ending in zip(HISTORIES, endings, strict=True)
    ]


@pytest.mark.parametrize("settings", [{}, {"expand_width": 30, "scorer_levels": (0, 1)}])
def test_the_best_chain_without_a_scorer_at_the_last_level_is_refused(
    prompter: Prompter, settings: dict[str, Any]
) -> None:
    script = Script(prompter, [[3] * 4] * 3)
    with pytest.raises(InputError, match="choose is 'best', but no scorer judges the last level"):
        script.reason(searching(choose="best", **settings))
    assert not script.written


@pytest.fixture
def engine(model_and_tokenizer: tuple[Any, Any], prompter: Prompter, names: Names) -> Engine:
    model, tokenizer = model_and_tokenizer
    for weight in model.model.layers.parameters():  # strong layers, so that a chain changes the list after it
        weight.data.mul_(12 if weight.dim() == 2 else 1)
    constraint = TrieConstraint(names)
    torch.manual_seed(2)
    scorer = PrefixPathScorer(constraint, ScorerShape(hidden_size=8)).eval().requires_grad_(False)
    torch.nn.init.normal_(scorer.rows.weight)
    return Engine(TorchBackend(model, tokenizer.pad_token_id), prompter, constraint, names, scorer)


def test_a_users_chains_do_not_depend_on_the_batches_of_the_run(engine: Engine) -> None:
    search = Search(k=4, mode="reasoning", num_chains=2, max_chain_tokens=9, temperature=1.0)
    together = recommend_many(engine, HISTORIES, search)
    one_by_one = recommend_many(engine, HISTORIES, search, batch_size=2)
    assert [a.chains for a in together] == [a.chains for a in one_by_one]
    assert len({text for a in together for text in a.chains}) == 6


def test_early_stop_leaves_chains_out_and_changes_none(engine: Engine) -> None:
    search = Search(k=4, mode="reasoning", num_chains=4, max_chain_tokens=9, temperature=1.0)
    histories = [[item] for item in range(12)]
    every = recommend_many(engine, histories, search)
    some = recommend_many(engine, histories, Search(**(vars(search) | {"agree": 2})))
    assert {len(answer.chains) for answer in some} == {2, 4}
    for answer, whole in zip(some, every, strict=True):
        assert len(answer.chains) == (2 if len(set(whole.chain_tops[:2])) == 1 else 4)
        assert answer.chains == whole.chains[: len(answer.chains)]
        assert answer.chain_tops == whole.chain_tops[: len(answer.chains)]


def test_the_best_chain_of_a_model_is_chosen_by_the_scorer_over_the_history(engine: Engine) -> None:
    search = Search(
        k=3, mode="reasoning", num_chains=3, num_beams=5, expand_width=5, rule="scorer_then_policy",
        max_chain_tokens=9, temperature=1.5, choose="best",
    )  # fmt: skip
    assert isinstance(engine.scorer, PrefixPathScorer)
    answers = recommend_many(engine, HISTORIES, search)
    context = engine.scorer.context(HISTORIES, None)  # type: ignore[arg-type]
    nodes = engine.scorer.item_nodes[torch.tensor([a.chain_tops for a in answers])][..., -1]
    judged = engine.scorer.score(context, 2, nodes)  # (users, chains)
    for answer, scores in zip(answers, judged, strict=True):
        chosen = int(scores.argmax())
        assert answer.chain_of == [chosen] * 3
        assert answer.items[0] == answer.chain_tops[chosen]
        assert answer.scores is not None
        np.testing.assert_allclose(answer.scores[0], scores[chosen], rtol=1e-5)
    assert any(answer.chain_of[0] for answer in answers)  # not always the first
