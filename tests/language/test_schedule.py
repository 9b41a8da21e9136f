"""Schedules: how many rows of a task come when."""

from __future__ import annotations

import numpy as np
import pytest

from gream.errors import InputError
from gream.language.schedule import SCHEDULES, arrange, check_schedule, quantiles, schedule_of_epoch, times_of

LATE = frozenset({"reasoning"})
COUNTS = {"names": 300, "reasoning": 500, "titles": 700}


def arranged(schedule: str, counts: dict[str, int] = COUNTS, seed: int = 0) -> np.ndarray:
    return np.asarray(arrange(counts, schedule, LATE, np.random.default_rng(seed)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_task_has_exactly_its_rows(schedule: str) -> None:
    order = arranged(schedule, COUNTS | {"nothing": 0})
    assert {task: int((order == task).sum()) for task in COUNTS} == COUNTS and len(order) == 1500


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_same_seed_gives_the_same_order_and_another_seed_another(schedule: str) -> None:
    one, two, other = (arranged(schedule, seed=seed) for seed in (1, 1, 2))
    assert (one == two).all()
    assert (one != other).any() or schedule == "staged"


def test_uniform_rows_are_in_every_part_in_the_same_share() -> None:
    """A tenth has 150 rows: 30, 50 and 70; rows may cross a border of their own part, one of each task."""
    for part in np.split(arranged("uniform"), 10):
        assert all(abs(int((part == task).sum()) - COUNTS[task] / 10) <= 2 for task in COUNTS)


def test_staged_tasks_come_one_after_the_other_as_the_recipe_lists_them() -> None:
    wanted = ["names"] * 300 + ["reasoning"] * 500 + ["titles"] * 700
    assert arranged("staged").tolist() == wanted
    turned = {"titles": 2, "names": 1}
    assert arranged("staged", turned).tolist() == ["titles", "titles", "names"]


def test_rising_reasoning_follows_greams_rate_and_leaves_its_tail() -> None:
    """GREAM walks over N blocks of alignment and inserts 1.5 i / N of what is left, over N, before each.

    The walk is done here, in expectation, row by row; the counts before each place must agree.
    """
    order = arranged("rising")
    alignment = int((order != "reasoning").sum())
    left, inserted = 500.0, []
    for i in range(alignment):
        left -= 1.5 * (i / alignment) * left / alignment
        inserted.append(500 - left)
    seen = np.cumsum(order == "reasoning")[order != "reasoning"]  # before each row of alignment
    assert np.abs(seen - inserted).max() < 2.5
    tail = len(order) - 1 - int(np.flatnonzero(order != "reasoning")[-1])
    assert tail == pytest.approx(500 * np.exp(-0.75), abs=2)
    quarters = np.diff([0, *seen[249::250]]) / 500
    assert quarters == pytest.approx([0.046, 0.126, 0.173, 0.184], abs=0.01)  # of a simulation of the walk


def test_the_times_of_a_rising_task_invert_its_rate() -> None:
    """The derivative of the share seen, by differences, against 1.5 x exp(-0.75 x^2)."""
    q = np.linspace(0.001, 0.52, 2000)
    x = times_of(q, "rising", place=1, late=True)
    rate = np.diff(q) / np.diff(x)
    middle = (x[1:] + x[:-1]) / 2
    np.testing.assert_allclose(rate, 1.5 * middle * np.exp(-0.75 * middle**2), rtol=1e-4)
    assert (np.diff(times_of(np.linspace(0, 0.999, 999), "rising", place=0, late=True)) > 0).all()


def test_there_is_one_quantile_in_every_equal_part() -> None:
    assert np.floor(quantiles(7, np.random.default_rng(0)) * 7).tolist() == list(range(7))
    assert len(quantiles(0, np.random.default_rng(0))) == 0


def test_the_last_of_several_epochs_that_rise_is_uniform() -> None:
    assert [schedule_of_epoch("rising", epoch, 3) for epoch in range(3)] == ["rising", "rising", "uniform"]
    assert schedule_of_epoch("rising", 0, 1) == "rising"
    assert {schedule_of_epoch("staged", epoch, 3) for epoch in range(3)} == {"staged"}


def test_an_unknown_schedule_and_one_without_anything_to_rise_are_refused() -> None:
    with pytest.raises(InputError, match="'falling'; give one of uniform, staged, rising"):
        check_schedule("falling", {"names": 1.0}, LATE)
    with pytest.raises(InputError, match=r"none of the tasks that rise \(reasoning\)"):
        check_schedule("rising", {"names": 1.0, "reasoning": 0.0}, LATE)
    check_schedule("rising", {"names": 1.0, "reasoning": 0.1}, LATE)
