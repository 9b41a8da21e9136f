"""`gream STAGE --accelerate NAME`: starts a command on several processes, as `accelerate launch` does.

`gream run RECIPE --accelerate NAME` starts each stage so that works on several processes.

It is the short form of `accelerate launch --config_file recipes/accelerate/NAME.yaml -m gream.cli STAGE`: on
all GPUs of this machine, or on as many processes as `--processes` says. Several machines need the long form,
which recipes/accelerate/README.md shows.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from gream.errors import InputError
from gream.pipeline import Step
from gream.processes import starting

# What works on several processes.
COMMANDS = ("embed", "synthesize", "sft", "srpo", "prm", "evaluate", "recommend")
_OWN_WORDS = ("--accelerate", "--processes")
_FOLDERS = (Path("recipes"), Path(__file__).parents[1] / "recipes")
_SINGLE = "single"


def take_words(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Take `--accelerate NAME` and `--processes N` out of a command line.

    Returns:
        The other words, and the two values by name; without `accelerate` nothing is taken.

    Raises:
        InputError: a word without its value.
    """
    rest, taken = [], {}
    left = iter(words)
    for word in left:
        name, has_value, value = word.partition("=")
        if name not in _OWN_WORDS:
            rest.append(word)
            continue
        value = value if has_value else next(left, "")
        if not value or value.startswith("--"):
            raise InputError(f"`{name}` needs a value, such as `--accelerate zero3 --processes 8`.")
        taken[name.removeprefix("--")] = value
    return (rest, taken) if "accelerate" in taken else (list(words), {})


def launch(words: Sequence[str], accelerate: str, processes: str = "") -> int:
    """Run a gream command on several processes; returns its exit code.

    Args:
        words: the command line after `gream`, without the words of this module.
        accelerate: the name of a file in recipes/accelerate, or the path of another configuration.
        processes: how many; empty for one on each GPU of this machine.

    Raises:
        InputError: no such configuration, a command that works in one process, or no GPU and no number.
        KeyboardInterrupt: stopped by Ctrl-C; the processes have ended.
    """
    command = words[0] if words else ""
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise InputError(f"`gream {command}` works in one process; `--accelerate` is for {known}.")
    told = _configuration(accelerate)
    number = _number(processes, told)
    with _file(told | {"num_processes": number}) as file, starting(number):
        return _run(["--config_file", str(file), "-m", "gream.cli", *words])


def launching(words: Sequence[str], accelerate: str, processes: str = "") -> Callable[[Step], bool]:
    """Give what runs a recipe's stage on several processes, where the stage can work so.

    Args:
        words: settings of the command line that win in every file.
        accelerate: as of `launch`.
        processes: as of `launch`.
    """
    _number(processes, _configuration(accelerate))  # a mistake is told before anything runs

    def start(step: Step) -> bool:
        alone = step.stage == "evaluate" and getattr(step.config, "engine", "torch") != "torch"
        if alone or step.stage.split()[0] not in COMMANDS:
            return False  # vLLM shares its work out itself
        code = launch([*step.stage.split(), "--config", str(step.file), *words], accelerate, processes)
        if code:
            raise SystemExit(code)  # the stage has told why
        return True

    return start


def _configuration(name: str) -> dict[str, Any]:
    own = [folder / "accelerate" / f"{name}.yaml" for folder in _FOLDERS] if Path(name).name == name else []
    file = next((path for path in [*own, Path(name)] if path.is_file()), None)
    if file is None:
        raise InputError(
            f"accelerate is {name!r}; give single, ddp, zero2, zero3 or fsdp, or the path of a file that "
            "`accelerate config` wrote."
        )
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no YAML; give a file that `accelerate config` wrote.") from error
    if not isinstance(told, dict) or "distributed_type" not in told:
        raise InputError(f"{file} has no `distributed_type`; give a file that `accelerate config` wrote.")
    if (told.get("num_machines") or 1) != 1:
        raise InputError(
            f"{file} is for {told['num_machines']} machines; start each with `accelerate launch`, as "
            "recipes/accelerate/README.md shows."
        )
    return told


def _number(processes: str, told: dict[str, Any]) -> int:
    """How many processes to start; sets `use_cpu` where there is no GPU."""
    from torch import cuda  # here, because it takes seconds

    gpus = 0 if told.get("use_cpu") else cuda.device_count()
    told["use_cpu"] = not gpus
    if processes and not (processes.isdecimal() and int(processes) > 0):
        raise InputError(f"processes is {processes!r}; give a number of at least 1.")
    if told["distributed_type"] == "NO":
        if processes not in ("", "1"):
            raise InputError(f"`--accelerate {_SINGLE}` starts one process, not {processes}; take ddp.")
        return 1
    if not processes and not gpus:
        raise InputError("There is no GPU here; say on how many processes to work, such as `--processes 2`.")
    number = int(processes or gpus)
    if gpus and number > gpus:
        raise InputError(f"processes is {number}, but there are {gpus} GPUs; give at most that many.")
    if number == 1:
        raise InputError(f"One process shares nothing out; take `--accelerate {_SINGLE}`, or leave it out.")
    return number


@contextlib.contextmanager
def _file(told: dict[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gream-") as folder:
        file = Path(folder) / "accelerate.yaml"
        file.write_text(yaml.safe_dump(told), encoding="utf-8")
        yield file


def _run(words: list[str]) -> int:
    """Launch and wait; a process that failed has told why, so that the launcher need not."""
    import subprocess

    from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    parsed = launch_command_parser().parse_args(words)
    try:
        _validate_launch_command(copy.copy(parsed))
    except ValueError as error:
        raise InputError(f"accelerate refuses the configuration: {_one_line(error)}") from error
    logging.disable(logging.ERROR)
    try:
        launch_command(parsed)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from error
        code = -error.sigval
    else:
        return 0
    finally:
        logging.disable(logging.NOTSET)
    # As a shell tells of a process that a signal ended.
    return code if code >= 0 else 128 - code


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") + "."
