"""The advantage on the vectors of the reference dossier (4.3), and against an enumeration of all subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gream.training.advantages import (
    ADVANTAGES,
    advantages_of,
    bonus_calibrated_advantages,
    centred_advantages,
    group_advantages,
    leave_one_out_advantages,
    over_tokens,
    pass_at_k_bonus,
    process_advantages,
)

# Hits in a group of 10, then the bonus of a hit and of a miss at k = 4.
BONUS_TABLE = [
    (1, 1.2247, -0.1361),
    (2, 0.7071, -0.1768),
    (3, 0.4472, -0.1917),
    (4, 0.2773, -0.1849),
    (5, 0.1562, -0.1562),
    (6, 0.0692, -0.1038),
]
# k, then the bonus of a hit and of a miss for 1 hit in a group of 10.
BONUS_BY_K = [(1, 3.000, -0.333), (2, 2.000, -0.222), (4, 1.225, -0.136), (8, 0.500, -0.056)]
# Rewards of a group of 10, then the whole advantage at k = 4; a reward of 1 is the exact hit.
WORKED = [
    ([1, 0.866, 0.707, 0.5, 0.5] + [0] * 5, [2.8133, 1.1213, 0.7283, 0.2166, 0.2166] + [-1.0192] * 5),
    ([1] + [0] * 9, [4.071] + [-0.452] * 9),
    ([1, 1, 0.95, 0.5] + [0] * 6, [2.1099, 2.1099, 1.1189, 0.1552] + [-0.9156] * 6),
    ([0.866, 0.5, 0.5, 0.5] + [0] * 6, [1.9474, 0.8150, 0.8150, 0.8150] + [-0.7320] * 6),
]


def first_hits(num_hits: int, num_generations: int = 10) -> Tensor:
    return (torch.arange(num_generations) < num_hits).unsqueeze(0)


def enumerated_bonus(hits: list[bool], k: int) -> list[float]:
    """The slow version: standardise the outcome of every k-subset, average over the subsets of a member."""
    size = len(hits)
    subsets = list(itertools.combinations(range(size), k))
    if not subsets:
        return [0.0] * size
    outcomes = [float(any(hits[i] for i in subset)) for subset in subsets]
    mean = sum(outcomes) / len(outcomes)
    deviation = math.sqrt(sum((o - mean) ** 2 for o in outcomes) / len(outcomes))
    if deviation == 0.0:
        return [0.0] * size
    bonus = []
    for i in range(size):
        mine = [o for subset, o in zip(subsets, outcomes, strict=True) if i in subset]
        bonus.append((sum(mine) / len(mine) - mean) / deviation)
    return bonus


@pytest.mark.parametrize(("num_hits", "of_hit", "of_miss"), BONUS_TABLE)
def test_bonus_of_ten_generations(num_hits: int, of_hit: float, of_miss: float) -> None:
    bonus = pass_at_k_bonus(first_hits(num_hits), 4)[0].tolist()
    assert bonus == pytest.approx([of_hit] * num_hits + [of_miss] * (10 - num_hits), abs=5.1e-5)


@pytest.mark.parametrize("num_hits", [0, 7, 8, 9, 10])
def test_bonus_is_zero_where_every_subset_scores_the_same(num_hits: int) -> None:
    assert pass_at_k_bonus(first_hits(num_hits), 4)[0].tolist() == [0.0] * 10


@pytest.mark.parametrize(("k", "of_hit", "of_miss"), BONUS_BY_K)
def test_bonus_shrinks_with_k(k: int, of_hit: float, of_miss: float) -> None:
    bonus = pass_at_k_bonus(first_hits(1), k)[0].tolist()
    assert bonus == pytest.approx([of_hit] + [of_miss] * 9, abs=5.1e-4)


@pytest.mark.parametrize(("rewards", "expected"), WORKED)
def test_worked_groups(rewards: list[float], expected: list[float]) -> None:
    group = torch.tensor([rewards])
    advantages = bonus_calibrated_advantages(group, group == 1, 4)[0].tolist()
    # The last two rows of the dossier are given to three digits.
    assert advantages == pytest.approx(expected, abs=5.1e-4)


def test_z_score_of_the_worked_group() -> None:
    group = torch.tensor([WORKED[0][0]])
    expected = [1.5886, 1.2573, 0.8643, 0.3527, 0.3527] + [-0.8831] * 5
    # The dossier's figures carry the epsilon of the authors' divisor, which moves the fifth digit.
    assert group_advantages(group)[0].tolist() == pytest.approx(expected, abs=6e-5)


def test_z_score_alone_cannot_tell_a_partial_hit_from_an_exact_one() -> None:
    groups = torch.tensor([[0.5] + [0.0] * 9, [1.0] + [0.0] * 9])
    z = group_advantages(groups)
    torch.testing.assert_close(z[0], z[1])
    assert z[0].tolist() == pytest.approx([2.846] + [-0.316] * 9, abs=5.1e-4)
    calibrated = bonus_calibrated_advantages(groups, groups == 1, 4)
    assert calibrated[1, 0] > calibrated[0, 0] + 1


def test_exact_hits_are_the_mask_and_not_the_reward() -> None:
    # A penalty has lowered every reward; the bonus must not vanish with it.
    hits = first_hits(1)
    penalised = hits.float() - 0.1
    torch.testing.assert_close(
        bonus_calibrated_advantages(penalised, hits, 4), bonus_calibrated_advantages(hits.float(), hits, 4)
    )


def test_groups_without_spread_give_zero_exactly() -> None:
    # 0.1 has no exact binary form: a mean of seven of them may differ from it in the last bit.
    groups = torch.full((3, 7), 0.1, dtype=torch.float64)
    hits = torch.zeros(3, 7, dtype=torch.bool)
    assert (bonus_calibrated_advantages(groups, hits, 4) == 0).all()


def test_fewer_generations_than_k_leave_the_z_score() -> None:
    groups = torch.tensor([[1.0, 0.0, 0.5]])
    torch.testing.assert_close(bonus_calibrated_advantages(groups, groups == 1, 4), group_advantages(groups))


def test_a_group_of_one_gives_zero() -> None:
    assert bonus_calibrated_advantages(torch.ones(2, 1), torch.ones(2, 1), 1).tolist() == [[0.0], [0.0]]


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        pass_at_k_bonus(first_hits(1), 0)


def test_both_parts_sum_to_zero_over_a_group() -> None:
    generator = torch.Generator().manual_seed(3)
    hits = torch.rand(50, 9, generator=generator) < 0.3
    rewards = torch.rand(50, 9, generator=generator).maximum(hits.float())
    total = bonus_calibrated_advantages(rewards, hits, 4).sum(dim=1)
    torch.testing.assert_close(total, torch.zeros(50), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_generations", [2, 3, 5, 8])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_bonus_equals_the_enumeration_of_all_subsets(num_generations: int, k: int) -> None:
    generator = torch.Generator().manual_seed(num_generations * 10 + k)
    hits = torch.rand(6, num_generations, generator=generator) < 0.4
    expected = torch.tensor([enumerated_bonus(row, k) for row in hits.tolist()])
    torch.testing.assert_close(pass_at_k_bonus(hits, k), expected, atol=1e-6, rtol=0)


def test_large_groups_stay_finite() -> None:
    bonus = pass_at_k_bonus(first_hits(1, 2000), 1000)
    assert bonus.isfinite().all()
    # Half of all subsets hold the one hit, so sigma is 1/2 and the hit receives 0.5 / 0.5.
    assert bonus[0, 0].item() == pytest.approx(1.0)


def slow_advantages(kind: str, rewards: list[float], hits: list[bool], k: int) -> list[float]:
    """The slow version of each kind, for one group of at least two."""
    size, mean = len(rewards), sum(rewards) / len(rewards)
    centred = [r - mean for r in rewards]
    deviation = math.sqrt(sum(c * c for c in centred) / (size - 1))
    z = [c / deviation if len(set(rewards)) > 1 else 0.0 for c in centred]
    if kind == "srpo":
        return [a + b for a, b in zip(z, enumerated_bonus(hits, k), strict=True)]
    others = [(sum(rewards) - r) / (size - 1) for r in rewards]
    left_out = [r - o for r, o in zip(rewards, others, strict=True)]
    return {"grpo": z, "dr_grpo": centred, "rloo": left_out}[kind]


@pytest.mark.parametrize("kind", ADVANTAGES)
@pytest.mark.parametrize(("num_generations", "k"), [(2, 4), (3, 2), (5, 4), (8, 3)])
def test_every_kind_equals_a_slow_loop(kind: str, num_generations: int, k: int) -> None:
    generator = torch.Generator().manual_seed(num_generations)
    hits = torch.rand(9, num_generations, generator=generator) < 0.3
    partial = torch.randint(0, 4, hits.shape, generator=generator) / 4
    rewards = torch.where(hits, 1.0, partial)
    rewards[0], hits[0] = 0.3, False  # no spread
    expected = [
        slow_advantages(kind, r, h, k) for r, h in zip(rewards.double().tolist(), hits.tolist(), strict=True)
    ]
    found = advantages_of(kind, rewards, hits, k)
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-6, rtol=0)
    assert found[0].tolist() == [0.0] * num_generations
    torch.testing.assert_close(found.sum(dim=1), torch.zeros(9), atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_what_is_undefined_is_zero_and_never_nan(kind: str) -> None:
    for size in (1, 2, 3):  # all of them fewer than k = 4
        groups = torch.full((2, size), 0.1)
        assert advantages_of(kind, groups, torch.ones(2, size), 4).tolist() == [[0.0] * size] * 2
    assert advantages_of(kind, torch.rand(3, 2), torch.zeros(3, 2), 4).isfinite().all()
    assert advantages_of(kind, torch.rand(3, 2), torch.zeros(3, 2), 4).dtype == torch.float32


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Unknown advantage 'ppo'; known ones: srpo, grpo, dr_grpo, rloo"):
        advantages_of("ppo", torch.ones(1, 2), torch.ones(1, 2), 1)


def test_centred_rewards_keep_the_scale_of_their_group() -> None:
    groups = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]])
    found = centred_advantages(groups)
    assert found.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.375, -0.125, -0.125, -0.125]]


def test_leave_one_out_compares_with_the_others() -> None:
    # 1 against the mean 0.25 of the others; 0.5 against 0.5; 0 against 0.75.
    assert leave_one_out_advantages(torch.tensor([[1.0, 0.5, 0.0]])).tolist() == [[0.75, 0.0, -0.75]]


NAN = math.nan


def test_levels_are_standardised_on_their_own_over_what_has_a_score() -> None:
    # P = 1, G = 4, L = 3. Level 0: 1, 3, 5 and one without; level 1: two of them; level 2: one alone.
    scores = torch.tensor([[[1.0, 7.0, 4.0], [3.0, NAN, NAN], [5.0, 9.0, NAN], [NAN, NAN, NAN]]])
    half = math.sqrt(0.5)  # of two, the unbiased deviation is 2 / sqrt(2)
    expected = [[-1.0, -half, 0.0], [0.0, 0.0, 0.0], [1.0, half, 0.0], [0.0, 0.0, 0.0]]
    found = process_advantages(scores)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_levels_without_spread_or_score_give_zero_exactly() -> None:
    scores = torch.full((2, 5, 3), 0.1)
    scores[1, :, 2] = NAN
    scores[0, 1:, 0] = NAN
    assert (process_advantages(scores) == 0).all()


def test_process_advantages_equal_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(6, 5, 4, generator=generator)
    scores[torch.rand(6, 5, 4, generator=generator) < 0.4] = NAN
    found = process_advantages(scores)
    for group in range(6):
        for level in range(4):
            column = scores[group, :, level]
            known = ~column.isnan()
            expected = torch.zeros(5)
            if known.sum() > 1:
                expected[known] = group_advantages(column[known][None])[0]
            torch.testing.assert_close(found[group, :, level], expected)


def test_the_process_is_added_at_the_tokens_of_its_levels() -> None:
    outcome = torch.tensor([1.0, -2.0, 3.0])
    process = torch.tensor([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])
    positions = torch.tensor([[1, 3], [2, 0], [-1, -1]])  # unordered codes may stand in any order
    found = over_tokens(outcome, process, positions, 4, weight=0.5)
    assert found.tolist() == [[1.0, 6.0, 1.0, 11.0], [18.0, -2.0, 13.0, -2.0], [3.0] * 4]


def test_without_a_process_every_token_has_the_outcome() -> None:
    found = over_tokens(torch.tensor([1.0, -2.0]), None, torch.zeros(2, 3, dtype=torch.long), 3)
    assert found.tolist() == [[1.0] * 3, [-2.0] * 3]
