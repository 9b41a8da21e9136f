"""Which rows a training stage sees, how often, and in which order.

The recipe gives the number of passes over each task. A whole number of passes sees every row that often;
a fraction draws that share without replacement. Every pass of `next_item` cuts the histories anew. The
rows of one epoch are shuffled by seed. GREAM's rising share of reasoning is not built yet: the order here
is uniform.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.language.alignment import TASKS, Row, task_rows
from gream.language.name_order import COPIES, shuffle_answers
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace, reasoning_row

REASONING = "reasoning"
_BATCHES_IN_A_WINDOW = 50


@dataclass(frozen=True)
class Curriculum:
    """Rows in training order, and how many each task gave."""

    rows: list[Row]
    counts: dict[str, int]


def build_curriculum(
    passes: Mapping[str, float],
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
    *,
    traces: Sequence[Trace] = (),
    name_order: str = "random",
    seed: int = 0,
) -> Curriculum:
    """Make and shuffle the rows of all tasks.

    Args:
        catalogue: gives the titles.
        interactions: gives the purchases; only the training part is used.
        prompter: writes prompts and answers as token ids.
        seed: seed of places, draws and order.
        passes: task to number of passes; tasks are those of `alignment.TASKS` and `reasoning`.
        traces: what the `reasoning` task teaches.
        name_order: "canonical" spells the names of all answers in codebook order; else those of names
            without an order are spelled at random, anew in every pass (see `gream.language.name_order`).

    Raises:
        InputError: an unknown task, a negative number, `reasoning` without traces, or no row at all.
    """
    known = [*TASKS, REASONING]
    for task, number in passes.items():
        if task not in known:
            raise InputError(f"Unknown task {task!r} in `tasks`; known tasks: {', '.join(known)}.")
        if number < 0:
            raise InputError(f"Task {task!r} has {number} passes; give a number of at least 0.")
    if passes.get(REASONING, 0) > 0 and not traces:
        raise InputError("Task 'reasoning' needs traces; give the folder of `gream synthesize` as `traces`.")
    rng = np.random.default_rng(seed)
    order_rng = np.random.default_rng([seed, 1])  # of its own: the rows are the same in every order of names
    rows: list[Row] = []
    counts: dict[str, int] = {}
    for task, number in passes.items():
        made = _passes(task, number, catalogue, interactions, prompter, traces, rng)
        if name_order != "canonical" and task not in COPIES:
            made = shuffle_answers(made, prompter, order_rng)
        counts[task] = len(made)
        rows += made
    if not rows:
        raise InputError("The tasks give no training row at all; raise their number of passes in `tasks`.")
    order = rng.permutation(len(rows))
    return Curriculum([rows[i] for i in order], counts)


def group_by_length(rows: Sequence[Row], batch_size: int, *, seed: int) -> list[Row]:
    """Reorder rows so that each batch of `batch_size` consecutive rows has like lengths.

    Within windows of fifty batches rows are sorted by length and cut into batches, and the batches are
    shuffled. The library's own sampler leaves them sorted: since a task's rows have like lengths, that trains
    one task after the other in every window, and each forgets the one before.
    """
    rng = np.random.default_rng(seed)
    window = _BATCHES_IN_A_WINDOW * batch_size
    ordered: list[Row] = []
    for start in range(0, len(rows), window):
        by_length = sorted(rows[start : start + window], key=lambda row: len(row[0]) + len(row[1]))
        whole = len(by_length) // batch_size
        for batch in rng.permutation(whole):
            ordered += by_length[batch * batch_size : (batch + 1) * batch_size]
        ordered += by_length[whole * batch_size :]  # a last batch that is not full stays last
    return ordered


def _passes(
    task: str,
    number: float,
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
    traces: Sequence[Trace],
    rng: np.random.Generator,
) -> list[Row]:
    rows: list[Row] = []
    while number > 0:
        if task == REASONING:
            once: Sequence[Row] = [reasoning_row(trace, prompter) for trace in traces]
        else:
            once = task_rows(task, catalogue, interactions, prompter, rng)
        if number < 1:
            chosen = rng.choice(len(once), size=round(number * len(once)), replace=False)
            once = [once[i] for i in sorted(chosen)]
        rows += once
        number -= 1
    return rows
