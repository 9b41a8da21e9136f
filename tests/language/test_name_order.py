"""Answers of names whose codes have no order: which tokens move, and by what."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gream.data.store import Catalogue, Interactions
from gream.language.alignment import TASKS
from gream.language.curriculum import build_curriculum
from gream.language.name_order import COPIES, free_places, shuffle_answers
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace, reasoning_row
from gream.semantic_ids.layout import Names, SidLayout

TRACE = Trace(
    user=0, history=(1, 2, 3), target=7, evidence=(2, 3), kinds=("ink", "paper"), preference="office",
    intent="to print", recommendation="more ink", rewritten=(2, 3),
)  # fmt: skip


@pytest.fixture
def free(prompter: Prompter, names: Names) -> Prompter:
    """The toy prompter over the same codes, without an order."""
    return Prompter(
        prompter.tokenizer, Names(SidLayout((3, 4, 5), ordered=False), names.codes), max_history=5
    )


@pytest.fixture
def numbered(prompter: Prompter, names: Names) -> Prompter:
    """The same, with the last code as the disambiguation code."""
    layout = SidLayout((3, 4, 5), ordered=False, disambiguation=True)
    return Prompter(prompter.tokenizer, Names(layout, names.codes), max_history=5)


def rows_of(
    task: str, catalogue: Catalogue, interactions: Interactions, prompter: Prompter, order: str
) -> Any:
    traces = [replace(TRACE, user=user) for user in range(20)]
    return build_curriculum(
        {task: 1.0}, catalogue, interactions, prompter, traces=traces, name_order=order, seed=3
    ).rows


@pytest.mark.parametrize("task", ["next_item", "sequence", "title_to_name", "titles_to_names", "item_search"])
def test_every_name_of_an_answer_has_an_order_of_its_own(
    task: str, catalogue: Catalogue, interactions: Interactions, free: Prompter
) -> None:
    canonical = rows_of(task, catalogue, interactions, free, "canonical")
    shuffled = rows_of(task, catalogue, interactions, free, "random")
    levels: Counter[tuple[int, ...]] = Counter()
    in_row: set[int] = set()  # different orders inside one row
    for (prompt, answer), (same, moved) in zip(canonical, shuffled, strict=True):
        assert prompt == same
        assert moved[-1] == answer[-1] == free.end_of_turn and len(moved) == len(answer)
        orders = []
        for place in range(0, len(answer) - 1, 3):
            one, other = answer[place : place + 3], moved[place : place + 3]
            assert sorted(other) == one
            orders.append(tuple(one.index(token) for token in other))
        levels.update(orders)
        in_row.add(len(set(orders)))
    assert len(levels) == 6  # all orders come up, none by far most often
    assert max(levels.values()) < 0.5 * sum(levels.values())
    assert (max(in_row) > 1) == (task in ("sequence", "titles_to_names"))  # answers with several names


def _named(ids: list[int], prompter: Prompter) -> set[tuple[int, ...]]:
    """The names that begin with a code of the first codebook."""
    return {tuple(ids[place : place + 3]) for place, i in enumerate(ids) if i in prompter.level_block(0)}


@pytest.mark.parametrize("task", [*COPIES, "name_to_title", "names_to_titles"])
def test_copies_and_words_stay_as_they_are(
    task: str, catalogue: Catalogue, interactions: Interactions, free: Prompter
) -> None:
    rows = [rows_of(task, catalogue, interactions, free, order) for order in ("random", "canonical")]
    assert rows[0] == rows[1]


def test_a_task_whose_answer_repeats_names_of_its_prompt_is_a_copy(
    catalogue: Catalogue, interactions: Interactions, free: Prompter
) -> None:
    """All names of an answer stand in the prompt in codebook order, which no other task does throughout."""
    copying = set()
    for task in TASKS:
        rows = rows_of(task, catalogue, interactions, free, "canonical")
        named = [[_named(ids, free) for ids in row] for row in rows]
        if all(answer and answer <= prompt for prompt, answer in named):
            copying.add(task)
    assert copying == set(COPIES)


def test_ordered_names_stay_and_every_pass_draws_anew(
    catalogue: Catalogue, interactions: Interactions, free: Prompter, prompter: Prompter
) -> None:
    both = [rows_of("sequence", catalogue, interactions, prompter, o) for o in ("random", "canonical")]
    assert both[0] == both[1]
    plan = build_curriculum({"title_to_name": 2.0}, catalogue, interactions, free, seed=0)
    names = Counter(frozenset(answer) for _, answer in plan.rows)
    assert len({tuple(answer) for _, answer in plan.rows}) > 30  # of 48 answers, 24 names twice
    assert set(names.values()) == {2}
    again = build_curriculum({"title_to_name": 2.0}, catalogue, interactions, free, seed=0)
    assert plan.rows == again.rows


def test_a_disambiguation_code_always_comes_last(
    catalogue: Catalogue, interactions: Interactions, numbered: Prompter
) -> None:
    seen = set()
    for _, answer in rows_of("sequence", catalogue, interactions, numbered, "random"):
        for place in range(0, len(answer) - 1, 3):
            seen.add(tuple(int(np.searchsorted([3, 7], t - numbered.item_block.start, "right"))
                           for t in answer[place : place + 3]))  # fmt: skip
    assert seen == {(0, 1, 2), (1, 0, 2)}


def test_only_the_final_answer_of_a_chain_may_move(free: Prompter) -> None:
    row = reasoning_row(TRACE, free)
    start = row[1].index(free.answer_start) + 1
    assert free_places(row[1], free).tolist() == [[start, start + 1, start + 2]]
    orders = set()
    for seed in range(40):
        [(prompt, answer)] = shuffle_answers([row], free, np.random.default_rng(seed))
        assert (prompt, answer[:start], answer[start + 3 :]) == (row[0], row[1][:start], row[1][start + 3 :])
        orders.add(tuple(answer[start : start + 3]))
    assert len(orders) == 6
