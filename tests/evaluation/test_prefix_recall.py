"""Recall of prefixes: by hand for both kinds of names, and equal to recall at the last level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gream.data.store import TEST, Interactions
from gream.decoding.answer import Answer
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.torch_backend import TorchBackend
from gream.evaluation import metrics
from gream.evaluation.prefix_recall import false_prune_rate, prefix_hits, prefix_recall
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout

# Items 0 to 3. The trie numbers its nodes breadth first: 1 = (0), 2 = (1); 3 = (0, 0), 4 = (0, 2),
# 5 = (1, 1), 6 = (1, 2); so item i ends in node 3 + i.
SMALL = Names(SidLayout((2, 3)), np.array([[0, 0], [0, 2], [1, 1], [1, 2]], dtype=np.int32))


def rows(*nodes: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(level, dtype=np.int64) for level in nodes)


def test_prefixes_are_found_level_by_level() -> None:
    kept = [
        rows([1, 2], [3, 4, 5]),  # item 1: its first code is kept, and its node 4
        rows([1], [3, 4]),  # item 2: neither; a shorter row than the others'
        rows([1, 2], [3]),  # item 3: its first code only
    ]
    hits = prefix_hits(kept, [1, 2, 3], TrieConstraint(SMALL))
    assert hits.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert prefix_recall(hits) == [pytest.approx(2 / 3, abs=1e-6), pytest.approx(1 / 3, abs=1e-6)]


def test_as_many_users_as_targets_are_needed() -> None:
    with pytest.raises(ValueError, match="2 users were given for 1 targets"):
        prefix_hits([rows([1], [3])] * 2, [0], TrieConstraint(SMALL))


def test_false_prunes_are_counted_among_the_targets_that_were_held() -> None:
    def answer(kept: list[int], pruned: list[int]) -> Answer:
        empty = np.zeros(0)
        return Answer(empty, empty, None, kept=rows(kept, []), pruned=rows(pruned))

    # Targets 0, 2, 2, 0: kept, pruned, neither, pruned; so two of three that were held are lost.
    answers = [answer([1], [2]), answer([1], [2]), answer([1], []), answer([2], [1])]
    rate = false_prune_rate(answers, [0, 2, 2, 0], TrieConstraint(SMALL), Search(prune_threshold=0.5))
    assert rate == pytest.approx(2 / 3, abs=1e-6)


@pytest.mark.parametrize("width", [3, 7])
def test_prefix_recall_at_the_last_level_is_recall_of_the_whole_list(
    width: int, model_and_tokenizer: tuple[Any, Any], names: Names, interactions: Interactions
) -> None:
    model, tokenizer = model_and_tokenizer
    constraint = TrieConstraint(names)
    engine = Engine(
        TorchBackend(model, tokenizer.pad_token_id),
        Prompter(tokenizer, names, max_history=5),
        constraint,
        names,
    )
    cases = interactions.cases(TEST)
    answers = recommend_many(
        engine, [case.history.tolist() for case in cases], Search(k=width, num_beams=width)
    )
    targets = [case.target for case in cases]
    shares = prefix_recall(prefix_hits([answer.kept for answer in answers], targets, constraint))
    recall = metrics.recall(metrics.ranks_of_targets([answer.items for answer in answers], targets), width)
    assert shares[-1] == pytest.approx(recall, abs=1e-6) and 0 < recall < 1
    assert shares == sorted(shares, reverse=True)  # who lost a prefix has lost the item
