"""The processes of one launch: torchrun and `accelerate launch` tell each its number in the environment.

Of several processes that do one stage together the first one writes, and tells what there is to tell.
`--accelerate` leaves word of how many it starts, since some launches quietly start one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gream.artifacts import Draft, writing
from gream.errors import InputError

_PATIENCE = timedelta(days=7)  # processes wait for each other through the longest share of work
_STARTED = "GREAM_STARTED"  # how many processes `--accelerate` meant to start
_LATER = 10.0  # seconds, in which the first process tells, and ends, for all of them


@dataclass(frozen=True)
class Team:
    """The processes of one launch, joined."""

    rank: int
    size: int
    wait: Callable[[], None]  # for all the others

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


def launched() -> int:
    """Return how many processes were started together; they need not have been joined yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Say whether this process is the one that writes; it need not have been joined to the others yet."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def starting(number: int) -> Iterator[None]:
    """Leave word to the processes that the block starts of how many they are."""
    os.environ[_STARTED] = str(number)
    try:
        yield
    finally:
        del os.environ[_STARTED]


def is_started() -> bool:
    """Say whether `--accelerate` started this process, and will tell how it ended."""
    return _STARTED in os.environ


def check_started() -> None:
    """Refuse to work where `--accelerate` meant to start another number of processes.

    Raises:
        InputError: they are not that many.
    """
    meant = os.environ.get(_STARTED, str(launched()))
    if meant != str(launched()):
        raise InputError(
            f"{meant} processes were to be started, but accelerate started {launched()}; take a file "
            "of recipes/accelerate."
        )


def tell(mistake: object) -> None:
    """Print a user's mistake, once for all processes: a launcher ends the others when the first has ended."""
    if not is_main():
        time.sleep(_LATER)
    print(f"gream: {mistake}", file=sys.stderr)


def find_team() -> Team:
    """Join the processes that torchrun or `accelerate launch` started; one alone waits for nobody.

    Raises:
        InputError: the processes do not find each other.
    """
    if launched() == 1:
        return Team(0, 1, lambda: None)
    import torch  # here, and accelerate too: they take seconds that one process may not need
    from accelerate import PartialState

    # Without a GPU accelerate joins processes only when it is told that they run on CPUs.
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)
    if state.num_processes != launched():
        raise InputError(
            f"{launched()} processes were started, but accelerate joined {state.num_processes}; start them "
            "with torchrun, or correct the config of `accelerate launch`."
        )
    return Team(state.process_index, state.num_processes, state.wait_for_everyone)


@contextlib.contextmanager
def writing_once(
    folder: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], seed: int
) -> Iterator[Draft | None]:
    """Give the draft of `gream.artifacts.writing` to the process that writes, and None to the others.

    These are through before the folder has its name; let them wait for the one that writes.
    """
    if not is_main():
        yield None
        return
    with writing(folder, stage=stage, config=config, inputs=inputs, seed=seed) as draft:
        yield draft
