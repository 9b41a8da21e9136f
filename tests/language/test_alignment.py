"""Training rows: what they ask, what they answer, and that nothing held out is in them."""

from __future__ import annotations

import numpy as np
import pytest

from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions
from gream.errors import InputError
from gream.language.alignment import (
    TASKS,
    name_to_title_rows,
    next_item_rows,
    repeat_history_rows,
    sequence_rows,
    title_to_name_rows,
)
from gream.language.curriculum import build_curriculum, group_by_length
from gream.language.prompting import Prompter


def _interactions(sequences: list[list[int]]) -> Interactions:
    arrays = [np.asarray(s, dtype=np.int64) for s in sequences]
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions(user_ids=[str(u) for u in range(len(sequences))], sequences=arrays, splits=splits)


def _names(ids: list[int], prompter: Prompter) -> list[tuple[int, ...]]:
    tokens = [i for i in ids if i in prompter.item_block]
    return [tuple(tokens[i : i + 3]) for i in range(0, len(tokens), 3)]


def test_next_item_row_is_a_direct_prompt_and_one_name(prompter: Prompter) -> None:
    rows = next_item_rows(_interactions([[4, 9, 1, 2]]), prompter, np.random.default_rng(0))
    assert rows == [(prompter.direct([4]), [*prompter.name_ids(9), prompter.end_of_turn])]


def test_sequence_row_answers_with_the_training_part(prompter: Prompter) -> None:
    [(question, answer)] = sequence_rows(_interactions([[4, 9, 7, 1, 2]]), prompter)
    assert _names(question, prompter) == []
    assert _names(answer, prompter) == [tuple(prompter.name_ids(i)) for i in (4, 9, 7)]
    assert answer[-1] == prompter.end_of_turn


def test_long_sequence_is_cut_into_pieces_that_share_one_purchase(prompter: Prompter) -> None:
    rows = sequence_rows(_interactions([[*range(12), 20, 21]]), prompter)  # prompts show five
    pieces = [[p for p in _names(answer, prompter)] for _, answer in rows]
    spelled = [
        [tuple(prompter.name_ids(i)) for i in piece]
        for piece in ([0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10], [10, 11])
    ]
    assert pieces == spelled


def test_a_repeated_history_is_the_newest_training_purchases_it_was_shown(prompter: Prompter) -> None:
    rows = repeat_history_rows(_interactions([[*range(9), 20, 21]] * 30), prompter, np.random.default_rng(0))
    shown = {tuple(_names(question, prompter)) for question, _ in rows}
    assert all(_names(question, prompter) == _names(answer, prompter) for question, answer in rows)
    spelled = [tuple(prompter.name_ids(i)) for i in range(9)]
    assert shown == {tuple(spelled[max(0, n - 5) : n]) for n in range(1, 10)}


def test_titles_and_names_answer_each_other(prompter: Prompter, catalogue: Catalogue) -> None:
    forth = title_to_name_rows(catalogue, prompter)
    back = name_to_title_rows(catalogue, prompter)
    assert len(forth) == len(back) == len(catalogue)
    assert _names(forth[6][1], prompter) == [tuple(prompter.name_ids(6))] == _names(back[6][0], prompter)
    assert prompter.tokenizer.decode(back[6][1][:-1]) == catalogue.titles[6]


@pytest.mark.parametrize("task", sorted(TASKS))
def test_no_row_holds_a_validation_or_test_purchase(
    task: str, catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    """Every user's held-out purchases are replaced by others: the rows must not change."""
    swapped = Interactions(
        user_ids=interactions.user_ids,
        sequences=[np.concatenate([s[:-2], 23 - s[-2:]]) for s in interactions.sequences],
        splits=interactions.splits,
    )
    rows = [TASKS[task](catalogue, i, prompter, np.random.default_rng(1)) for i in (interactions, swapped)]
    assert rows[0] == rows[1]


def test_curriculum_counts_passes_and_fractions(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    plan = build_curriculum({"title_to_name": 2, "sequence": 0.4}, catalogue, interactions, prompter, seed=1)
    assert plan.counts == {"title_to_name": 48, "sequence": 7}
    assert len(plan.rows) == 55


def test_same_seed_gives_the_same_plan_and_another_seed_another(
    catalogue: Catalogue, interactions: Interactions, prompter: Prompter
) -> None:
    tasks = {"next_item": 1.0, "sequence": 1.0}
    one, two, other = (
        build_curriculum(tasks, catalogue, interactions, prompter, seed=s).rows for s in (1, 1, 2)
    )
    assert one == two != other


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"next_itm": 1.0}, "Unknown task 'next_itm'"),
        ({"sequence": -1.0}, "has -1.0 passes"),
        ({"reasoning": 1.0}, "needs traces"),
        ({"sequence": 0.0}, "no training row at all"),
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


def test_batches_have_like_lengths_and_every_row_is_kept_once() -> None:
    """Rows of 1 to 90 tokens, each once, in batches of 8; the last has 2 rows."""
    rng = np.random.default_rng(0)
    rows = [([0] * int(n), [1]) for n in rng.permutation(90)]
    ordered = group_by_length(rows, 8, seed=1)
    lengths = [len(prompt) for prompt, _ in ordered]
    assert sorted(lengths) == list(range(90))
    batches = [lengths[i : i + 8] for i in range(0, 90, 8)]
    assert all(max(b) - min(b) == len(b) - 1 for b in batches)
    assert [min(b) for b in batches] != sorted(min(b) for b in batches)
    assert len(batches[-1]) == 2
