"""All stages of recipes/demo with settings that take a second each, and runs of it in forked processes."""

from __future__ import annotations

import errno
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import yaml

DEMO = Path(__file__).parents[1] / "recipes" / "demo"
TASKS = {"next_item": 1.0, "title_to_name": 0.5}
REASONING = {"next_item": 0.5, "reasoning_1": 0.2, "reasoning_5": 0.3}
SMALLER: dict[str, dict[str, Any]] = {
    "01-data": {"num_items": 120, "num_customers": 200},
    "03-embed": {"dim": 16},
    "04-sids": {"codebook_size": 8},
    "05-vocab": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "text_tokens": 500},
    "06-synthesize": {"per_user": 1},
    "07-sft-alignment": {"tasks": TASKS, "epochs": 1, "save_steps": 5, "max_history": 6},
    "08-sft-reasoning": {
        "tasks": REASONING, "epochs": 1, "save_steps": 3, "max_history": 6, "validation_users": 20,
        "validate_every": 0.3,
    },
    "09-srpo": {
        "max_steps": 4, "save_steps": 1, "prompts_per_batch": 4, "num_generations": 4,
        "micro_batch_size": 16, "max_completion_length": 24, "max_history": 6, "trainable": "lora",
    },
    "10-prm": {"hidden_size": 16, "neighbours": 10, "num_negatives": 4, "epochs": 2},
    "11-baselines": {"validation_users": 50, "sasrec_size": 16, "sasrec_epochs": 3},
    "12-evaluate": {
        "max_users": 12, "num_beams": 5, "expand_width": 10, "num_chains": 1, "max_chain_tokens": 12,
        "max_history": 6,
    },
}  # fmt: skip
TROUBLE = "-- trouble --"  # printed where it comes
TIMED = {"evaluation": {"report.json", "report.md", "cost.png"}}  # files that hold times


def write_recipe(folder: Path, run_dir: Path, stages: int) -> Path:
    """Write the first `stages` files of the small recipe into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(DEMO.glob("*.yaml"))[:stages]:
        settings = yaml.safe_load(file.read_text()) | SMALLER.get(file.stem, {}) | {"run_dir": str(run_dir)}
        (folder / file.name).write_text(yaml.safe_dump(settings))
    return folder


class Forks:
    """A process that has imported what stages need, and forks for each command: a kill costs no import.

    It is a process of its own, because threads that other tests have started would not survive a fork.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        # Unbuffered: of a command that is over before its number was read, the exit code must stay in the
        # pipe, where `select` finds it.
        self._server = subprocess.Popen(
            [sys.executable, __file__, *modules], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def start(
        self, words: list[str], log: Path, trouble: tuple[str, int] | None = None, *, processes: int = 1
    ) -> Run:
        """Start `gream WORDS`; it prints into `log`.

        Args:
            words: the command line after `gream`.
            log: the file for what it prints.
            trouble: `kill` or `full`, and how many times something is made, flushed or named before it comes;
                of several processes to the last one.
            processes: how many work together, as torchrun starts them: with one that fails, all end.
        """
        assert self._server.stdin is not None and self._server.stdout is not None
        log.unlink(missing_ok=True)
        self._server.stdin.write(json.dumps([words, str(log), trouble, processes]).encode() + b"\n")
        return Run(int(self._server.stdout.readline()), log, time.monotonic(), self._server.stdout)

    def close(self) -> None:
        """End the process."""
        self._server.communicate()


@dataclass
class Run:
    """A forked `gream` command; only one at a time."""

    pid: int  # of its first process
    log: Path
    started: float
    told: IO[bytes]  # where the server tells the exit code
    code: int | None = None  # as of subprocess: negative for a signal

    def stop(self, after: float, number: int = signal.SIGKILL) -> None:
        """Send a signal some seconds after the start, unless the command ends before."""
        if not self._ends_within(max(0.0, self.started + after - time.monotonic())):
            os.kill(self.pid, number)  # still there, if only as a zombie, until its code is read

    def wait(self, most: float = 120.0) -> int:
        """Wait for the end; returns the exit code."""
        assert self._ends_within(most), f"still running:\n{self.text()}"
        assert self.code is not None
        return self.code

    def text(self) -> str:
        """What the command printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def _ends_within(self, seconds: float) -> bool:
        if self.code is None and select.select([self.told], [], [], seconds)[0]:
            self.code = int(self.told.readline())
        return self.code is not None


def serve(modules: Sequence[str]) -> None:
    """Fork for every line of the standard input; tell the first process's number, and the exit code."""
    for module in ("gream.cli", *modules):
        importlib.import_module(module)
    for line in sys.stdin:
        words, log, trouble, processes = json.loads(line)
        Path(log).write_text("")
        told = [_told(rank, processes, port) for port in [_free_port()] for rank in range(processes)]
        pids = []
        for of_rank in told:
            pids.append(os.fork())
            if not pids[-1]:
                os.environ.update(of_rank)
                _run(words, log, trouble if of_rank is told[-1] else None)
        print(pids[0], flush=True)
        print(_end_of(set(pids)), flush=True)


def _told(rank: int, processes: int, port: int) -> dict[str, str]:
    """What torchrun tells a process; nothing to one alone."""
    if processes == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _end_of(pids: set[int]) -> int:
    """Wait for all processes; the exit code of the first one that failed, which ends the others."""
    code = 0
    while pids:
        pid, status = os.wait()
        pids.remove(pid)
        if not code and (code := os.waitstatus_to_exitcode(status)):
            for other in pids:
                os.kill(other, signal.SIGKILL)
    return code


def _run(words: list[str], log: str, trouble: tuple[str, int] | None) -> NoReturn:
    code = 1
    try:
        target = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        from gream.cli import main

        if trouble:
            _plan_trouble(*trouble)
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _plan_trouble(kind: str, before: int) -> None:
    """Let the process die, or find the disk full, after some calls that change what is on the disk."""
    left = iter(range(before, -1, -1))

    def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if next(left, 1) == 0:
                print(TROUBLE, flush=True)
                if kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **options)

        return call

    for name in ("replace", "fsync", "mkdir", "unlink", "rmdir", "truncate"):
        setattr(os, name, guarded(getattr(os, name)))


if __name__ == "__main__":
    serve(sys.argv[1:])
