"""Stop when validation recall no longer grows, and keep the best weights.

Users of the validation split, drawn by seed, are searched in direct mode with the one search and counted
with the one recall; the test split is never read. What they bought is asked for, never learnt from. The
weights of the best step are kept in memory, and in every checkpoint, and restored when training ends.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.data.store import VALIDATION, Case, Interactions
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.evaluation import metrics
from gream.evaluation.exam import draw_cases
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint_file import constraint_of
from gream.training.adapters import plain_model
from gream.training.packing import attention

logger = logging.getLogger(__name__)

SEARCH = Search(k=10, num_beams=20)
RECALL = f"validation_recall@{SEARCH.k}"
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
    """Measures recall in the middle of training, and ends it after `patience` measurements without a gain.

    Args:
        model: the model in training, adapters and all.
        prompter: writes the direct prompts.
        cases: whose next purchases are asked for.
        every: share of the training between two measurements; the last step is always measured.
        patience: measurements in a row without a better recall, after which training ends.
    """

    def __init__(
        self, model: Any, prompter: Prompter, cases: Sequence[Case], *, every: float, patience: int
    ) -> None:
        self.recall, self.step = -1.0, 0  # of the best weights
        self.measured, self.seconds = 0, 0.0
        self._model, self._cases, self._every, self._patience = model, cases, every, patience
        self._plain = plain_model(model)
        self._attention = self._plain.config._attn_implementation  # the search's, also while rows are packed
        self._engine = Engine(
            TorchBackend(self._plain, prompter.tokenizer.pad_token_id),
            prompter,
            constraint_of(prompter.names).to(self._plain.device),
            prompter.names,
        )
        self._misses = 0
        self._best: dict[str, torch.Tensor] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Measure where a share of the training ends."""
        steps = max(1, round(self._every * state.max_steps))
        if state.global_step % steps and state.global_step < state.max_steps:
            return
        started = time.perf_counter()
        recall = self.measure()
        self.measured += 1
        self.seconds += time.perf_counter() - started
        state.log_history.append({"step": state.global_step, RECALL: recall})
        if recall > self.recall:
            self.recall, self.step, self._misses = recall, state.global_step, 0
            self._best = {name: p.detach().cpu().clone() for name, p in self._trained().items()}
            return
        self._misses += 1
        if self._misses >= self._patience:
            control.should_training_stop = True

    def measure(self) -> float:
        """Return recall@10 of direct mode on the drawn users, with the weights as they are now."""
        histories = [case.history.tolist() for case in self._cases]
        with attention(self._plain, self._attention):
            answers = recommend_many(self._engine, histories, SEARCH)
        targets = [case.target for case in self._cases]
        return metrics.recall(metrics.ranks_of_targets([a.items for a in answers], targets), SEARCH.k)

    def restore(self) -> None:
        """Give the model its best weights back."""
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(self._best[name])
        logger.info(
            "%s of %d users: %.4f at best, after step %d; measured %d times in %.1f s",
            RECALL.replace("_", " "), len(self._cases), self.recall, self.step, self.measured, self.seconds,
        )  # fmt: skip

    def save(self, folder: Path) -> None:
        """Write what a resumed training needs to go on alike."""
        if self._best:
            save_file(self._best, folder / _WEIGHTS)
        state = {"recall": self.recall, "step": self.step, "misses": self._misses, "measured": self.measured}
        (folder / _STATE).write_text(json.dumps(state) + "\n")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = json.loads((folder / _STATE).read_text())
        self.recall, self.step, self._misses = state["recall"], state["step"], state["misses"]
        self.measured = state["measured"]
        if self.measured:
            self._best = load_file(folder / _WEIGHTS)

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {name: p for name, p in self._model.named_parameters() if p.requires_grad}
