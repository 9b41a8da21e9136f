"""The global temporal split: what is learnt from comes before what is asked, for everybody at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.split import count_parts, leave_one_out, temporal
from gream.data.store import TEST, TRAIN, VALIDATION
from gream.errors import InputError


def test_leave_one_out_marks_the_last_two_of_every_user() -> None:
    assert leave_one_out(np.array([0, 0, 0, 1, 1, 1, 1])).tolist() == [0, 1, 2, 0, 0, 1, 2]


def test_few_users_may_validate_and_the_others_purchases_are_learnt_from() -> None:
    user = np.repeat(np.arange(20), 3)
    drawn = [leave_one_out(user, 4, seed=seed).reshape(20, 3) for seed in (0, 0, 1)]
    for marks in drawn:
        assert (marks[:, 0] == TRAIN).all() and (marks[:, 2] == TEST).all()
        assert (marks[:, 1] == VALIDATION).sum() == 4 and (marks[:, 1] == TRAIN).sum() == 16
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for users in (20, 21, 0):
        assert (leave_one_out(user, users) == leave_one_out(user)).all()


def test_ten_purchases_are_parted_eight_to_one_to_one() -> None:
    time = np.array([9, 3, 1, 10, 2, 8, 4, 7, 5, 6])
    assert temporal(time).tolist() == [VALIDATION, 0, 0, TEST, 0, 0, 0, 0, 0, 0]


def test_purchases_of_the_same_time_stay_together_in_the_later_part() -> None:
    # The 80 % quantile is the ninth of ten times, 8; all three purchases at 8 are validation.
    time = np.array([1, 2, 3, 4, 5, 6, 8, 8, 8, 9])
    assert temporal(time).tolist() == [TRAIN] * 6 + [VALIDATION] * 3 + [TEST]


@pytest.mark.parametrize("time", [[], [1], [5, 5, 5, 5], [1, 2], [1] * 5 + [2] * 5, [*range(8), 9, 9]])
def test_times_that_leave_a_part_empty_are_refused(time: list[int]) -> None:
    with pytest.raises(InputError, match=r"purchases at [\d,]+ different times cannot be parted 8:1:1"):
        temporal(np.array(time, dtype=np.int64))


@settings(deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=3, max_size=60))
def test_parts_never_overlap_in_time(times: list[int]) -> None:
    time = np.array(times)
    try:
        marks = temporal(time)
    except InputError:
        return
    train, validation, test = (time[marks == part] for part in (TRAIN, VALIDATION, TEST))
    assert train.max() < validation.min() and validation.max() < test.min()
    # Quantiles cut no earlier than 8:1:1 says, but for the purchases that share the time of the cut.
    assert len(train) <= 0.8 * len(time) < len(train) + (time == validation.min()).sum()
    assert (
        len(train) + len(validation) <= 0.9 * len(time) < len(time) - len(test) + (time == test.min()).sum()
    )


def test_purchases_that_nothing_came_before_are_counted() -> None:
    user = np.array([0, 0, 1, 2, 2, 3])
    marks = np.array([TRAIN, TEST, TEST, VALIDATION, TEST, TRAIN])
    assert count_parts(user, marks) == {
        "training_purchases": 2,
        "validation_purchases": 1,
        "test_purchases": 3,
        "validation_purchases_without_history": 1,
        "test_purchases_without_history": 1,
    }
