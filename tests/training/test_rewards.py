"""The reward on cases worked by hand; R = 1 to 6 completions, L = 4 codebooks unless said otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from gream.training.rewards import exact_hits, residual_sensitive_reward

TARGET = [3, 1, 4, 1]


def reward(paths: list[list[int]], valid: list[bool] | None = None) -> list[float]:
    path = torch.tensor(paths)
    target = torch.tensor([TARGET[: path.shape[1]]]).expand_as(path)
    flags = torch.tensor(valid if valid is not None else [True] * len(paths))
    return residual_sensitive_reward(path, target, flags).tolist()


def test_reward_grows_with_the_number_of_leading_codes() -> None:
    # 0, 1, 2, 3 and 4 leading codes of 4: the values of the authors' code.
    paths = [[0, 1, 4, 1], [3, 0, 4, 1], [3, 1, 0, 1], [3, 1, 4, 0], [3, 1, 4, 1]]
    assert reward(paths) == pytest.approx([0.0, 0.5, math.sqrt(0.5), math.sqrt(0.75), 1.0], abs=1e-6)


def test_codes_after_the_first_wrong_one_do_not_count() -> None:
    assert reward([[3, 0, 4, 1]]) == reward([[3, 0, 0, 0]]) == pytest.approx([0.5])


def test_only_an_exact_hit_earns_more_than_a_near_miss() -> None:
    # 11 of 12 codes: sqrt(11 / 12) = 0.957 would be above the cap.
    target = torch.arange(12).unsqueeze(0)
    near = target.clone()
    near[0, -1] = 0
    valid = torch.tensor([True])
    assert residual_sensitive_reward(near, target, valid).item() == pytest.approx(0.95)
    assert residual_sensitive_reward(target, target, valid).item() == 1.0


def test_codes_without_an_order_count_wherever_they_are() -> None:
    """0, 1, 2, 3 and 4 codes of 4 are the target's, never the leading ones; 11 of 12 stay below the cap."""
    paths = [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 4, 1], TARGET]
    target = torch.tensor([TARGET]).expand(5, 4)
    graded = residual_sensitive_reward(torch.tensor(paths), target, torch.ones(5).bool(), ordered=False)
    assert graded.tolist() == pytest.approx([0.0, 0.5, math.sqrt(0.5), math.sqrt(0.75), 1.0], abs=1e-6)
    long = torch.arange(12).unsqueeze(0)
    near = long.clone()
    near[0, 0] = 5
    valid = torch.tensor([True])
    assert residual_sensitive_reward(near, long, valid, ordered=False).item() == pytest.approx(0.95)
    assert residual_sensitive_reward(near, long, ~valid, ordered=False).item() == 0.0


def test_a_disambiguation_code_counts_after_all_others_only() -> None:
    """It numbers the items that share the other three codes, so alone it says nothing."""
    paths = torch.tensor([[0, 0, 0, 1], [3, 0, 4, 1], [3, 1, 4, 0], TARGET])
    target = torch.tensor([TARGET]).expand(4, 4)
    valid = torch.ones(4).bool()
    graded = residual_sensitive_reward(paths, target, valid, ordered=False, disambiguation=True)
    assert graded.tolist() == pytest.approx([0.0, math.sqrt(0.5), math.sqrt(0.75), 1.0], abs=1e-6)


def test_an_invalid_answer_earns_nothing_even_when_its_codes_are_right() -> None:
    assert reward([TARGET, TARGET], [False, True]) == [0.0, 1.0]


def test_two_level_names_follow_the_same_law() -> None:
    # The two-level example of the paper's figure: 0, 0.7, 1.
    assert reward([[0, 1], [3, 0], [3, 1]]) == pytest.approx([0.0, math.sqrt(0.5), 1.0])


def test_exact_hits_are_their_own_column() -> None:
    path = torch.tensor([TARGET, TARGET, [3, 1, 4, 0], [-1, -1, -1, -1], [0, 1, 4, 1], TARGET])
    target = torch.tensor([TARGET]).expand_as(path)
    valid = torch.tensor([True, False, True, False, True, True])
    assert exact_hits(path, target, valid).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_rewards_are_float32() -> None:
    path = torch.tensor([TARGET])
    valid = torch.tensor([True])
    assert residual_sensitive_reward(path, path, valid).dtype == torch.float32
    assert exact_hits(path, path, valid).dtype == torch.float32


def test_batched_reward_equals_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(7)
    path = torch.randint(0, 3, (200, 5), generator=generator)
    target = torch.randint(0, 3, (200, 5), generator=generator)
    valid = torch.rand(200, generator=generator) < 0.8
    expected = []
    for row in range(200):
        matching = 0
        while matching < 5 and path[row, matching] == target[row, matching]:
            matching += 1
        value = 1.0 if matching == 5 else min(math.sqrt(matching / 5), 0.95)
        expected.append(value if valid[row] else 0.0)
    torch.testing.assert_close(residual_sensitive_reward(path, target, valid), torch.tensor(expected))
