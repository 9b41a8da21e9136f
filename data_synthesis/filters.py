"""Why a trace is dropped: one small predicate for each reason, in the order they are asked.

GREAM's code drops a trace only when its format is broken. These are the first of ours; each gives the
reason that the report counts.
"""

from __future__ import annotations

from collections.abc import Callable

from data_synthesis.teacher import RuleTeacher
from gream.language.reasoning import Trace


def names_target(trace: Trace, teacher: RuleTeacher) -> bool:
    """The target's title stands in the text, or the target is cited."""
    title = teacher.catalogue.titles[trace.target].lower()
    text = " ".join((trace.preference, trace.intent, trace.recommendation)).lower()
    return (
        trace.target in trace.evidence or trace.target in trace.rewritten or (bool(title) and title in text)
    )


def cites_unseen(trace: Trace, teacher: RuleTeacher) -> bool:
    """Evidence or rewritten history holds an item that the customer did not buy."""
    return not set(trace.evidence + trace.rewritten) <= set(trace.history)


def lacks_a_step(trace: Trace, teacher: RuleTeacher) -> bool:
    """A step is empty, for example because the items have no category."""
    steps = (trace.evidence, trace.preference, trace.intent.strip(), trace.recommendation.strip())
    return not all(steps) or not trace.rewritten or not all(trace.kinds)


def contradicts_target(trace: Trace, teacher: RuleTeacher) -> bool:
    """The intended kind of item is not what was bought next."""
    return not trace.intent.endswith(f" comes {teacher.categories[teacher.category_of[trace.target]]}")


FILTERS: dict[str, Callable[[Trace, RuleTeacher], bool]] = {
    "lacks a step": lacks_a_step,
    "cites an item outside the history": cites_unseen,
    "names the target": names_target,
    "contradicts the target": contradicts_target,
}


def reason_to_drop(trace: Trace, teacher: RuleTeacher) -> str | None:
    """The first reason against a trace, or None."""
    return next((reason for reason, holds in FILTERS.items() if holds(trace, teacher)), None)
