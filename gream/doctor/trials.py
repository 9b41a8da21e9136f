"""Programs of a second that show whether something works; `python -m gream.doctor.trials NAME` runs one.

Each runs in a process of its own, because a broken engine may hang, or take its process along.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gream.doctor.findings import BROKEN, WORKS, Finding

AREA = "trials"
_SIDE = 512  # of the matrices that are multiplied
_ENVIRONMENT = {  # as docs of vLLM's CPU build and of transformers have it; a value of the user's own wins
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Trial:
    """A program, and how long it may take on a busy machine."""

    name: str
    what: str
    seconds: int
    mend: str


def run_trial(trial: Trial, program: Sequence[str] | None = None) -> Finding:
    """Run a trial in a process of its own; returns what it says, or why it failed.

    Args:
        trial: which.
        program: the command line; the trial's own unless given.
    """
    command = program or [sys.executable, "-m", "gream.doctor.trials", trial.name]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=_ENVIRONMENT | dict(os.environ),
        start_new_session=True,  # so that what it started ends with it
    )
    try:
        out, err = process.communicate(timeout=trial.seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Finding(AREA, trial.what, BROKEN, f"did not end within {trial.seconds} s", trial.mend)
    if process.returncode:
        return Finding(AREA, trial.what, BROKEN, _reason(err, process.returncode), trial.mend)
    told = json.loads(out.strip().splitlines()[-1])["told"]
    return Finding(AREA, trial.what, WORKS, f"{told} ({time.monotonic() - started:.0f} s)")


def _reason(err: str, code: int) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return lines[-1] if lines else f"ended with exit code {code} and without a word"


def _cpu() -> str:
    return _multiplied("cpu")


def _cuda() -> str:
    import torch

    name, free = torch.cuda.get_device_name(0), torch.cuda.mem_get_info()[0]
    return f"{name}, {free / 2**30:.0f} GB free; {_multiplied('cuda')}"


def _multiplied(device: str) -> str:
    """Multiply two matrices of ones, whose product is known, and time it."""
    import torch

    ones = torch.ones(_SIDE, _SIDE, device=device)
    started = time.perf_counter()
    product = ones @ ones
    right = bool((product == _SIDE).all())  # waits for the device
    took = time.perf_counter() - started
    if not right:
        raise RuntimeError(f"a product of ones is not {_SIDE} on {device}")
    return f"matrices of {_SIDE} multiplied in {1000 * took:.1f} ms on {torch.get_num_threads()} threads"


def _search() -> str:
    """Search all items of a tiny model, with the engine that needs nothing."""
    from gream.decoding.torch_backend import TorchBackend

    model, tokenizer, names = _tiny()
    return _found(TorchBackend(model, tokenizer.pad_token_id), tokenizer, names)


def _vllm() -> str:
    """Search all items of a tiny model, with vLLM."""
    from gream.decoding.vllm_backend import VllmBackend
    from gream.language.vocab import save_model

    model, tokenizer, names = _tiny()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), model, tokenizer, names)
        return _found(VllmBackend(Path(folder), max_model_len=256), tokenizer, names)


def _tiny():  # type: ignore[no-untyped-def]
    """Return a model of two layers that knows eight items, its tokenizer and the names."""
    import numpy as np

    from gream.language.vocab import build_model, extend, train_tokenizer
    from gream.semantic_ids.layout import Names, SidLayout

    codes = np.stack(np.unravel_index(np.arange(8), (2, 2, 2)), axis=1).astype(np.int32)
    names = Names(SidLayout((2, 2, 2)), codes)
    tokenizer = train_tokenizer(["oak desk", "tin stove", "brass lamp"] * 9, 300)
    model = build_model(len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, seed=0)
    extend(model, tokenizer, names, [np.eye(2, dtype=np.float32)] * 3)
    return model.eval(), tokenizer, names


def _found(backend, tokenizer, names) -> str:  # type: ignore[no-untyped-def]
    from gream.decoding.beam import beam_search
    from gream.language.prompting import Prompter
    from gream.semantic_ids.constraint_file import constraint_of

    prompter = Prompter(tokenizer, names)
    found = beam_search(
        backend, [prompter.direct([0, 1])], constraint_of(names), prompter.search_blocks(), num_beams=8
    )
    if len({int(item) for item in found[0].items}) != len(names):
        raise RuntimeError(f"the search found {len(found[0].items)} of {len(names)} items")
    return f"all {len(names)} items of a tiny model found"


def _two_processes() -> str:
    """Add numbers up over two processes on this machine."""
    from torch import multiprocessing

    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_add_up, (f"file://{folder}/meeting",), nprocs=2)  # type: ignore[no-untyped-call]
    return "two processes added up over gloo"


def _add_up(rank: int, meeting: str) -> None:
    import torch
    from torch import distributed

    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    number = torch.tensor([rank + 1.0])
    distributed.all_reduce(number)
    distributed.destroy_process_group()
    if number.item() != 3.0:
        raise RuntimeError(f"1 and 2 added up to {number.item()} on process {rank}")


def _deepspeed() -> str:
    """Import DeepSpeed, and look for what its first run compiles with."""
    import deepspeed

    missing = [program for program in ("g++", "ninja") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"{' and '.join(missing)} not found, which the first run compiles helpers with")
    return f"DeepSpeed {deepspeed.__version__} imported; g++ and ninja are there"


def _serving() -> str:
    """Import the HTTP service."""
    from gream.serving import app

    return f"{app.__name__} imported"


PROGRAMS: dict[str, Callable[[], str]] = {
    "cpu": _cpu,
    "cuda": _cuda,
    "search": _search,
    "processes": _two_processes,
    "vllm": _vllm,
    "deepspeed": _deepspeed,
    "serving": _serving,
}


if __name__ == "__main__":
    # Whatever libraries print comes before; the last line is the trial's.
    print("\n" + json.dumps({"told": PROGRAMS[sys.argv[1]]()}))
