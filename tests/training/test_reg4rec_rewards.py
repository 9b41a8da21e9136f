"""REG4Rec's rewards on the examples of the paper's figure, and its window of future purchases."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from gream.training.reg4rec_rewards import (
    StepCategories,
    category_hit,
    check_window,
    global_path,
    step_consistency,
    step_hit,
    window_of,
)
from gream.training.rewards import residual_sensitive_reward

TRUE = torch.ones(2).bool()
UNORDERED = {"ordered": False, "disambiguation": False}


def rows(first: list[int], second: list[int]) -> Tensor:
    return torch.tensor([first, second])


def test_step_hits_of_the_figure() -> None:
    # Target (t0_1, t1_2, t2_3): two codes right, then one.
    target = rows([1, 2, 3], [1, 2, 3])
    assert step_hit(rows([1, 20, 3], [10, 2, 30]), target, TRUE, **UNORDERED).tolist() == [2.0, 1.0]


def test_global_paths_of_the_figure() -> None:
    target = rows([1, 2, 3], [1, 2, 3])
    assert global_path(rows([1, 2, 3], [20, 20, 20]), target, TRUE).tolist() == [1.0, 0.0]


def test_category_hits_of_the_figure() -> None:
    steps, target = rows([30, 30, 27], [27, 30, 27]), torch.tensor([27, 27])
    assert category_hit(steps, target, TRUE).tolist() == [1.0, 2.0]


def test_step_consistency_of_the_figure() -> None:
    assert step_consistency(rows([30, 30, 30], [27, 30, 30]), TRUE).tolist() == [2.0, 1.0]


def test_answers_that_are_not_valid_earn_nothing() -> None:
    path, valid = rows([1, 2, 3], [1, 2, 3]), torch.tensor([True, False])
    assert step_hit(path, path, valid, **UNORDERED).tolist() == [3.0, 0.0]
    assert global_path(path, path, valid).tolist() == [1.0, 0.0]
    assert category_hit(path, torch.tensor([1, 1]), valid).tolist() == [1.0, 0.0]
    assert step_consistency(rows([4, 4, 4], [4, 4, 4]), valid).tolist() == [2.0, 0.0]


def test_what_has_no_category_neither_hits_nor_agrees() -> None:
    steps = rows([-1, -1, 5], [-1, 5, 5])
    assert category_hit(steps, torch.tensor([-1, -1]), TRUE).tolist() == [0.0, 0.0]
    assert category_hit(steps, torch.tensor([5, 5]), TRUE).tolist() == [1.0, 2.0]
    assert step_consistency(steps, TRUE).tolist() == [0.0, 1.0]


def test_residual_codes_hit_after_right_ones_only() -> None:
    target = rows([1, 2, 3], [1, 2, 3])
    rule = {"ordered": True, "disambiguation": False}
    assert step_hit(rows([1, 20, 3], [1, 2, 30]), target, TRUE, **rule).tolist() == [1.0, 2.0]


def test_a_disambiguation_code_hits_after_all_others_only() -> None:
    target = rows([1, 2, 3], [1, 2, 3])
    rule = {"ordered": False, "disambiguation": True}
    assert step_hit(rows([10, 2, 3], [1, 2, 3]), target, TRUE, **rule).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("reward", [partial(step_hit, **UNORDERED), global_path])
def test_the_order_of_the_codebooks_does_not_matter(reward: partial[Tensor]) -> None:
    """Whoever numbers the codebooks otherwise gets the same rewards."""
    generator = torch.Generator().manual_seed(2)
    path, target = (torch.randint(0, 2, (40, 3), generator=generator) for _ in range(2))
    order = torch.tensor([2, 0, 1])
    valid = torch.ones(40).bool()
    same = reward(path[:, order], target[:, order], valid)
    assert reward(path, target, valid).tolist() == same.tolist()


# Six items by (first code, second code, disambiguation code), with the categories below.
CODES = np.asarray([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1], [1, 0, 0]], dtype=np.int32)
CATEGORIES = np.asarray([7, 7, 4, 4, 4, -1])


def steps_of(ordered: bool, path: list[list[int]], *, disambiguation: bool = True) -> list[list[int]]:
    names = Names(SidLayout((2, 2, 2), ordered=ordered, disambiguation=disambiguation), CODES)
    return StepCategories(constraint_of(names), CATEGORIES).of_steps(torch.tensor(path)).tolist()


def test_a_parallel_code_stands_for_the_most_frequent_category_of_its_items() -> None:
    # a_0: 7, 7, 4; a_1: 4, 4 and none; b_0: 7, 7 and none; b_1: 4, 4, 4. The last code says nothing.
    assert steps_of(False, [[0, 0, 1], [1, 0, 0], [0, 1, 1]]) == [[7, 7], [4, 7], [7, 4]]
    # As a third codebook it does. c_0: 7, 4, 4, none; c_1: 7, 4, a tie that the lower category wins.
    assert steps_of(False, [[0, 0, 1], [1, 0, 0]], disambiguation=False) == [[7, 7, 4], [4, 7, 4]]


def test_a_residual_code_stands_for_the_items_below_its_prefix() -> None:
    # Below (0): 7, 7, 4; (0, 0): 7, 7; (0, 1): 4; (1): 4, 4 and none; (1, 0): none.
    assert steps_of(True, [[0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]]) == [[7, 7], [7, 4], [4, 4], [4, -1]]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_malformed_answer_has_no_categories(ordered: bool) -> None:
    assert steps_of(ordered, [[-1, -1, -1]]) == [[-1, -1]]


def test_a_prefix_of_no_item_has_no_category() -> None:
    names = Names(SidLayout((2, 3)), np.asarray([[0, 0], [1, 2]], dtype=np.int32))
    steps = StepCategories(TrieConstraint(names), np.asarray([5, 6]))
    assert steps.of_steps(torch.tensor([[0, 2], [1, 2]])).tolist() == [[5, -1], [6, 6]]


def test_categories_of_items_are_looked_up() -> None:
    names = Names(SidLayout((2, 2, 2), ordered=False, disambiguation=True), CODES)
    steps = StepCategories(PostingConstraint(names), CATEGORIES)
    assert steps.of_items(torch.tensor([[5, 2], [0, 3]])).tolist() == [[-1, 4], [7, 4]]


def test_a_catalogue_without_categories_is_refused(names: Names) -> None:
    trie = TrieConstraint(names)
    with pytest.raises(InputError, match="no item of this catalogue has one; take them out"):
        StepCategories(trie, np.full(24, -1))
    with pytest.raises(ValueError, match="3 categories were given for 24 items"):
        StepCategories(trie, np.zeros(3, dtype=np.int64))


def test_weights_of_a_window_fall_and_sum_to_one() -> None:
    window = window_of([[3, 1, 2], [4, 0, 1, 2, 3]], 3, 0.5)
    # 1, 1/2, 1/4 of 7/4; a fourth purchase lies outside the window.
    torch.testing.assert_close(window.weights, torch.tensor([[4 / 7, 2 / 7, 1 / 7]] * 2))
    assert window.items.tolist() == [[3, 1, 2], [4, 0, 1]]
    assert (window.weights.diff(dim=1) < 0).all()


def test_weights_are_shared_among_the_purchases_that_remain() -> None:
    window = window_of([[3], [3, 1], [3, 1, 2]], 3, 0.5)
    torch.testing.assert_close(
        window.weights, torch.tensor([[1.0, 0.0, 0.0], [2 / 3, 1 / 3, 0.0], [4 / 7, 2 / 7, 1 / 7]])
    )


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="window of future purchases is empty"):
        window_of([[3], []], 2, 0.5)


@pytest.mark.parametrize(("size", "decay", "message"), [
    (0, 0.5, "future_window is 0; give at least 1"),
    (2, 1.0, "future_decay is 1.0; give a number between 0 and 1"),
    (2, 0.0, "future_decay is 0.0; give a number between 0 and 1"),
])  # fmt: skip
def test_windows_that_do_not_fall_are_refused(size: int, decay: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_window(size, decay)


def over_window(futures: list[list[int]], path: Tensor, size: int, names: Names) -> list[float]:
    """Residual-sensitive reward of answers over the next purchases."""
    codes = torch.from_numpy(names.codes.astype(np.int64))
    valid = torch.ones(len(path)).bool()
    window = window_of(futures, size, 0.5)
    reward: list[float] = window.mean(
        lambda items: residual_sensitive_reward(path, codes[items], valid)
    ).tolist()
    return reward


def test_a_window_of_one_is_the_plain_reward_to_the_last_bit(names: Names) -> None:
    generator = torch.Generator().manual_seed(4)
    codes = torch.from_numpy(names.codes.astype(np.int64))
    answers, targets = (torch.randint(0, 24, (60,), generator=generator) for _ in range(2))
    plain = residual_sensitive_reward(codes[answers], codes[targets], torch.ones(60).bool())
    futures = [[target, 5, 9] for target in targets.tolist()]
    assert over_window(futures, codes[answers], 1, names) == plain.tolist()


def test_a_later_purchase_earns_its_weight(names: Names) -> None:
    codes = torch.from_numpy(names.codes.astype(np.int64))
    first = names.codes[:, 0]
    target, later = 0, int(np.flatnonzero(first != first[0])[0])
    middle = int(np.flatnonzero((first == first[0]) & (np.arange(24) > 0))[0])
    path = codes[[later]]
    # Nothing of `target` and `middle` is right, because the answer has another first code.
    assert over_window([[target, middle, later]], path, 3, names) == pytest.approx([1 / 7])
    assert over_window([[target, later, middle]], path, 3, names) == pytest.approx([2 / 7])
    assert over_window([[target, later]], path, 3, names) == pytest.approx([1 / 3])
    assert over_window([[target, middle, target, later]], path, 3, names) == [0.0]
