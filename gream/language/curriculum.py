"""Which rows a training stage sees, how often, and in which order: a plan that is exact and seeded.

The recipe gives the number of passes over each task. A whole number of passes sees every row that often;
a fraction draws that share of the task's users, traces or items without replacement. Every pass draws
phrasings and cuts of histories anew. The recipe's schedule places the rows of every epoch (see
`gream.language.schedule`); which row of a task comes first is random.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.language.alignment import NEED_TRACES, ONE_A_USER, REASONING, TASKS
from gream.language.name_order import COPIES, shuffle_answers
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace
from gream.language.rows import Row, Source
from gream.language.schedule import arrange, check_schedule, schedule_of_epoch

LATE = frozenset(REASONING)  # tasks that the schedule `rising` lets come late
_BATCHES_IN_A_WINDOW = 50
_BATCHES_ALIKE = 2


@dataclass(frozen=True)
class Curriculum:
    """Rows in training order, the task of each, and how many rows each task gave, in the recipe's order."""

    rows: list[Row]
    tasks: list[str]
    counts: dict[str, int]

    def parts(self, number: int) -> dict[str, list[int]]:
        """Rows of each task in each of `number` equal parts of the order."""
        found = {task: [0] * number for task in self.counts}
        for place, task in enumerate(self.tasks):
            found[task][place * number // len(self.tasks)] += 1
        return found


def training_plan(
    passes: Mapping[str, float],
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
    *,
    epochs: int,
    traces: Sequence[Trace] = (),
    schedule: str = "uniform",
    name_order: str = "random",
    seed: int = 0,
) -> Curriculum:
    """Make the rows of all epochs, one epoch after the other, each in the order of the schedule.

    Args:
        passes: task to number of passes in one epoch; tasks are those of `alignment.TASKS`.
        catalogue: gives titles and descriptions.
        interactions: gives the purchases; only the training part is used.
        prompter: writes prompts and answers as token ids.
        epochs: number of times that rows are made anew.
        traces: what the tasks about preference and reasoning teach.
        schedule: one of `schedule.SCHEDULES`, for every epoch.
        name_order: how answers spell names without an order.
        seed: seed of the first epoch; the next one has the next seed.

    Raises:
        InputError: as `build_curriculum`.
    """
    made = [
        build_curriculum(
            passes,
            catalogue,
            interactions,
            prompter,
            traces=traces,
            schedule=schedule_of_epoch(schedule, epoch, epochs),
            name_order=name_order,
            seed=seed + epoch,
        )
        for epoch in range(epochs)
    ]
    counts = {task: sum(plan.counts[task] for plan in made) for task in passes}
    return Curriculum(
        [r for plan in made for r in plan.rows], [t for plan in made for t in plan.tasks], counts
    )


def build_curriculum(
    passes: Mapping[str, float],
    catalogue: Catalogue,
    interactions: Interactions,
    prompter: Prompter,
    *,
    traces: Sequence[Trace] = (),
    schedule: str = "uniform",
    name_order: str = "random",
    seed: int = 0,
) -> Curriculum:
    """Make the rows of all tasks for one epoch and put them in the order of the schedule.

    Args:
        passes: task to number of passes; tasks are those of `alignment.TASKS`.
        catalogue: gives titles and descriptions.
        interactions: gives the purchases; only the training part is used.
        prompter: writes prompts and answers as token ids.
        traces: what the tasks about preference and reasoning teach.
        schedule: one of `schedule.SCHEDULES`.
        name_order: "canonical" spells the names of all answers in codebook order; else those of names
            without an order are spelled at random, anew in every pass (see `gream.language.name_order`).
        seed: seed of phrasings, places, draws and order.

    Raises:
        InputError: an unknown task or schedule, a negative number, a task that needs traces without any, or
            no row at all.
    """
    _check(passes, schedule, traces)
    source = Source(catalogue, interactions, prompter, traces)
    rng = np.random.default_rng(seed)
    order_rng = np.random.default_rng([seed, 1])  # of its own: the rows are the same in every order of names
    made: dict[str, list[Row]] = {}
    for task, number in passes.items():
        made[task] = _passes(task, number, source, rng)
        if name_order != "canonical" and task not in COPIES:
            made[task] = shuffle_answers(made[task], prompter, order_rng)
    counts = {task: len(rows) for task, rows in made.items()}
    if not any(counts.values()):
        raise InputError("The tasks give no training row at all; raise their number of passes in `tasks`.")
    waiting = {task: iter([rows[i] for i in rng.permutation(len(rows))]) for task, rows in made.items()}
    order = arrange(counts, schedule, LATE, rng)
    return Curriculum([next(waiting[task]) for task in order], order, counts)


def group_by_length(plan: Curriculum, batch_size: int) -> Curriculum:
    """Reorder a plan so that each batch of `batch_size` consecutive rows has like lengths.

    Within windows of fifty batches rows are sorted by length; every two batches of like length are parted
    into earlier and later rows, and all batches of the window come in the order of their rows' mean places.
    So a row stays near where the schedule put it, and tasks whose rows have like lengths alternate: the
    library's own sampler leaves the batches sorted by length, which trains one task after the other in every
    window, and each forgets the one before. Parting batches costs 1 % of padding on the demo's rows and
    more than halves how far the share of a task wanders from the schedule's.
    """
    window, like = _BATCHES_IN_A_WINDOW * batch_size, _BATCHES_ALIKE * batch_size
    lengths = [len(prompt) + len(answer) for prompt, answer in plan.rows]
    order: list[int] = []
    for start in range(0, len(lengths), window):
        by_length = sorted(range(start, min(start + window, len(lengths))), key=lambda i: lengths[i])
        whole = len(by_length) // batch_size * batch_size
        alike = [sorted(by_length[i : min(i + like, whole)]) for i in range(0, whole, like)]
        batches = [group[i : i + batch_size] for group in alike for i in range(0, len(group), batch_size)]
        batches.sort(key=sum)  # the mean place; all have as many rows
        order += [i for batch in batches for i in batch]
        order += by_length[whole:]  # a last batch that is not full stays last
    return Curriculum([plan.rows[i] for i in order], [plan.tasks[i] for i in order], plan.counts)


def digest(rows: Sequence[Row]) -> str:
    """Fingerprint of rows in their order: equal for equal rows in the same order, and for no others."""
    found = hashlib.sha256()
    for part in (part for row in rows for part in row):
        found.update(np.asarray([len(part), *part], dtype=np.int64).tobytes())
    return found.hexdigest()


def _check(passes: Mapping[str, float], schedule: str, traces: Sequence[Trace]) -> None:
    for task, number in passes.items():
        if task not in TASKS:
            raise InputError(f"Unknown task {task!r} in `tasks`; known tasks: {', '.join(TASKS)}.")
        if not 0 <= number < float("inf"):
            raise InputError(f"Task {task!r} has {number} passes; give a number of at least 0.")
        if number > 0 and task in NEED_TRACES and not traces:
            raise InputError(
                f"Task {task!r} needs traces; give the folder of `gream synthesize` as `traces`."
            )
    check_schedule(schedule, passes, LATE)


def _passes(task: str, number: float, source: Source, rng: np.random.Generator) -> list[Row]:
    whole = int(number)
    rows = [row for _ in range(whole) for row in TASKS[task](source, rng)]
    share = number - whole
    if not share:
        return rows
    # Where each trace or user gives a row, drawing those saves making the rows of all others.
    if task in NEED_TRACES:
        drawn = [source.traces[i] for i in _draw(len(source.traces), share, rng)]
        return rows + TASKS[task](replace(source, traces=drawn), rng)
    if task in ONE_A_USER:
        return rows + TASKS[task](replace(source, interactions=_some_users(source, share, rng)), rng)
    once = TASKS[task](source, rng)
    return rows + [once[i] for i in _draw(len(once), share, rng)]


def _some_users(source: Source, share: float, rng: np.random.Generator) -> Interactions:
    everyone = source.interactions
    users = _draw(len(everyone.sequences), share, rng)
    return Interactions(
        [everyone.user_ids[user] for user in users],
        [everyone.sequences[user] for user in users],
        [everyone.splits[user] for user in users],
    )


def _draw(number: int, share: float, rng: np.random.Generator) -> list[int]:
    """A share of the places up to `number`, without replacement, rising."""
    drawn: list[int] = sorted(rng.choice(number, size=round(share * number), replace=False).tolist())
    return drawn
