"""When the rows of each task come: the share of a task as a function of the progress of an epoch.

A schedule gives each task a clock: the time at which the share q of its rows has been seen. Merging all rows
by their times is the training order, so the numbers of rows stay those of the recipe, exactly, and the
share of a task at a time is its rate there against the rates of all. Row i of n stands at a random place of
the i-th of n equal parts of its clock, so that no part of the order has more or fewer than its share, and
ties between tasks break by seed.

- `uniform`: all tasks at the same rate from beginning to end.
- `staged`: one task after the other, in the order of the recipe.
- `rising`: GREAM's (arXiv 2510.20815, reference implementation of the mixing). With x the progress of the
  alignment tasks, the rate of the reasoning tasks is 1.5 x exp(-0.75 x^2) of their rows, which leaves
  exp(-0.75), or 47 %, for after the last row of alignment. There each epoch of several is one of GREAM's
  parts, of which the last is uniform; see `schedule_of_epoch`. Ours places single rows, not blocks of eight.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gream.errors import InputError

SCHEDULES = ("uniform", "staged", "rising")
_RISE = 0.75  # half of 1.5, the rate's slope at the beginning


def check_schedule(schedule: str, tasks: Mapping[str, float], late: frozenset[str]) -> None:
    """Refuse a schedule that is unknown, or that rises where there is nothing to rise.

    Args:
        schedule: one of `SCHEDULES`.
        tasks: the recipe's passes over each task.
        late: the tasks that `rising` lets come late.

    Raises:
        InputError: it is.
    """
    if schedule not in SCHEDULES:
        raise InputError(f"`schedule` is {schedule!r}; give one of {', '.join(SCHEDULES)}.")
    if schedule == "rising" and not any(tasks.get(task, 0) > 0 for task in late):
        raise InputError(
            "`schedule` is 'rising', but `tasks` has none of the tasks that rise "
            f"({', '.join(sorted(late))}); add one, or choose 'uniform'."
        )


def schedule_of_epoch(schedule: str, epoch: int, epochs: int) -> str:
    """The schedule of one epoch, counted from 0: the last of several epochs that rise is uniform."""
    return "uniform" if schedule == "rising" and 0 < epoch == epochs - 1 else schedule


def arrange(
    counts: Mapping[str, int], schedule: str, late: frozenset[str], rng: np.random.Generator
) -> list[str]:
    """The task of every place of an epoch, each task as often as it has rows.

    Args:
        counts: rows of each task, in the recipe's order.
        schedule: one of `SCHEDULES`.
        late: the tasks that `rising` lets come late.
        rng: draws the places within a task's parts.
    """
    tasks = [task for task, number in counts.items() for _ in range(number)]
    times = [
        times_of(quantiles(number, rng), schedule, place=place, late=task in late)
        for place, (task, number) in enumerate(counts.items())
    ]
    return [tasks[i] for i in np.argsort(np.concatenate(times), kind="stable")]


def quantiles(number: int, rng: np.random.Generator) -> np.ndarray:
    """One random quantile in each of `number` equal parts of [0, 1): (number,), rising."""
    return (np.arange(number) + rng.random(number)) / max(number, 1)  # guard: a task without rows


def times_of(q: np.ndarray, schedule: str, *, place: int, late: bool) -> np.ndarray:
    """The times at which a task has been seen up to the quantiles q; [0, 1] is the alignment's progress.

    Args:
        q: quantiles of the task's rows, in [0, 1).
        schedule: one of `SCHEDULES`.
        place: the task's place in the recipe; for `staged`.
        late: whether the task rises; for `rising`.
    """
    if schedule == "staged":
        return place + q
    if schedule == "uniform" or not late:
        return q
    # F(x) = 1 - exp(-0.75 x^2) up to x = 1, then the tail, of any length
    inside = 1 - np.exp(-_RISE)
    return np.where(q < inside, np.sqrt(-np.log1p(-np.minimum(q, inside)) / _RISE), 1 + q)
