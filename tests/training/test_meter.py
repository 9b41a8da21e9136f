"""What the log says of speed and padding, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from gream.training import meter as module
from gream.training.meter import Meter

LENGTHS = [3, 5, 2, 2, 7]  # steps of two rows: 8 tokens in 10 places, 4 in 4, 7 in 7


def after(steps: int, monkeypatch: pytest.MonkeyPatch, *, first: int = 0, packing: bool = False) -> Meter:
    """A meter after some steps of two seconds, half a second of each spent elsewhere."""
    clock = iter(range(100))
    monkeypatch.setattr(module.time, "perf_counter", lambda: 2.0 * next(clock))
    meter = Meter(LENGTHS, 2, 2, packing=packing, elsewhere=lambda: 0.5 * (state.global_step - first))
    state: Any = SimpleNamespace(global_step=first, max_steps=3)
    meter.on_train_begin(None, state, TrainerControl())
    for _ in range(steps):
        state.global_step += 1
        meter.on_step_end(None, state, TrainerControl())
    meter.on_train_end(None, state, TrainerControl())
    return meter


def test_padding_is_the_share_of_places_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    assert after(1, monkeypatch).padding_share == pytest.approx(2 / 10)
    assert after(3, monkeypatch).padding_share == pytest.approx(2 / 21)
    assert after(3, monkeypatch, packing=True).padding_share == 0.0
    assert after(0, monkeypatch).padding_share == 0.0


def test_padding_is_of_each_pass_where_a_step_has_several() -> None:
    """Steps of four rows in passes of two, 8 tokens in 10 places and 4 in 4, then one of 7."""
    meter = Meter(LENGTHS, 4, 2, packing=False, elsewhere=lambda: 0.0)
    state: Any = SimpleNamespace(global_step=0, max_steps=2)
    meter.on_train_begin(None, state, TrainerControl())
    state.global_step = 1
    meter.on_step_end(None, state, TrainerControl())
    assert meter.tokens == 12 and meter.padding_share == pytest.approx(2 / 14)


def test_tokens_a_second_leave_out_padding_and_what_was_done_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = after(2, monkeypatch)  # 12 tokens in 4 seconds, of which 1 elsewhere
    assert meter.tokens == 12
    assert meter.tokens_per_second == pytest.approx(12 / 3)


def test_a_resumed_training_counts_all_tokens_and_times_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = after(1, monkeypatch, first=2)
    assert meter.tokens == 19
    assert meter.tokens_per_second == pytest.approx(7 / 1.5)


@pytest.mark.parametrize(
    ("flag", "logged"), [("should_save", True), ("should_training_stop", True), ("", False)]
)
def test_the_log_has_a_line_at_every_checkpoint_and_at_the_end(flag: str, logged: bool) -> None:
    meter = Meter(LENGTHS, 2, 2, packing=False, elsewhere=lambda: 0.0)
    state: Any = SimpleNamespace(global_step=1, max_steps=3)
    control = TrainerControl(**({flag: True} if flag else {}))
    meter.on_train_begin(None, state, control)
    meter.on_step_end(None, state, control)
    assert control.should_log is logged


def test_the_words_name_speed_padding_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "peak_memory_mb", lambda: 1234)
    assert after(1, monkeypatch).told() == "5 tokens/s, 20.0% padding, peak memory 1,234 MB"
