"""The processes of one launch: torchrun and `accelerate launch` tell each its number in the environment.

Of several processes that do one stage together the first one writes, and tells what there is to tell.
`--accelerate` leaves word of how many it starts, since some launches quietly start one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from gream.artifacts import Draft, writing
from gream.errors import InputError

_PATIENCE = timedelta(days=7)  # processes wait for each other through the longest share of work
_STARTED = "GREAM_STARTED"  # how many processes `--accelerate` meant to start
_BY_TORCHRUN = "TORCHELASTIC_RUN_ID"  # through which `accelerate launch` starts several processes
_END_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
_LATER = 10.0  # seconds, in which the first process tells, and ends, for all of them
_AT_ONCE = 64  # results that a process hands over together; all of them in one message need twice the memory

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Team:
    """The processes of one launch, joined; without arguments one process, alone."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], None] = lambda: None  # for all the others
    gather: Callable[[Any], list[Any]] = lambda value: [value]  # what each gave, in the main one; else []
    told: Callable[[Any], Any] = lambda value: value  # what the main one gave, in every process

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return what this process does of units of work: they are taken in turn."""
        return units[self.rank :: self.size]

    def share_out(self, units: Sequence[Unit], work: Callable[[Unit], Result]) -> list[Result]:
        """Do all units of work together.

        Args:
            units: the same in every process.
            work: does one of them; what it gives must not depend on the units before it.

        Returns:
            The results in the order of the units in the main process, nothing in the others.
        """
        done = [work(unit) for unit in self.share(units)]
        results: list[Result] = []
        for start in range(0, -(-len(units) // self.size), _AT_ONCE):
            shares = self.gather(done[start : start + _AT_ONCE])
            for turn in range(max(map(len, shares), default=0)):
                results += [share[turn] for share in shares if turn < len(share)]
        return results


ALONE = Team()


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

    On Linux a process that `--accelerate` or torchrun started ends with its launcher from here on.

    Raises:
        InputError: they are not that many.
    """
    by_torchrun = launched() > 1 and _BY_TORCHRUN in os.environ
    if (is_started() or by_torchrun) and sys.platform == "linux":
        # A killed `gream run` leaves its lock; what it started must not write on beside the next one.
        ctypes.CDLL(None).prctl(_END_WITH_PARENT, signal.SIGKILL)
    meant = os.environ.get(_STARTED, str(launched()))
    if meant != str(launched()):
        raise InputError(
            f"{meant} processes were to be started, but accelerate started {launched()}; take a file "
            "of recipes/accelerate."
        )


def give_way() -> None:
    """Let the first process tell why it ended, and its launcher end this one, which may only have lost it."""
    if not is_main():
        time.sleep(_LATER)


def tell(mistake: object) -> None:
    """Print a user's mistake, once for all processes."""
    give_way()
    print(f"gream: {mistake}", file=sys.stderr)


def no_bar() -> bool | None:
    """Tell tqdm whether to show nothing: the first process shows its bars, on a terminal."""
    return None if is_main() else True


def find_team() -> Team:
    """Join the processes that torchrun or `accelerate launch` started; one alone waits for nobody.

    They talk on their hosts whatever they compute on. Where there are GPUs each process gets its own.

    Raises:
        InputError: the processes were not told where to find each other.
    """
    if launched() == 1:
        return ALONE
    import torch  # here, because it takes seconds that one process may not need
    from torch import distributed

    if "MASTER_ADDR" not in os.environ:
        raise InputError(
            f"{launched()} processes were started, but not told where to find each other (MASTER_ADDR is not "
            "set); start them with torchrun or `accelerate launch`."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    # With it transformers gives weights to one process and leaves the others' to a trainer that is not here.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    if not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    rank, size = distributed.get_rank(), distributed.get_world_size()

    def gather(value: Any) -> list[Any]:
        values = [None] * size if rank == 0 else None
        distributed.gather_object(value, values, dst=0)
        return values or []

    def told(value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    return Team(rank, size, distributed.barrier, gather, told)


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
