"""The rewards of a recipe as TRL's functions: what each pays, what is logged, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from gream.decoding.path_scorer import PrefixPathScorer
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.training import reward_terms
from gream.training.process_reward import process_scores
from gream.training.reward_terms import PROCESS, TERMS, RewardTerms, batch_metrics, check_recipe
from tests.training.graded import ITEM, OTHER, Batch, answer, steps_of


def test_columns_come_in_the_order_of_the_recipe_and_the_exact_hit_last(
    prompter: Prompter, trie: TrieConstraint
) -> None:
    recipe = {"exact_hit": 2.0, "validity": 0.5, "residual_sensitive": 1.0}
    terms = RewardTerms(recipe, prompter, trie, num_generations=4)
    assert [f.__name__ for f in terms.functions] == ["validity", "residual_sensitive", "exact_hit"]
    assert terms.weights == [0.5, 1.0, 2.0]
    unweighed = RewardTerms({"validity": 1}, prompter, trie, num_generations=4)
    assert [f.__name__ for f in unweighed.functions] == ["validity", "exact_hit"]
    assert (unweighed.weights, unweighed.process_weight) == ([1.0, 0.0], 0.0)


def test_every_term_pays_what_its_function_says(
    prompter: Prompter, names: Names, trie: TrieConstraint, categories: np.ndarray
) -> None:
    """A near miss: the first code of ITEM is right, the second is not."""
    same = names.codes == names.codes[ITEM]
    near = int(np.flatnonzero(same[:, 0] & ~same[:, 1])[0])
    steps = [steps_of(item, names, categories) for item in (ITEM, near)]
    terms = RewardTerms(dict.fromkeys(TERMS, 1.0), prompter, trie, num_generations=2, categories=categories)
    graded = Batch([answer(prompter, ITEM), answer(prompter, near)], names).graded(terms)
    target = categories[ITEM]
    assert graded == {
        "residual_sensitive": pytest.approx([1.0, math.sqrt(1 / 3)]),
        "rank_discounted_hit": pytest.approx([1.0, 0.184535], abs=1e-6),  # once each: both rank first
        "format": [1.0, 1.0],
        "validity": [1.0, 1.0],
        "step_hit": [3.0, 1.0],
        "global_path": [1.0, 0.0],
        "category_hit": [float(sum(g == target for g in row)) for row in steps],
        "step_consistency": [float(sum(a == b for a, b in zip(s, s[1:], strict=False))) for s in steps],
        "exact_hit": [1.0, 0.0],
    }  # fmt: skip


def test_the_window_reaches_the_augmented_terms_only(
    prompter: Prompter, names: Names, trie: TrieConstraint, categories: np.ndarray
) -> None:
    """The answer is the second of three purchases: it earns 2/7 of a hit, where nothing else is right."""
    different = names.codes[:, 0] != names.codes[ITEM, 0]
    second = int(np.flatnonzero(different & (categories != categories[ITEM]))[0])
    futures = [[ITEM, second, ITEM]]
    recipe = dict.fromkeys(TERMS, 1.0)
    plain, augmented = (
        RewardTerms(recipe, prompter, trie, num_generations=1, future_window=size, categories=categories)
        for size in (1, 3)
    )
    batch = Batch([answer(prompter, second)], names)
    batch.columns["future"] = futures
    alone, over_window = batch.graded(plain), batch.graded(augmented)
    assert over_window["residual_sensitive"] == pytest.approx([2 / 7])
    assert over_window["step_hit"] == pytest.approx([3 * 2 / 7])
    assert over_window["global_path"] == pytest.approx([2 / 7])
    assert alone["residual_sensitive"] == alone["step_hit"] == alone["global_path"] == [0.0]
    of_second = steps_of(second, names, categories)
    expected = [5 / 7 * of_second.count(categories[ITEM]) + 2 / 7 * of_second.count(categories[second])]
    assert over_window["category_hit"] == pytest.approx(expected)
    for term in ("step_consistency", "exact_hit", "rank_discounted_hit", "format", "validity"):
        assert over_window[term] == alone[term]


def test_beams_are_ranked_by_their_place(prompter: Prompter, names: Names, trie: TrieConstraint) -> None:
    beams = [answer(prompter, item) for item in (1, 2, ITEM, 3)]
    recipe = {"rank_discounted_hit": 1.0}
    sampled = RewardTerms(recipe, prompter, trie, num_generations=4)
    searched = RewardTerms(recipe, prompter, trie, num_generations=4, best_first=True)
    at = {rank: (1 - 1 / math.log2(rank + 2)) / 2 for rank in (1, 2, 4)}
    found = Batch(beams, names).graded(searched)["rank_discounted_hit"]
    assert found == pytest.approx([at[1], at[2], 1.0, at[4]])
    found = Batch(beams, names).graded(sampled)["rank_discounted_hit"]
    assert found == pytest.approx([at[1], at[1], 1.0, at[1]])


def test_groups_that_are_torn_between_devices_are_refused(
    prompter: Prompter, names: Names, trie: TrieConstraint
) -> None:
    terms = RewardTerms({"rank_discounted_hit": 1.0}, prompter, trie, num_generations=4)
    with pytest.raises(InputError, match="6 completions, which are no whole groups of 4"):
        Batch([answer(prompter, ITEM)] * 6, names).graded(terms)


def test_completions_of_a_batch_are_read_once(
    prompter: Prompter, names: Names, trie: TrieConstraint, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(completions: list[list[int]], *rest: Any) -> Any:
        read.append(completions)
        return read_completions(completions, *rest)

    read_completions = reward_terms.read_completions
    monkeypatch.setattr(reward_terms, "read_completions", counted)
    recipe = {"residual_sensitive": 1.0, "format": 1.0, "step_hit": 1.0, "rank_discounted_hit": 1.0}
    terms = RewardTerms(recipe, prompter, trie, num_generations=2)
    first, second = (Batch([answer(prompter, i), answer(prompter, OTHER)], names) for i in (ITEM, 3))
    assert first.graded(terms)["exact_hit"] == [1.0, 0.0]
    assert second.graded(terms)["exact_hit"] == [0.0, 0.0]
    assert len(read) == 2
    # The same tokens that answer another kind of prompt are another batch.
    columns = {**second.columns, "mode": ["reasoning"] * 2}
    assert terms.functions[-1](**columns) == [0.0, 0.0]
    assert len(read) == 3


def test_what_is_logged_of_a_batch(prompter: Prompter, names: Names, trie: TrieConstraint) -> None:
    completions = [answer(prompter, ITEM), answer(prompter, OTHER), [prompter.end_of_turn]]
    batch = Batch(completions, names)
    batch.columns["mode"] = ["direct", "direct", "reasoning"]
    terms = RewardTerms({"validity": 2.0, "exact_hit": 0.5}, prompter, trie, num_generations=3)
    graded = batch.graded(terms)
    assert graded == {"validity": [1.0, 1.0, 0.0], "exact_hit": [1.0, 0.0, 0.0]}
    same = names.codes[ITEM, 0] == names.codes[OTHER, 0]
    assert batch.logged == pytest.approx({
        "well_formed": 2 / 3,
        "valid": 2 / 3,
        "invalid": 1 / 3,
        "entropy_first_code": 0.0 if same else math.log(2),
        "distinct_items": 1.0,
        "reward_direct": (2 * 2.0 + 0.5) / 2,
        "reward_reasoning": 0.0,
    })  # fmt: skip


def test_entropy_and_distinct_items_are_of_valid_answers() -> None:
    # First codes 1, 1, 1, 2 in valid rows: entropy of (3/4, 1/4); three distinct items of four.
    path = torch.tensor([[1, 0], [1, 0], [1, 3], [2, 0], [0, 0], [-1, -1]])
    valid = torch.tensor([True, True, True, True, False, False])
    found = batch_metrics(reward_terms.Answers(path, path[:, 0] >= 0, valid))
    assert found == pytest.approx({
        "well_formed": 5 / 6,
        "valid": 4 / 6,
        "invalid": 2 / 6,
        "entropy_first_code": -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)),
        "distinct_items": 0.75,
    })  # fmt: skip


def test_what_is_undefined_without_a_valid_answer_is_not_logged() -> None:
    nothing = torch.zeros(2).bool()
    found = batch_metrics(reward_terms.Answers(torch.full((2, 3), -1), nothing, nothing))
    assert found == {"well_formed": 0.0, "valid": 0.0, "invalid": 1.0}


def test_process_scores_are_kept_for_the_trainer(
    prompter: Prompter, names: Names, trie: TrieConstraint, scorer: PrefixPathScorer
) -> None:
    completions = [answer(prompter, ITEM), answer(prompter, OTHER), [prompter.end_of_turn]]
    recipe = {"residual_sensitive": 1.0, PROCESS: 0.3}
    terms = RewardTerms(recipe, prompter, trie, num_generations=3, scorer=scorer)
    assert terms.process_weight == 0.3
    assert [f.__name__ for f in terms.functions] == ["residual_sensitive", "exact_hit"]
    batch = Batch(completions, names)
    batch.columns["history"] = [[1, 2], [3], [3]]
    batch.graded(terms)
    path = torch.tensor([*names.codes[[ITEM, OTHER]].tolist(), [-1] * 3])
    expected = process_scores(scorer, trie, [[1, 2], [3], [3]], path)
    assert terms.process_scores is not None
    torch.testing.assert_close(terms.process_scores, expected, equal_nan=True)
    assert terms.positions is not None
    assert terms.positions.tolist() == [[0, 1, 2], [0, 1, 2], [-1] * 3]
    for level in range(3):
        assert batch.logged[f"process_level_{level}"] == pytest.approx(expected[:2, level].mean().item())


@pytest.mark.parametrize(("recipe", "message"), [
    ({"residual": 1.0, "hit": 1.0}, "Unknown rewards: residual, hit; known ones: residual_sensitive, "),
    ({"format": -0.1}, "weight of the reward format is -0.1; give a number of at least 0"),
    ({"format": math.nan}, "weight of the reward format is nan"),
    ({"format": math.inf}, "weight of the reward format is inf"),
    ({"format": 0.0}, "No reward has a weight above 0"),
    ({}, "No reward has a weight above 0"),
])  # fmt: skip
def test_recipes_that_make_no_reward_are_refused(recipe: Mapping[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_recipe(recipe)


def test_a_reward_without_what_it_needs_is_refused(
    prompter: Prompter, names: Names, trie: TrieConstraint, scorer: PrefixPathScorer
) -> None:
    with pytest.raises(InputError, match="reward category_hit needs categories of the items"):
        RewardTerms({"category_hit": 1.0}, prompter, trie, num_generations=2)
    with pytest.raises(InputError, match="no item of this catalogue has one"):
        RewardTerms({"step_consistency": 1.0}, prompter, trie, num_generations=2, categories=np.full(24, -1))
    with pytest.raises(InputError, match="`process` needs a scorer; set `scorer`"):
        RewardTerms({PROCESS: 1.0}, prompter, trie, num_generations=2)
    unordered = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    with pytest.raises(InputError, match="`process` needs names with ordered codes"):
        RewardTerms({PROCESS: 1.0}, prompter, constraint_of(unordered), num_generations=2, scorer=scorer)
    with pytest.raises(InputError, match="future_window is 0"):
        RewardTerms({"format": 1.0}, prompter, trie, num_generations=2, future_window=0)


@pytest.mark.parametrize(("term", "column"), [("step_hit", "future"), ("category_hit", "future")])
def test_what_cannot_be_computed_raises(
    prompter: Prompter, names: Names, trie: TrieConstraint, categories: np.ndarray, term: str, column: str
) -> None:
    terms = RewardTerms(
        {term: 1.0}, prompter, trie, num_generations=1, future_window=2, categories=categories
    )
    batch = Batch([answer(prompter, ITEM)], names)
    del batch.columns[column]
    with pytest.raises(KeyError, match=column):
        batch.graded(terms)


def test_the_trainer_calls_and_logs_every_term(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    prompter: Prompter,
    names: Names,
    trie: TrieConstraint,
    categories: np.ndarray,
    scorer: PrefixPathScorer,
) -> None:
    """One step of TRL's own trainer; the future of a row may be shorter than the window."""
    recipe = {**dict.fromkeys(TERMS, 0.5), PROCESS: 0.3}
    terms = RewardTerms(
        recipe, prompter, trie, num_generations=2, future_window=2, categories=categories, scorer=scorer
    )
    rows = [
        {
            "prompt": prompter.direct_text([1, 2]),
            "target": names.codes[item].tolist(),
            "mode": "direct",
            "history": [1, 2],
            "item": item,
            "future": future,
        }
        for item, future in ((ITEM, [ITEM, OTHER]), (OTHER, [OTHER]))
    ]
    trainer = GRPOTrainer(
        model=model_and_tokenizer[0],
        reward_funcs=terms.functions,
        args=GRPOConfig(
            output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=2,
            max_completion_length=4, reward_weights=terms.weights, use_cpu=True, bf16=False, report_to="none",
            dataloader_pin_memory=False, gradient_checkpointing=False, logging_steps=1, disable_tqdm=True,
            save_strategy="no", seed=1,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=prompter.tokenizer,
    )  # fmt: skip
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {f"rewards/{name}/mean" for name in TERMS} <= logged.keys()
    assert {"well_formed", "valid", "invalid", "reward_direct"} <= logged.keys()
    assert logged["reward_direct"] == pytest.approx(logged["reward"])
    assert terms.process_scores is not None
    assert terms.process_scores.shape == (4, 3)
