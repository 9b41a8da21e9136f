"""Starts a program of this folder on two real processes, which talk over gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def on_cpu(name: str, file: Path) -> Path:
    """Copy a config of recipes/accelerate, changed to two processes on the CPU as its README says."""
    text = (ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text()
    file.write_text(text.replace("use_cpu: false", "use_cpu: true").replace("processes: 8", "processes: 2"))
    return file


def two_processes(
    program: str, folder: Path, seconds: int, *words: str, config: str = ""
) -> list[dict[str, Any]]:
    """Run a program of this folder on two real processes; what each wrote, by rank.

    Args:
        program: module of this folder.
        folder: what it is told first, and where each process writes `rank-N.json`.
        seconds: after which it counts as hanging.
        words: what it is told besides.
        config: one of recipes/accelerate to start it with, on a CPU; without, torchrun starts it.
    """
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    if config:
        file = on_cpu(config, folder / f"{config}.yaml")
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(file)]
    ended = subprocess.run(
        [sys.executable, *launch, "-m", f"tests.training.{program}", str(folder), *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def started(words: Sequence[str], how: str, **options: Any) -> subprocess.Popen[str]:
    """Start a gream command on two processes by `--accelerate`, with pipes for what it tells."""
    return subprocess.Popen(
        [sys.executable, "-m", "gream.cli", *words, "--accelerate", how, "--processes", "2"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
