"""Stop when a measurement on the validation split no longer grows, and keep the best weights.

Users of the validation split, drawn by seed, are searched with the one search and counted with the one
recall, see `validation`; the test split is never read. The weights of the best step are kept in memory, and
in every checkpoint, and restored when training ends. With several processes each measures the same users
with the same weights, so that all of them stop together and none waits for another.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.data.store import VALIDATION, Case, Interactions
from gream.decoding.recommend import Engine
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.evaluation.exam import draw_cases
from gream.language.prompting import Prompter
from gream.processes import is_main
from gream.semantic_ids.constraint_file import constraint_of
from gream.training.adapters import plain_model
from gream.training.packing import attention
from gream.training.validation import RECALL, Measured, direct_recall

logger = logging.getLogger(__name__)

Measure = Callable[[Engine, Sequence[Case]], Measured]

_STATE, _WEIGHTS = "validation.json", "best.safetensors"


def check_validation(*, users: int, every: float, patience: int) -> None:
    """Refuse settings that cannot be.

    Raises:
        InputError: a number out of range.
    """
    if users < 0:
        raise InputError(f"validation_users is {users}; give a number of users, or 0 for no early stop.")
    if not 0.0 < every <= 1.0:
        raise InputError(f"validate_every is {every}; give a share of the training above 0 and up to 1.")
    if patience < 1:
        raise InputError(f"patience is {patience}; give at least 1.")


def validation_cases(interactions: Interactions, users: int, seed: int) -> list[Case]:
    """Draw the users whose next purchase is asked for.

    Raises:
        InputError: the split is empty.
    """
    return draw_cases(interactions.cases(VALIDATION), users, seed)


class ValidationStop(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Measures in the middle of training, and ends it after `patience` measurements without a gain.

    Args:
        model: the model in training, adapters and all.
        prompter: writes the prompts.
        cases: whose next purchases are asked for.
        every: share of the training between two measurements; the last step is always measured.
        patience: measurements in a row without a better score, after which training ends.
        measure: what is measured, and which of its figures is the score.
        name: of the score, for the log.
        from_start: whether to measure before the first step too. Then the best weights may be those that
            training began with.
    """

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        cases: Sequence[Case],
        *,
        every: float,
        patience: int,
        measure: Measure = direct_recall,
        name: str = RECALL,
        from_start: bool = False,
    ) -> None:
        self.score, self.step = -1.0, 0  # of the best weights
        self.measured, self.seconds = 0, 0.0
        self._model, self._cases, self._every, self._patience = model, cases, every, patience
        self._measure, self._name, self._from_start = measure, name, from_start
        self._plain = plain_model(model)
        self._attention = self._plain.config._attn_implementation  # the search's, also while rows are packed
        self._engine = Engine(
            TorchBackend(self._plain, prompter.tokenizer.pad_token_id),
            prompter,
            constraint_of(prompter.names),
            prompter.names,
        )
        self._misses = 0
        self._best: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure what training begins with, unless it goes on from a state that knows."""
        if self._from_start and not self.measured:
            self._take(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure where a share of the training ends."""
        steps = max(1, round(self._every * state.max_steps))
        if state.global_step % steps and state.global_step < state.max_steps:
            return
        if self._take(state):
            return
        self._misses += 1
        if self._misses >= self._patience:
            control.should_training_stop = True

    def measure(self) -> Measured:
        """Measure the weights as they are now."""
        # The trainer moves the model to its device after this object was made.
        constraint = self._engine.constraint.to(self._plain.device)
        with attention(self._plain, self._attention):
            return self._measure(replace(self._engine, constraint=constraint), self._cases)

    def restore(self) -> None:
        """Give the model its best weights back."""
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(self._best[name])
        logger.info(
            "%s of %d users: %.4f at best, after step %d; measured %d times in %.1f s",
            self._name.replace("_", " "), len(self._cases), self.score, self.step, self.measured,
            self.seconds,
        )  # fmt: skip
        if self.step == 0:
            logger.warning(
                "no measurement was better than the one before the first step: the model stays as it came; "
                "train longer, or lower learning_rate"
            )

    def save(self, folder: Path) -> None:
        """Write what a resumed training needs to go on alike; every process has the same, one writes it."""
        if not is_main():
            return
        if self._best:
            save_file(self._best, folder / _WEIGHTS)
        state = {"score": self.score, "step": self.step, "misses": self._misses, "measured": self.measured}
        (folder / _STATE).write_text(json.dumps(state) + "\n")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = json.loads((folder / _STATE).read_text())
        self.score, self.step, self._misses = state["score"], state["step"], state["misses"]
        self.measured = state["measured"]
        if self.measured:
            self._best = load_file(folder / _WEIGHTS)

    def _take(self, state: TrainerState) -> bool:
        """Measure, write it into the log, and keep the weights if they are the best so far."""
        started = time.perf_counter()
        found = _of_main(self.measure())
        self.measured += 1
        self.seconds += time.perf_counter() - started
        state.log_history.append({"step": state.global_step, **found.figures})
        if found.score <= self.score:
            return False
        self.score, self.step, self._misses = found.score, state.global_step, 0
        self._best = {name: p.detach().cpu().clone() for name, p in self._trained().items()}
        return True

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}


def _of_main(found: Measured) -> Measured:
    """Give all processes what the first one measured: by a last bit of its own one would stop earlier."""
    if not distributed.is_initialized():
        return found
    values = [found]
    distributed.broadcast_object_list(values, src=0)
    return values[0]
