"""The reward on cases worked by hand; R = 1 to 6 completions, L = 4 codebooks unless said otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from gream.training.rewards import (
    answer_ranks,
    exact_hits,
    format_reward,
    rank_discounted_hit,
    residual_sensitive_reward,
    validity_reward,
)

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


def test_format_and_validity_are_one_or_zero() -> None:
    flags = torch.tensor([True, False, True])
    for reward in (format_reward(flags), validity_reward(flags)):
        assert (reward.tolist(), reward.dtype) == ([1.0, 0.0, 1.0], torch.float32)


A, B, C, BAD = [0, 1], [0, 2], [3, 1], [-1, -1]


def ranks(paths: list[list[int]], size: int, preference: list[list[float]] | None = None) -> list[int]:
    path = torch.tensor(paths)
    given = None if preference is None else torch.tensor(preference)
    return answer_ranks(path, path[:, 0] >= 0, size, given).tolist()


def test_answers_of_a_sampled_group_rank_by_the_number_of_their_copies() -> None:
    # C three times, A twice, B once; each distinct answer takes one place, whatever its copies.
    assert ranks([A, C, B, C, A, C], 6) == [2, 1, 3, 1, 2, 1]


def test_a_sampled_group_without_copies_is_not_ranked_by_chance() -> None:
    assert ranks([C, A, B], 3) == ranks([A, B, C], 3) == [1, 1, 1]


def test_answers_of_a_beam_rank_by_their_place() -> None:
    assert ranks([C, A, B, B, A, C], 3, [[0, -1, -2]] * 2) == [1, 2, 3, 1, 2, 3]


def test_a_repeated_answer_has_its_best_log_probability() -> None:
    # A was drawn at -5 and at -1, so it is before B at -2 and C at -3.
    assert ranks([A, B, C, A], 4, [[-5.0, -2.0, -3.0, -1.0]]) == [1, 2, 3, 1]


def test_malformed_answers_are_nobodys_rivals() -> None:
    # Two malformed rows look like the most frequent answer, and have the best preference.
    assert ranks([BAD, BAD, A, B, B], 5)[2:] == [2, 1, 1]
    assert ranks([BAD, BAD, A, B, B], 5, [[9, 9, 1, 2, 2]])[2:] == [2, 1, 1]


def test_groups_do_not_see_each_other() -> None:
    assert ranks([A, A, B, B, B, A], 3) == [1, 1, 2, 1, 1, 2]


def test_ranks_equal_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(11)
    path = torch.randint(0, 2, (12 * 7, 3), generator=generator)
    valid = torch.rand(12 * 7, generator=generator) < 0.8
    preference = torch.randint(0, 5, (12, 7), generator=generator).float()
    for given in (None, preference):
        found = answer_ranks(path, valid, 7, given).view(12, 7)
        for group in range(12):
            rows = [group * 7 + place for place in range(7)]
            liked: dict[tuple[int, ...], float] = {}
            for place, row in enumerate(rows):
                answer = tuple(path[row].tolist())
                if valid[row] and given is None:
                    liked[answer] = liked.get(answer, 0) + 1
                elif valid[row] and given is not None:
                    liked[answer] = max(liked.get(answer, -1), float(given[group, place]))
            for place, row in enumerate(rows):
                if valid[row]:
                    mine = liked[tuple(path[row].tolist())]
                    assert found[group, place] == 1 + sum(other > mine for other in liked.values())


def test_a_miss_earns_less_the_surer_the_policy_was_of_it() -> None:
    # (1 - 1 / log2(r + 2)) / 2 at rank 1, 2, 6: 1 / log2(3) = 0.63093, then 1 / 2 and 1 / 3.
    rank = torch.tensor([1, 2, 6, 4, 1])
    hits = torch.tensor([0.0, 0.0, 0.0, 1.0, 0.0])
    valid = torch.tensor([True, True, True, True, False])
    reward = rank_discounted_hit(hits, rank, valid)
    assert reward.tolist() == pytest.approx([0.184535, 0.25, 1 / 3, 1.0, 0.0], abs=1e-6)
    assert reward.dtype == torch.float32


def test_no_miss_earns_half_a_hit_and_every_miss_more_than_what_is_no_item() -> None:
    rank = torch.arange(1, 5000)
    reward = rank_discounted_hit(torch.zeros(4999), rank, torch.ones(4999).bool())
    assert (reward.diff() > 0).all()
    assert reward.min() > 0.18
    assert reward.max() < 0.5


def test_misses_of_a_group_without_a_hit_are_told_apart() -> None:
    path = torch.tensor([A, B, B])
    reward = rank_discounted_hit(torch.zeros(3), answer_ranks(path, torch.ones(3).bool(), 3), torch.ones(3))
    assert reward[0] > reward[1] == reward[2]
