"""The rule-based teacher and its filters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data_synthesis.filters import reason_to_drop
from data_synthesis.teacher import RuleTeacher
from data_synthesis.traces import SynthesizeConfig, synthesize
from gream.data.store import Catalogue, Interactions
from gream.language.reasoning import Trace


@pytest.fixture
def teacher(catalogue: Catalogue) -> RuleTeacher:
    """Items 0-3 printers, 4-7 ink, 8-11 paper, 12-15 tents, 16-19 stoves: ink after printers."""
    rng = np.random.default_rng(0)
    office = [np.asarray([rng.integers(0, 4), rng.integers(4, 8), rng.integers(8, 12)]) for _ in range(30)]
    camping = [np.asarray([rng.integers(12, 16), rng.integers(16, 20)]) for _ in range(30)]
    return RuleTeacher(catalogue, office + camping)


def test_the_intent_is_what_usually_follows(teacher: RuleTeacher) -> None:
    [explanation] = teacher.explain([1], np.random.default_rng(0))
    assert explanation.intent == "after printers comes ink"
    assert explanation.recommendation.startswith("ink")


def test_the_rewritten_history_leaves_out_what_does_not_fit(teacher: RuleTeacher) -> None:
    [explanation] = teacher.explain([0, 17, 5, 9], np.random.default_rng(0))
    assert explanation.rewritten == (0, 5, 9)
    assert explanation.evidence == (5, 9)


def test_attempts_draw_different_intents(teacher: RuleTeacher) -> None:
    intents = [e.intent for e in teacher.explain([1, 5], np.random.default_rng(0), attempts=4)]
    assert len(set(intents)) == 4


def _good(teacher: RuleTeacher) -> Trace:
    return Trace(
        0, (0, 5), 9, (0, 5), ("printers", "ink"), "office", "after ink comes paper", "paper", (0, 5)
    )


def test_a_good_trace_is_kept(teacher: RuleTeacher) -> None:
    assert reason_to_drop(_good(teacher), teacher.facts) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"evidence": (0, 7)}, "cites an item outside the history"),
        ({"rewritten": (0, 8)}, "cites an item outside the history"),
        ({"preference": ""}, "lacks a step"),
        ({"kinds": ("printers", "")}, "lacks a step"),
        ({"preference": "the Volta paper model 9"}, "names the target"),
        ({"history": (0, 5, 9), "rewritten": (0, 9)}, "names the target"),
        ({"intent": "after ink comes lamps"}, "contradicts the target"),
    ],
)
def test_a_bad_trace_is_dropped_for_its_reason(
    change: dict[str, object], reason: str, teacher: RuleTeacher
) -> None:
    assert reason_to_drop(replace(_good(teacher), **change), teacher.facts) == reason  # type: ignore[arg-type]


def test_traces_come_from_the_training_part_alone(catalogue: Catalogue, interactions: Interactions) -> None:
    """Other held-out purchases must give the same traces."""
    swapped = Interactions(
        user_ids=interactions.user_ids,
        sequences=[np.concatenate([s[:-2], 23 - s[-2:]]) for s in interactions.sequences],
        splits=interactions.splits,
    )
    config = SynthesizeConfig(per_user=3, attempts=6)
    made = [
        synthesize(RuleTeacher(catalogue, i.training_sequences()), i, config) for i in (interactions, swapped)
    ]
    assert made[0] == made[1]
    assert made[0][0]


def test_every_attempt_is_kept_or_has_a_reason(catalogue: Catalogue, interactions: Interactions) -> None:
    config = SynthesizeConfig(per_user=3, attempts=2, min_history=2)
    kept, dropped = synthesize(
        RuleTeacher(catalogue, interactions.training_sequences()), interactions, config
    )
    purchases = sum(min(3, max(0, len(s) - 2)) for s in interactions.training_sequences())
    assert len(kept) <= purchases <= len(kept) + len(dropped)
    assert all(d.reason for d in dropped)
