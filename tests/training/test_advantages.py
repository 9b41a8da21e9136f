"""The advantage on the vectors of the reference dossier (4.3), and against an enumeration of all subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gream.training.advantages import bonus_calibrated_advantages, group_advantages, pass_at_k_bonus

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


def test_weight_scales_the_bonus_only() -> None:
    groups = torch.tensor([WORKED[0][0]])
    hits = groups == 1
    expected = group_advantages(groups) + 0.25 * pass_at_k_bonus(hits, 4)
    torch.testing.assert_close(bonus_calibrated_advantages(groups, hits, 4, weight=0.25), expected)


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
