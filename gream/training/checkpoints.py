"""The state of an unfinished training, in a hidden folder beside its output.

`.OUTPUT.checkpoint` holds the last whole state and says which training it belongs to: settings, inputs,
rows in their order, versions of the libraries. The trainer writes a state into a place of its own, and it
gets its name only when it is whole, so a run that is killed while it saves goes on from the state before.
The folder vanishes with the finished training.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.artifacts import fingerprint
from gream.language.curriculum import digest
from gream.language.rows import Row

logger = logging.getLogger(__name__)

_OWNER = "training.json"  # which training the folder belongs to
_WHOLE = "step-"
_VERSIONED = ("torch", "transformers", "trl", "peft")


class Checkpoints(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    """Keeps the last whole state of one training.

    A context: the folder is removed when the block ends well, or when it raises before any state is whole.

    Args:
        output: the folder that the training will write.
        training: what the training is, JSON-compatible; a state of another one is never gone on from.
    """

    def __init__(self, output: Path, training: Mapping[str, Any]) -> None:
        self.folder = output.parent / f".{output.name}.checkpoint"
        self.save_also: Callable[[Path], None] = lambda _: None  # what else belongs to a state
        self._training = json.loads(json.dumps(dict(training)))

    @property
    def drafts(self) -> Path:
        """Where the trainer writes a state before it is whole."""
        return self.folder / "drafts"

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or not self._whole():
            shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self) -> Path | None:
        """Make the folder ready, and return the state to go on from; None to begin at the first row."""
        if self.folder.exists() and self._owner() != self._training:
            logger.info(
                "%s holds an unfinished training with other settings, inputs or rows; it is removed, and "
                "training begins anew",
                self.folder,
            )
            shutil.rmtree(self.folder)
        shutil.rmtree(self.drafts, ignore_errors=True)
        self.drafts.mkdir(parents=True)
        (self.folder / _OWNER).write_text(json.dumps(self._training, indent=2) + "\n")
        whole = self._whole()
        if not whole:
            return None
        logger.info("going on after step %d of a training that was interrupted", _step(whole[-1]))
        return whole[-1]

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save nothing at the last step: the finished model follows at once."""
        if control.should_training_stop:
            control.should_save = False

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Give the state that was just written its name, and remove the one before."""
        draft = self.drafts / f"checkpoint-{state.global_step}"
        self.save_also(draft)
        before = self._whole()
        os.replace(draft, self.folder / f"{_WHOLE}{state.global_step}")
        for old in before:
            shutil.rmtree(old)

    def _whole(self) -> list[Path]:
        """Whole states, oldest first; two only where a run was killed between naming and removing."""
        return sorted(self.folder.glob(f"{_WHOLE}*"), key=_step)

    def _owner(self) -> Any:
        try:
            return json.loads((self.folder / _OWNER).read_text())
        except (FileNotFoundError, json.JSONDecodeError):  # killed before the folder had an owner
            return None


def training_of(config: Mapping[str, Any], inputs: Mapping[str, Path], rows: list[Row]) -> dict[str, Any]:
    """Say what a training is: settings, fingerprints of the inputs, rows in their order, versions."""
    return {
        "config": dict(config),
        "inputs": {name: fingerprint(path) for name, path in inputs.items()},
        "rows": digest(rows),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
    }


def _step(state: Path) -> int:
    return int(state.name.removeprefix(_WHOLE))
