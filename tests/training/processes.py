"""Starts a program of this folder on two real processes, which talk over gloo on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def two_processes(program: str, folder: Path, seconds: int) -> list[dict[str, Any]]:
    """Run a program of this folder on two real processes; what each wrote, by rank."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [sys.executable, *launch, "-m", f"tests.training.{program}", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]
