"""Bits for the next item: by hand, against a slow version, and on planted habits."""

from __future__ import annotations

import numpy as np
import pytest

from gream.data.store import TRAIN, VALIDATION, Interactions
from gream.semantic_ids import predictability as predictability_module
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.predictability import predictability


def interactions_of(*sequences: list[int]) -> Interactions:
    """The last purchase of every user is for validation."""
    items = [np.array(sequence) for sequence in sequences]
    marks = [np.array([TRAIN] * (len(s) - 1) + [VALIDATION], np.int8) for s in sequences]
    return Interactions([str(user) for user in range(len(items))], items, marks)


def four() -> Names:
    return Names(SidLayout((2, 2)), np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32))


def test_without_training_every_code_is_as_likely_as_chance() -> None:
    found = predictability(four(), interactions_of([0, 3], [1, 2]))
    assert [(level["bits"], level["bits_without_last"]) for level in found] == [(1.0, 1.0), (1.0, 1.0)]
    assert found[0]["cases"] == 2


def test_nothing_to_test_on_gives_no_bits() -> None:
    assert predictability(four(), Interactions([], [], []))[0] == {
        "bits": 0,
        "bits_without_last": 0,
        "cases": 0,
    }


def test_a_habit_that_repeats_is_learnt() -> None:
    # Whoever buys item 0 buys item 3 next, whoever buys 1 buys 2, always and many times.
    rows = [[0, 3, 0, 3, 0, 3, 0], [1, 2, 1, 2, 1, 2, 1]] * 10
    found = predictability(four(), interactions_of(*[[*row, 3 if row[0] == 0 else 2] for row in rows]))
    assert sum(level["bits"] for level in found) < 0.1
    assert sum(level["bits_without_last"] for level in found) > 1.5


def test_what_never_repeats_is_not_believed() -> None:
    # Random purchases: the last item says nothing, and the bits stay near those without it.
    generator = np.random.default_rng(0)
    codes = np.stack(np.unravel_index(np.arange(60), (6, 10)), axis=1).astype(np.int32)
    names = Names(SidLayout((6, 10)), codes)
    rows = [generator.integers(60, size=12).tolist() for _ in range(200)]
    for level in predictability(names, interactions_of(*rows)):
        assert level["bits"] == pytest.approx(level["bits_without_last"], abs=0.1)
        assert level["bits"] < np.log2(10) + 0.1


def test_test_purchases_change_nothing() -> None:
    base = interactions_of([0, 3, 1, 2], [1, 2, 0, 3])
    longer = Interactions(
        base.user_ids,
        [np.append(items, last) for items, last in zip(base.sequences, (1, 0), strict=True)],
        [np.append(marks, np.int8(2)) for marks in base.splits],
    )
    assert predictability(four(), base) == predictability(four(), longer)


def test_the_code_of_the_last_item_at_the_same_level_is_used() -> None:
    # The second code repeats, all others are random; no item comes often enough to be known by itself.
    generator = np.random.default_rng(3)
    codes = np.stack(np.unravel_index(np.arange(1600), (2, 2, 400)), axis=1).astype(np.int32)
    middle = [np.flatnonzero(codes[:, 1] == code) for code in (0, 1)]
    rows = [generator.choice(middle[user % 2], size=4).tolist() for user in range(200)]
    found = predictability(Names(SidLayout((2, 2, 400)), codes), interactions_of(*rows))
    assert found[1]["bits"] < 0.3
    assert found[1]["bits_without_last"] > 0.9


def test_too_many_transitions_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictability_module, "MAX_TRANSITIONS", 4)
    rows = [[0, user, 0] for user in range(10)]
    found = predictability_module._transitions(interactions_of(*rows))
    assert found == [(0, 0), (0, 3), (0, 6), (0, 9)]
