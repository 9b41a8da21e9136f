"""What training costs while it runs: tokens a second, share of padding, peak memory.

Tokens are counted from the rows' lengths, which are known before, so that nothing waits for a device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.artifacts import peak_memory_mb
from gream.processes import no_bar


class Meter(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Counts tokens, draws the progress bar where there is a terminal, and sees to a last line in the log.

    Args:
        lengths: tokens of each row, in training order.
        batch_size: rows of one step.
        micro_batch_size: rows of one pass, of which a step has several.
        packing: whether the rows of a pass are laid one after the other, or padded to the longest.
        elsewhere: seconds so far that went into something else than training.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        micro_batch_size: int,
        *,
        packing: bool,
        elsewhere: Callable[[], float],
    ) -> None:
        steps = [
            _cut(lengths[i : i + batch_size], micro_batch_size) for i in range(0, len(lengths), batch_size)
        ]
        real = [sum(int(rows.sum()) for rows in step) for step in steps]
        laid = real if packing else [sum(len(rows) * int(rows.max()) for rows in step) for step in steps]
        self._real, self._laid = np.cumsum([0, *real]), np.cumsum([0, *laid])  # before each step
        self._elsewhere = elsewhere
        self._first, self._last = 0, 0
        self._started, self._seconds = 0.0, 0.0
        self._bar: Any = None

    @property
    def tokens(self) -> int:
        """Tokens of the rows that were trained on so far, resumed ones too."""
        return int(self._real[self._last])

    @property
    def padding_share(self) -> float:
        """Share of the places fed to the model that held no token."""
        laid = int(self._laid[self._last])
        return (laid - self.tokens) / max(laid, 1)  # before the first step nothing is fed

    @property
    def tokens_per_second(self) -> float:
        """Tokens of rows, padding left out, for each second of this process's training."""
        trained = int(self._real[self._last] - self._real[self._first])
        return trained / max(self._seconds, 1e-9)  # a clock without that resolution must not divide by zero

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock and the bar."""
        self._first = self._last = state.global_step
        self._started = time.perf_counter()
        self._bar = tqdm(
            total=state.max_steps, initial=self._first, desc="sft", unit="step", disable=no_bar(), leave=False
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Count a step; the log gets a line before every checkpoint, and at the end."""
        self._last = state.global_step
        self._seconds = time.perf_counter() - self._started - self._elsewhere()
        self._bar.update()
        # A mean loss that spans a checkpoint could not be told after a resume.
        control.should_log = control.should_log or control.should_save or control.should_training_stop

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        """Show the figures beside the bar."""
        loss = options["logs"].get("loss")
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3f}, {self.told()}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take the bar away."""
        self._bar.close()

    def told(self) -> str:
        """Put the figures into words."""
        memory = f"peak memory {peak_memory_mb():,} MB"
        if torch.cuda.is_available():
            memory += f", {torch.cuda.max_memory_allocated() >> 20:,} MB on the device"
        return f"{self.tokens_per_second:,.0f} tokens/s, {self.padding_share:.1%} padding, {memory}"


def _cut(lengths: Sequence[int], size: int) -> list[np.ndarray]:
    """Cut the rows of a step into its passes."""
    return [np.asarray(lengths[i : i + size]) for i in range(0, len(lengths), size)]
