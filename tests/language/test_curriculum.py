"""The plan of a training stage: exact, seeded, in the order of its schedule, and the same again."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.language.alignment import NEED_TRACES
from gream.language.curriculum import Curriculum, build_curriculum, digest, group_by_length, training_plan
from gream.language.prompting import Prompter
from tests.language.test_reasoning import TRACE

MIXED = {"next_item": 20.0, "title_to_name": 10.0, "reasoning_1": 1.0, "reasoning_5": 3.0}


@pytest.fixture
def plan(catalogue: Catalogue, interactions: Interactions, prompter: Prompter) -> Curriculum:
    """Two epochs that rise: 1,440 rows of four tasks; the second epoch is uniform."""
    return training_plan(
        MIXED, catalogue, interactions, prompter, epochs=2, traces=[TRACE] * 50, schedule="rising", seed=1
    )


def test_passes_and_fractions_are_counted(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    """24 items, 18 pieces of sequences, 20 traces and 15 users, all with two training purchases or more."""
    tasks = {"title_to_name": 2.5, "sequence": 0.4, "reasoning_2": 0.3, "next_item": 0.2}
    plan = build_curriculum(tasks, catalogue, interactions, prompter, traces=[TRACE] * 20, seed=1)
    numbers = {"title_to_name": 60, "sequence": 7, "reasoning_2": 6, "next_item": 3}
    assert plan.counts == numbers == Counter(plan.tasks)
    assert len(plan.rows) == 76


def test_a_fraction_draws_rows_without_replacement(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    plan = build_curriculum({"name_to_title": 0.75}, catalogue, interactions, prompter)
    answers = Counter(tuple(answer) for _, answer in plan.rows)
    assert len(answers) == 18 and set(answers.values()) == {1}
    every, some = (
        build_curriculum({"names_to_titles": share}, catalogue, interactions, prompter)
        for share in (1.0, 0.6)
    )
    assert len(some.rows) == 9
    firsts = [Counter(tuple(answer[:4]) for _, answer in plan.rows) for plan in (every, some)]
    assert not firsts[1] - firsts[0]  # a history begins with its user's first purchase: no user comes twice


def test_every_row_stands_with_its_task(plan: Curriculum, prompter: Prompter) -> None:
    for (prompt, answer), task in zip(plan.rows, plan.tasks, strict=True):
        text = prompter.tokenizer.decode(prompt)
        assert text.endswith("<think>\n") == task.startswith("reasoning")
        assert (prompter.answer_start in answer) == (task == "reasoning_5")
        assert bool(set(prompt) & set(prompter.item_block)) == (task != "title_to_name")


def test_the_same_seed_gives_the_same_plan_and_another_seed_another(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    tasks = {"next_item": 1.0, "sequence": 1.0}
    one, two, other = (
        build_curriculum(tasks, catalogue, interactions, prompter, seed=s).rows for s in (1, 1, 2)
    )
    assert one == two != other
    assert digest(one) == digest(two) != digest(other)


def test_every_epoch_makes_its_rows_anew(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    both = training_plan({"next_item": 1.0}, catalogue, interactions, prompter, epochs=2, seed=5)
    single = [
        build_curriculum({"next_item": 1.0}, catalogue, interactions, prompter, seed=s).rows for s in (5, 6)
    ]
    assert both.rows == single[0] + single[1] and single[0] != single[1]
    assert both.counts == {"next_item": 30}


def test_the_digest_knows_every_token_every_border_and_the_order() -> None:
    rows = [([1, 2], [3]), ([4], [5, 6])]
    changed = [
        [([1, 2], [3]), ([4], [5, 7])],
        [([1], [2, 3]), ([4], [5, 6])],
        [([1, 2], [3, 4]), ([], [5, 6])],
        rows[::-1],
        rows[:1],
    ]
    assert len({digest(other) for other in [rows, *changed]}) == 6
    assert digest([([1, 2], [3]), ([4], [5, 6])]) == digest(rows)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"next_itm": 1.0}, "Unknown task 'next_itm'"),
        ({"reasoning": 1.0}, "known tasks: sequence, next_item, .*reasoning_5"),
        ({"sequence": -1.0}, "has -1.0 passes"),
        ({"sequence": float("nan")}, "has nan passes"),
        ({"sequence": 0.0}, "no training row at all"),
        *(({task: 1.0}, f"'{task}' needs traces") for task in sorted(NEED_TRACES)),
    ],
)
def test_wrong_tasks_are_refused(
    tasks: dict[str, float],
    message: str,
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
) -> None:
    with pytest.raises(InputError, match=message):
        build_curriculum(tasks, catalogue, interactions, prompter)


def test_a_schedule_that_nothing_fits_is_refused(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    with pytest.raises(InputError, match="none of the tasks that rise"):
        training_plan({"sequence": 1.0}, catalogue, interactions, prompter, epochs=2, schedule="rising")


def test_batches_have_like_lengths_and_every_row_is_kept_once() -> None:
    """Rows of 1 to 90 tokens in batches of 8, every two of which share 16 lengths; 2 rows are left."""
    rng = np.random.default_rng(0)
    order = rng.permutation(90).tolist()
    plan = Curriculum([([0] * n, [1]) for n in order], [str(n) for n in order], {})
    grouped = group_by_length(plan, 8)
    lengths = [len(prompt) for prompt, _ in grouped.rows]
    assert sorted(lengths) == list(range(90)) and grouped.tasks == [str(n) for n in lengths]
    batches = [lengths[i : i + 8] for i in range(0, 88, 8)]
    assert all(max(batch) // 16 == min(batch) // 16 for batch in batches)
    assert lengths[88:] == [88, 89]
    places = [np.mean([order.index(n) for n in batch]) for batch in batches]
    assert places == sorted(places) and [min(b) for b in batches] != sorted(min(b) for b in batches)


def test_putting_like_lengths_together_keeps_the_schedule(plan: Curriculum) -> None:
    """A window of fifty batches is less than a tenth; a share may wander by a few batches of 2 rows."""
    grouped = group_by_length(plan, 2)
    assert sorted(map(str, grouped.rows)) == sorted(map(str, plan.rows)) and grouped.counts == plan.counts
    for task, planned in plan.parts(10).items():
        assert np.abs(np.subtract(planned, grouped.parts(10)[task])).max() <= 8
    first, second = (np.asarray(plan.parts(10)["reasoning_5"][half]) for half in (slice(5), slice(5, 10)))
    assert first[0] < 10 and first[4] > 50 and abs(second - 30).max() <= 3
