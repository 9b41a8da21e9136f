"""Tells in words, while SRPO trains, what looks wrong: once for each kind, where it first shows.

A policy can climb its reward and get worse at the task: the reward sees sampled training prompts, recall sees
held-out users. The other signs are of its ways there: answers that collapse onto a few items, answers that
are no item, chains that are cut, groups that give no signal.

What is told follows from the log alone, so that a resumed run and a report say the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.training.run_log import ALL, REWARD, WINDOW, Entry, RunLog
from gream.training.validation import COVERAGE, ERROR, REASONING_COVERAGE, SCORE

logger = logging.getLogger(__name__)

SILENT_STEPS = 10  # in a row without any live group
_RISE_OF_INVALID = 0.1  # of the completions
_CUT = "completions/clipped_ratio"


@dataclass(frozen=True)
class Notice:
    """One thing to tell."""

    step: int
    kind: str
    text: str


class Lookout:
    """Reads a log entry by entry."""

    def __init__(self) -> None:
        self.log = RunLog()
        self.notices: list[Notice] = []

    def read(self, entry: Entry) -> list[Notice]:
        """Take one entry in; returns what it shows for the first time."""
        self.log.add(entry)
        told = {notice.kind for notice in self.notices}
        found = [
            Notice(int(entry["step"]), kind, text)
            for kind, look in _LOOKS.items()
            if kind not in told and (text := look(self.log, entry))
        ]
        self.notices += found
        return found


def lookout_over(log: Iterable[Entry]) -> Lookout:
    """Read a whole log."""
    lookout = Lookout()
    for entry in log:
        lookout.read(entry)
    return lookout


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Warns in the log while training; expects an entry of the trainer's log for every step."""

    def __init__(self) -> None:
        self._lookout = Lookout()
        self._read = 0  # entries of the trainer's log

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Read what was logged before an interruption; it was told then."""
        self._new(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Warn of what the new entries show."""
        for notice in self._new(state):
            if state.is_world_process_zero:
                logger.warning("step %d: %s", notice.step, notice.text)

    def _new(self, state: TrainerState) -> list[Notice]:
        entries = state.log_history[self._read :]
        self._read = len(state.log_history)
        return [notice for entry in entries for notice in self._lookout.read(entry)]


def _reward_without_recall(log: RunLog, entry: Entry) -> str | None:
    """Look whether recall fell since its best while the reward of a mode rose.

    Recall falls when the validation score is below the best one so far by more than its standard error over
    users. A reward rises when its mean over the steps since that best is above its mean over the steps before
    by more than the standard error of the difference. Where the best is the measurement before the first
    step, the first half of the steps stands for those before.
    """
    scores, steps = log.values(SCORE), log.steps(SCORE)
    if SCORE not in entry or len(scores) < 2:
        return None
    best = int(np.argmax(scores[:-1]))
    error = log.values(ERROR)[-1]
    if scores[-1] >= scores[best] - error:
        return None
    for mode in log.modes(REWARD):
        rise = _rise(log.values(REWARD, mode), log.steps(REWARD, mode), int(steps[best]))
        if rise:
            return (
                f"the reward{_of(mode)} rose from {rise[0]:.3f} to {rise[1]:.3f} while the validation score "
                f"fell from {scores[best]:.4f} (step {steps[best]}) to {scores[-1]:.4f}, by more than its "
                f"standard error of {error:.4f}; the policy learns the reward and not the task: raise beta, "
                "lower learning_rate, or stop earlier (patience)."
            )
    return None


def _rise(rewards: np.ndarray, steps: np.ndarray, best: int) -> tuple[float, float] | None:
    """Return the mean before and since the best step where it rose beyond chance, else None."""
    since = steps > best
    if since.all():
        since = np.arange(len(steps)) >= len(steps) // 2
    before, after = rewards[~since], rewards[since]
    if min(len(before), len(after)) < 2:
        return None  # nothing tells how much a single step is worth
    error = np.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    means = float(before.mean()), float(after.mean())
    return means if means[1] - means[0] > error else None


def _collapse(log: RunLog, entry: Entry) -> str | None:
    for mode in log.modes("entropy_first_code"):
        ends = log.start_and_end("entropy_first_code", mode)
        if ends and ends[1] < ends[0] / 2:
            return (
                f"the entropy of the first codes{_of(mode)} fell from {ends[0]:.2f} to {ends[1]:.2f} nats, "
                "below half of what it was; the answers collapse onto a few items: raise beta or "
                "temperature, or lower learning_rate."
            )
    return None


def _invalid(log: RunLog, entry: Entry) -> str | None:
    for mode in log.modes("invalid"):
        ends = log.start_and_end("invalid", mode)
        if ends and ends[1] - ends[0] > _RISE_OF_INVALID:
            return (
                f"the share of completions{_of(mode)} that name no item rose from {ends[0]:.0%} to "
                f"{ends[1]:.0%}; the policy forgets how an answer is written: raise beta, lower "
                "learning_rate, or let rollouts be constrained."
            )
    return None


def _cut(log: RunLog, entry: Entry) -> str | None:
    for mode in log.modes(_CUT):
        recent = log.recent(_CUT, WINDOW, mode)
        if len(recent) == WINDOW and recent.mean() > 0.5:
            length = log.recent("completions/mean_length", WINDOW, mode).mean()
            return (
                f"{recent.mean():.0%} of the completions{_of(mode)} were cut at max_completion_length over "
                f"the last {WINDOW} steps, {length:.0f} tokens long in the mean, and earned nothing: raise "
                "max_completion_length, or teach shorter chains first."
            )
    return None


def _silence(log: RunLog, entry: Entry) -> str | None:
    recent = log.recent("live_groups", SILENT_STEPS)
    if len(recent) == SILENT_STEPS and not recent.any():
        return (
            f"no group had a signal for {SILENT_STEPS} steps, so that nothing was learnt: raise "
            "num_generations or temperature, refill the groups, or choose easier prompts."
        )
    return None


def _narrow(log: RunLog, entry: Entry) -> str | None:
    for key, mode in ((COVERAGE, "direct"), (REASONING_COVERAGE, "reasoning")):
        values = log.values(key)
        if key in entry and values[-1] < values[0] / 2:
            return (
                f"the lists of validation users{_of(mode)} cover {values[-1]:.1%} of the items after "
                f"{values[0]:.1%} at first, less than half; the policy narrows to popular items: raise "
                "beta, or lower learning_rate."
            )
    return None


def _of(mode: str) -> str:
    return "" if mode == ALL else f" in {mode} mode"


_LOOKS: dict[str, Callable[[RunLog, Entry], str | None]] = {
    "reward without recall": _reward_without_recall,
    "collapse": _collapse,
    "invalid": _invalid,
    "cut": _cut,
    "silence": _silence,
    "narrow": _narrow,
}
