"""Warnings of an SRPO run: hand-worked logs on both sides of every threshold."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gream.training.run_log import WINDOW, Entry, RunLog
from gream.training.srpo_report import PLOT_FILE, REPORT_FILE, srpo_figure, write_srpo_report
from gream.training.watch import SILENT_STEPS, Watch, lookout_over


def steps(values: list[float], key: str = "reward", mode: str = "direct", first: int = 1) -> list[Entry]:
    """One entry a step, all of one mode."""
    return [
        {"loss": 0.1, "reward": 0.5, f"reward_{mode}": 0.5, "step": first + i} | {key: value}
        for i, value in enumerate(values)
    ]


def measured(step: int, score: float, error: float = 0.01, **figures: float) -> Entry:
    return {"step": step, "validation_score": score, "validation_score_error": error, **figures}


def kinds(log: list[Entry]) -> list[tuple[int, str]]:
    return [(notice.step, notice.kind) for notice in lookout_over(log).notices]


# Before the best step 4: mean 0.25, variance 1/300; since: mean 0.45, the same variance. The difference of
# 0.2 has a standard error of sqrt(2 * (1/300) / 4) = 0.041.
BEFORE, SINCE = [0.2, 0.3, 0.2, 0.3], [0.4, 0.5, 0.4, 0.5]


def run(since: list[float], after: float, error: float = 0.01) -> list[Entry]:
    return [
        measured(0, 0.10),
        *steps(BEFORE),
        measured(4, 0.20),
        *steps(since, first=5),
        measured(8, after, error),
    ]


def test_a_reward_that_rises_while_recall_falls_is_told() -> None:
    [notice] = lookout_over(run(SINCE, 0.15)).notices
    assert (notice.step, notice.kind) == (8, "reward without recall")
    assert "the reward in direct mode rose from 0.250 to 0.450" in notice.text
    assert "fell from 0.2000 (step 4) to 0.1500, by more than its standard error of 0.0100" in notice.text
    assert "raise beta" in notice.text


def test_recall_that_falls_by_less_than_its_error_is_not_told() -> None:
    assert kinds(run(SINCE, 0.15, error=0.06)) == []
    assert kinds(run(SINCE, 0.20)) == []
    assert kinds(run(SINCE, 0.25)) == []


def test_a_reward_that_rises_within_chance_is_not_told() -> None:
    """Means 0.25 and 0.275: below the error of 0.041. And one that falls."""
    assert kinds(run([0.2, 0.3, 0.3, 0.3], 0.15)) == []
    assert kinds(run([0.1, 0.2, 0.1, 0.2], 0.15)) == []


def test_where_the_first_measurement_is_the_best_the_first_half_stands_for_before() -> None:
    log = [measured(0, 0.20), *steps(BEFORE), *steps(SINCE, first=5), measured(8, 0.15)]
    [notice] = lookout_over(log).notices
    assert "rose from 0.250 to 0.450" in notice.text and "(step 0)" in notice.text
    assert kinds([measured(0, 0.20), *steps([0.2]), *steps([0.9], first=2), measured(2, 0.1)]) == []


def test_one_mode_that_climbs_is_told_though_the_mixture_falls() -> None:
    """More of the worse mode since: the mean of all steps falls from 0.47 to 0.42."""
    log = [
        *steps(BEFORE, mode="reasoning"),
        *steps([0.9, 0.9], mode="direct", first=5),
        measured(6, 0.2),
        *steps(SINCE, mode="reasoning", first=7),
        *steps([0.3, 0.3], mode="direct", first=11),
        measured(12, 0.1),
    ]
    [notice] = lookout_over(log).notices
    assert "the reward in reasoning mode rose from 0.250 to 0.450" in notice.text


@pytest.mark.parametrize(
    ("key", "kind", "quiet", "told"),
    [
        ("entropy_first_code", "collapse", [2.0] * WINDOW + [1.0] * WINDOW, [2.0] * WINDOW + [0.9] * WINDOW),
        ("invalid", "invalid", [0.2] * WINDOW + [0.3] * WINDOW, [0.2] * WINDOW + [0.31] * WINDOW),
        ("completions/clipped_ratio", "cut", [0.9] * (WINDOW - 1) + [-1.0], [0.2] + [0.6] * WINDOW),
        ("live_groups", "silence", [0.0] * (SILENT_STEPS - 1) + [0.1], [0.0] * SILENT_STEPS),
    ],
)
def test_a_sign_is_told_at_the_step_where_it_passes_its_threshold(
    key: str, kind: str, quiet: list[float], told: list[float]
) -> None:
    extra = {"completions/mean_length": 150.0}
    assert kinds([entry | extra for entry in steps(quiet, key)]) == []
    assert kinds([entry | extra for entry in steps(told, key)]) == [(len(told), kind)]
    assert kinds([entry | extra for entry in steps(told[:-1], key)]) == []


def test_a_mode_is_held_against_itself() -> None:
    """Direct answers are sure of their first code and chains are not; no mode changes."""
    log = [
        entry
        for i in range(4 * WINDOW)
        for entry in steps(
            [3.0 if i < 2 * WINDOW and i % 2 else 0.5 + 2.5 * (i % 2)],
            "entropy_first_code",
            "reasoning" if i % 2 else "direct",
            i + 1,
        )
    ]
    assert kinds(log) == []


def test_coverage_is_told_below_half_of_its_first() -> None:
    direct = [measured(0, 0.1, validation_coverage=0.8), measured(5, 0.1, validation_coverage=0.4)]
    assert kinds(direct) == []
    reasoning = [
        measured(s, 0.1, validation_coverage=0.8, validation_reasoning_coverage=c)
        for s, c in [(0, 0.8), (5, 0.39)]
    ]
    [notice] = lookout_over(reasoning).notices
    assert (notice.step, notice.kind) == (5, "narrow")
    assert "in reasoning mode cover 39.0% of the items after 80.0% at first" in notice.text


def test_each_kind_is_told_once_in_the_log_and_an_interruption_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = [*steps([0.0] * (SILENT_STEPS + 5), "live_groups")]
    state: Any = SimpleNamespace(log_history=[], is_world_process_zero=True)

    def train(watch: Watch, entries: list[Entry]) -> None:
        arguments: Any = (None, state, None)
        watch.on_train_begin(*arguments)
        for entry in entries:
            state.log_history.append(entry)
            watch.on_log(*arguments)

    with caplog.at_level(logging.WARNING, logger="gream"):
        train(Watch(), log[: SILENT_STEPS - 1])
        assert not caplog.records
        train(Watch(), log[SILENT_STEPS - 1 : SILENT_STEPS + 2])
        train(Watch(), log[SILENT_STEPS + 2 :])
    [record] = caplog.records
    assert record.getMessage().startswith(
        f"step {SILENT_STEPS}: no group had a signal for {SILENT_STEPS} steps"
    )


def test_passes_on_the_same_batch_belong_to_its_mode() -> None:
    log = RunLog(
        [
            {"loss": 0.1, "reward": 0.5, "reward_direct": 0.5, "kl": 1.0, "step": 1},
            {"loss": 0.1, "kl": 2.0, "step": 2},
            {"step": 2, "validation_score": 0.1},
            {"loss": 0.1, "reward": 0.7, "reward_reasoning": 0.7, "kl": 3.0, "step": 3},
            {"loss": 0.1, "kl": None, "step": 4},
        ]
    )
    assert log.values("kl", "direct").tolist() == [1.0, 2.0]
    assert log.values("kl", "reasoning").tolist() == [3.0]
    assert log.values("kl").tolist() == [1.0, 2.0, 3.0]
    assert log.values("validation_score", "direct").tolist() == []
    assert log.modes("kl") == ["direct", "reasoning"]
    assert log.steps("reward").tolist() == [1, 3]


def both_modes(num: int) -> list[Entry]:
    log: list[Entry] = []
    for i in range(num):
        mode = "reasoning" if i % 2 else "direct"
        [entry] = steps([0.1 * i], mode=mode, first=i + 1)
        log.append(entry | {"rewards/exact_hit/mean": 0.25, "kl": 0.01, "completions/mean_length": 120.0})
    return log


def test_the_report_holds_each_quarter_by_mode(tmp_path: Path) -> None:
    """Of eight steps a mode: direct 0.0, 0.2, ... 1.4, so that the quarters are 0.1 and 1.3."""
    log = both_modes(16)
    scored = [measured(0, 0.2, **{"validation_recall@10": 0.2}), *log, measured(16, 0.1)]
    write_srpo_report(tmp_path, scored)
    text = (tmp_path / REPORT_FILE).read_text()
    assert "|  | direct first | direct last | reasoning first | reasoning last |" in text
    assert "| reward, weighted sum of the terms | 0.1000 | 1.3000 | 0.2000 | 1.4000 |" in text
    assert "| reward term exact hit | 0.2500 | 0.2500 | 0.2500 | 0.2500 |" in text
    assert "| tokens of a completion | 120.0 | 120.0 | 120.0 | 120.0 |" in text
    assert "- Step 16: the reward in direct mode rose" in text
    assert "the model stays as it came" in text
    assert (tmp_path / PLOT_FILE).stat().st_size > 10_000


def test_the_report_says_which_weights_were_kept(tmp_path: Path) -> None:
    log = [measured(0, 0.1), *both_modes(8), measured(4, 0.3, 0.02), measured(8, 0.29)]
    write_srpo_report(tmp_path, log)
    text = (tmp_path / REPORT_FILE).read_text()
    assert "The model has the weights of step 4, where the score was best." in text
    assert "Its standard error over users is 0.0200." in text
    assert "|  | before | best, step 4 | last, step 8 |" in text
    assert "| score | 0.1000 | 0.3000 | 0.2900 |" in text
    assert "## Warnings\n\nNone." in text


def test_a_run_without_validation_has_no_such_part(tmp_path: Path) -> None:
    write_srpo_report(tmp_path, both_modes(3))
    assert "Validation" not in (tmp_path / REPORT_FILE).read_text()


def test_the_same_log_draws_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_srpo_report(tmp_path / name, both_modes(6))
    assert (tmp_path / "one" / PLOT_FILE).read_bytes() == (tmp_path / "two" / PLOT_FILE).read_bytes()


def test_a_line_is_drawn_for_every_mode_of_every_term() -> None:
    panels = srpo_figure(RunLog(both_modes(6))).axes
    assert [line.get_label() for line in panels[0].lines] == ["exact hit, direct", "exact hit, reasoning"]
    np.testing.assert_array_equal(panels[5].lines[0].get_xdata(), [1, 3, 5])
