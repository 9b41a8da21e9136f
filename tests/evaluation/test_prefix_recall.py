"""Recall of prefixes: by hand for both kinds of names, and equal to recall at the last level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gream.data.store import TEST, Interactions
from gream.decoding.answer import Answer
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.torch_backend import TorchBackend
from gream.evaluation import metrics
from gream.evaluation.prefix_recall import false_prune_rate, prefix_hits, prefix_recall
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint

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


def test_a_path_without_an_order_is_found_when_all_its_codes_are_the_targets() -> None:
    """Items 0 (0, 0, 0), 1 (0, 1, 1) and 2 (1, 1, 0); paths are sets of (codebook, code).

    The first user's item is held by a code of the second codebook, by two codes and by its whole name. The
    second's shares its last code with item 0, and one code with each path of two, which is not enough. The
    third's is lost at once; what fills up its shorter rows is the empty set, which every name would hold.
    """
    codes = np.array([[0, 0, 0], [0, 1, 1], [1, 1, 0]], dtype=np.int32)
    constraint = PostingConstraint(Names(SidLayout((2, 2, 2), ordered=False), codes))

    def path(*chosen: tuple[int, int]) -> int:
        node = torch.zeros(1, 1, dtype=torch.int64)
        for level, (book, code) in enumerate(chosen):
            node = constraint.follow(node, torch.full_like(node, 2 * book + code), level)
        return int(node)

    a, b, c, d = path((2, 0)), path((1, 1)), path((0, 1)), path((1, 1), (0, 0))
    kept = [
        rows([a, b], [d], [path((1, 1), (0, 0), (2, 1))]),
        rows([a], [d, path((0, 0), (2, 0))], [path((0, 0), (1, 0), (2, 0))]),
        rows([c, b], [path((1, 1), (2, 0))], [path((2, 0), (0, 1), (1, 1))]),
    ]
    hits = prefix_hits(kept, [1, 2, 0], constraint)
    assert hits.tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert prefix_recall(hits) == pytest.approx([2 / 3, 1 / 3, 1 / 3], abs=1e-6)


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


@pytest.mark.parametrize(("disambiguation", "rate"), [(False, 1.0), (True, 0.0)])
def test_false_prunes_are_looked_for_where_the_pruner_dropped(disambiguation: bool, rate: float) -> None:
    """Of three codes the second is pruned after, or the first where the third is a disambiguation code.

    The target is held after the first code and dropped after the second.
    """
    layout = SidLayout((2, 2, 2), disambiguation=disambiguation)
    names = Names(layout, np.array([[0, 0, 0], [0, 1, 0]], dtype=np.int32))  # nodes 1; 2, 3; 4, 5
    empty = np.zeros(0)
    answer = Answer(empty, empty, None, kept=rows([1], [3], [5]), pruned=rows([], [2]))
    constraint = TrieConstraint(names)
    assert false_prune_rate([answer], [0], constraint, Search(prune_threshold=0.5)) == rate
    assert false_prune_rate([answer], [0], constraint, Search(prune_threshold=0.5, prune_level=0)) == 0.0
    assert false_prune_rate([answer], [0], constraint, Search(prune_threshold=0.5, prune_level=1)) == 1.0


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
