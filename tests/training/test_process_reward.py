"""The path scorer as a reward of every level: the right scores in the right places, and none elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_shape import ScorerShape
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from gream.training.process_reward import answer_positions, check_scorer, prefix_nodes, process_scores


def absent_path(names: Names) -> list[int]:
    """A path whose first two codes are those of an item, and whose third leads nowhere."""
    taken = {tuple(row) for row in names.codes.tolist()}
    return next([a, b, c] for a, b, _ in sorted(taken) for c in range(5) if (a, b, c) not in taken)


def test_scores_are_those_of_each_prefix_and_nan_where_there_is_none(
    scorer: PrefixPathScorer, names: Names
) -> None:
    """One answer at a time and one level at a time gives the same; three histories, unequally often."""
    trie = TrieConstraint(names)
    first, second, third = [3, 0, 11], [5], [1, 2, 3, 4, 5, 6, 7]
    histories: list[Sequence[int]] = [first, second, first, third, first, second]
    invented = absent_path(names)
    answers = [names.codes[i].tolist() for i in (0, 7)] + [invented, [-1] * 3] + names.codes[[2, 2]].tolist()
    found = process_scores(scorer, trie, histories, torch.tensor(answers))
    assert (found.shape, found.dtype) == ((6, 3), torch.float32)
    for row, (history, answer) in enumerate(zip(histories, answers, strict=True)):
        for level in range(3):
            if answer[0] < 0 or (answer == invented and level == 2):
                assert math.isnan(found[row, level])
                continue
            node = torch.tensor([[trie.node(answer[: level + 1])]])
            alone = scorer.score(scorer.context([history]), level, node)
            torch.testing.assert_close(found[row, level], alone[0, 0], rtol=1e-5, atol=1e-6)  # batching


def test_a_first_code_of_no_item_has_no_score_at_all() -> None:
    names = Names(SidLayout((3, 2)), torch.tensor([[0, 0], [2, 1]], dtype=torch.int32).numpy())
    trie = TrieConstraint(names)
    small = PrefixPathScorer(trie, ScorerShape(hidden_size=8)).eval()
    found = process_scores(small, trie, [[0], [0], [1]], torch.tensor([[1, 0], [0, 1], [2, 1]]))
    assert found.isnan().tolist() == [[True, True], [False, True], [False, False]]


def test_every_distinct_history_is_encoded_once(
    scorer: PrefixPathScorer, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Sequence[int]]] = []
    context = scorer.context

    def counted(histories: list[Sequence[int]]) -> Any:
        asked.append(histories)
        return context(histories)

    monkeypatch.setattr(scorer, "context", counted)
    path = torch.from_numpy(names.codes[[1, 2, 3, 4, 5]]).long()
    process_scores(scorer, TrieConstraint(names), [[1, 2], [3], [1, 2], [3], [1, 2]], path)
    assert asked == [[[1, 2], [3]]]


def test_scores_may_stand_in_a_loss(scorer: PrefixPathScorer, names: Names) -> None:
    """A tensor of inference mode could not be saved for the backward pass."""
    path = torch.from_numpy(names.codes[[1]]).long()
    scores = process_scores(scorer, TrieConstraint(names), [[1, 2]], path)
    weight = torch.ones(3, requires_grad=True)
    (weight * scores).sum().backward()
    torch.testing.assert_close(weight.grad, scores[0])


def test_nodes_of_prefixes_are_those_of_the_items(names: Names) -> None:
    trie = TrieConstraint(names)
    path = torch.from_numpy(names.codes).long()
    assert prefix_nodes(trie, path).tolist() == trie.item_nodes.tolist()
    # Code 4 of a codebook of 4 must not be read as code 0 of the next node; behind it nothing is real.
    outside = torch.tensor([[int(path[0, 0]), 4, int(path[0, 2])]])
    assert prefix_nodes(trie, outside).tolist() == [[int(trie.item_nodes[0, 0]), -1, -1]]
    assert prefix_nodes(trie, torch.full((1, 3), -1)).tolist() == [[-1, -1, -1]]


def test_names_without_an_order_are_refused(scorer: PrefixPathScorer, names: Names) -> None:
    unordered = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    with pytest.raises(InputError, match="`process` needs names with ordered codes"):
        check_scorer(scorer, PostingConstraint(unordered))


def test_a_scorer_of_a_policys_states_is_refused(names: Names) -> None:
    trie = TrieConstraint(names)
    reader = PrefixPathScorer(trie, ScorerShape(hidden_size=8, policy_size=32))
    with pytest.raises(InputError, match="trained with `context: own`"):
        check_scorer(reader, trie)


def test_codes_of_answers_are_found_in_both_modes(prompter: Prompter, names: Names) -> None:
    name, end = prompter.name_ids(7), prompter.end_of_turn
    chain = prompter.encode(f"Evidence: {prompter.name(2)} ink\n</think>\n<answer>")
    completions = [[*name, end], [*chain, *name, prompter.answer_end, end], [end], [*name]]
    well_formed = torch.tensor([True, True, False, False])
    found = answer_positions(completions, well_formed, prompter.item_block, names.layout)
    start = len(chain)
    assert found.tolist() == [[0, 1, 2], [start, start + 1, start + 2], [-1] * 3, [-1] * 3]


def test_codes_in_any_order_are_found_by_their_codebook(prompter: Prompter, names: Names) -> None:
    first, second, third = prompter.name_ids(7)
    unordered = SidLayout((3, 4, 5), ordered=False)
    ids = [[third, first, second, prompter.end_of_turn]]
    assert answer_positions(ids, torch.tensor([True]), prompter.item_block, unordered).tolist() == [[1, 2, 0]]
