"""The state of an unfinished training, in a hidden folder beside its output.

`.OUTPUT.checkpoint` holds the last whole state and says which training it belongs to: settings, inputs,
rows in their order, versions of the libraries. The trainer writes a state into a place of its own, and it
gets its name only when all of it is on the disk, so a run that is killed while it saves goes on from the
state before. Each state lists the hashes of its files, and one that was damaged later is never loaded. The
folder vanishes with the finished training.

With several processes all write into the same state; the first one names and removes, and the others wait.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gream.artifacts import file_hashes, fingerprint, flush_to_disk, write_file
from gream.errors import InputError
from gream.language.curriculum import digest
from gream.language.rows import Row
from gream.processes import is_main, launched

logger = logging.getLogger(__name__)

_OWNER = "training.json"  # which training the folder belongs to
_WHOLE = "step-"
_HASHES = "hashes.json"  # of the other files of a state
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
        self.save_also: list[Callable[[Path], None]] = []  # what else belongs to a state, in every process
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
        if is_main() and (kind is None or not self._whole()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def prepare(self) -> Path | None:
        """Make the folder ready, and return the state to go on from; None to begin at the first row.

        With several processes call it after the trainer's arguments were made, which join the processes.

        Raises:
            InputError: the processes that were started were not joined.
        """
        _check_joined()
        if is_main():
            self._make_ready()
            self._drop_damaged()
        wait_for_all()
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
        for save in self.save_also:
            save(draft)
        wait_for_all()  # none may still be writing
        if is_main():
            before = self._whole()
            write_file(draft / _HASHES, json.dumps(file_hashes(draft), indent=2) + "\n")
            flush_to_disk(draft)
            os.replace(draft, self.folder / f"{_WHOLE}{state.global_step}")
            for old in before:
                shutil.rmtree(old)

    def _make_ready(self) -> None:
        if self.folder.exists() and self._owner() != self._training:
            logger.info(
                "%s holds an unfinished training with other settings, inputs or rows; it is removed, and "
                "training begins anew",
                self.folder,
            )
            shutil.rmtree(self.folder)
        shutil.rmtree(self.drafts, ignore_errors=True)
        self.drafts.mkdir(parents=True)
        write_file(self.folder / _OWNER, json.dumps(self._training, indent=2) + "\n")

    def _drop_damaged(self) -> None:
        for state in self._whole():
            if _hashes_of(state) != file_hashes(state, but=(_HASHES,)):
                logger.info(
                    "%s is damaged: its files are not what was saved; it is removed, and training goes on "
                    "from the state before, or begins anew",
                    state,
                )
                shutil.rmtree(state)

    def _whole(self) -> list[Path]:
        """Whole states, oldest first; two only where a run was killed between naming and removing."""
        return sorted(self.folder.glob(f"{_WHOLE}*"), key=_step)

    def _owner(self) -> Any:
        try:
            return json.loads((self.folder / _OWNER).read_text())
        except (FileNotFoundError, ValueError):  # killed before the folder had an owner, or damaged
            return None


def training_of(
    config: Mapping[str, Any], inputs: Mapping[str, Path], rows: Sequence[Row] | None = None
) -> dict[str, Any]:
    """Say what a training is: settings, fingerprints of the inputs, rows in their order, versions, processes.

    Args:
        config: the stage's settings.
        inputs: folders and files that it reads, by name.
        rows: what is trained on, in order; None where settings and inputs decide that alone.
    """
    return {
        "config": dict(config),
        "inputs": {name: fingerprint(path) for name, path in inputs.items()},
        "rows": None if rows is None else digest(list(rows)),
        "versions": {name: metadata.version(name) for name in _VERSIONED},
        "processes": launched(),  # each has random numbers of its own
    }


def steps_between_states(save_steps: int, num_iterations: int) -> int:
    """Return `save_steps`, rounded up to whole batches of completions.

    TRL's trainer keeps no completions in its states: one that goes on in the middle of the steps on a batch
    would write completions of its own, and count the rest of its steps from there.
    """
    return -(-save_steps // num_iterations) * num_iterations


def _hashes_of(state: Path) -> Any:
    """Read the hashes that a state was saved with; None where they cannot be read."""
    try:
        return json.loads((state / _HASHES).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def wait_for_all() -> None:
    """Wait for the other processes of the training, where there are any."""
    if distributed.is_initialized():
        distributed.barrier()


def _check_joined() -> None:
    joined = distributed.get_world_size() if distributed.is_initialized() else 1
    if joined != launched():
        raise InputError(
            f"{launched()} processes were started, but {joined} were joined for the training; start them "
            "with torchrun, or correct the config of `accelerate launch`."
        )


def _step(state: Path) -> int:
    return int(state.name.removeprefix(_WHOLE))
