"""Ways to game a reward, known from GREAM's own code: each has a decided value in every term."""

from __future__ import annotations

import numpy as np
import pytest

from gream.decoding.path_scorer import PrefixPathScorer
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.training.reward_terms import PROCESS, TERMS, RewardTerms
from tests.training.graded import ITEM, OTHER, Batch, absent_ids, answer, reasoned


@pytest.mark.parametrize("ordered", [True, False])
def test_what_is_gamed_earns_nothing_in_any_term(
    prompter: Prompter, names: Names, categories: np.ndarray, ordered: bool
) -> None:
    """The four ways in which the authors' reward can be gamed, an invented item, and an honest hit."""
    named = Names(SidLayout((3, 4, 5), ordered=ordered), names.codes)
    reader = Prompter(prompter.tokenizer, named, max_history=5)
    name, end = prompter.name(ITEM), prompter.end_of_turn
    honest = reasoned(prompter, prompter.name_ids(ITEM))
    gamed = {
        "incomplete name": reasoned(prompter, prompter.name_ids(ITEM)[:2]),
        "answer inside the think block": [*prompter.encode(f"ink <answer>{name}</answer>\n</think>"), end],
        "answer inside the block and after it": [*prompter.encode(f"<answer>{name}</answer> ink"), *honest],
        "two answers": [*honest[:-1], *prompter.encode(f"\n<answer>{prompter.name(OTHER)}</answer>"), end],
        "right name without thinking": answer(prompter, ITEM),
    }
    invented = reasoned(prompter, absent_ids(prompter, names))
    recipe = dict.fromkeys(TERMS, 1.0)
    terms = RewardTerms(
        recipe, reader, constraint_of(named), num_generations=7, future_window=2, categories=categories
    )
    batch = Batch([*gamed.values(), invented, honest], names, "reasoning")
    graded = batch.graded(terms)
    assert graded.keys() == TERMS.keys()
    for term, rewards in graded.items():
        assert rewards[:5] == [0.0] * 5, term
        assert rewards[5] == (1.0 if term == "format" else 0.0), term
        assert rewards[6] > 0 or term == "step_consistency", term
    assert [graded[t][6] for t in ("exact_hit", "format", "validity", "rank_discounted_hit")] == [1.0] * 4


def test_what_is_gamed_has_no_score_at_any_level(
    prompter: Prompter, names: Names, trie: TrieConstraint, scorer: PrefixPathScorer
) -> None:
    honest = reasoned(prompter, prompter.name_ids(ITEM))
    completions = [
        reasoned(prompter, prompter.name_ids(ITEM)[:2]),
        [*prompter.encode(f"ink <answer>{prompter.name(ITEM)}</answer>\n</think>"), prompter.end_of_turn],
        [*honest[:-1], *prompter.encode(f"<answer>{prompter.name(OTHER)}</answer>"), prompter.end_of_turn],
        answer(prompter, ITEM),
        reasoned(prompter, absent_ids(prompter, names)),
        honest,
    ]
    terms = RewardTerms({PROCESS: 1.0}, prompter, trie, num_generations=6, scorer=scorer)
    Batch(completions, names, "reasoning").graded(terms)
    assert terms.process_scores is not None
    assert terms.positions is not None
    assert terms.process_scores.isnan().all(dim=1).tolist() == [True] * 4 + [False] * 2
    assert not terms.process_scores[4, 0].isnan()  # an invented item begins as real ones do
    assert terms.process_scores[4, 2].isnan()
    assert (terms.positions >= 0).all(dim=1).tolist() == [False] * 4 + [True] * 2
