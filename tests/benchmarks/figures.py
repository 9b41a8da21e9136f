"""A figure beside its bar, and how it is measured: the best of some times, in a process of its own."""

from __future__ import annotations

import json
import operator
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_RELATIONS = {">=": operator.ge, "<=": operator.le}


def figure(value: float, unit: str, bar: str = "") -> dict[str, Any]:
    """Put a value beside a bar such as ">= 10" and say whether it holds; the bar "" asks nothing of it."""
    relation, limit = bar.split() if bar else (">=", "-inf")
    return {
        "value": value,
        "unit": unit,
        "bar": bar,
        "holds": bool(_RELATIONS[relation](value, float(limit))),
    }


def best_seconds(task: Callable[[], object], repeats: int) -> float:
    """Run a task some times and return the shortest time."""
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        task()
        found.append(time.perf_counter() - started)
    return min(found)


def other_process(module: str, task: str) -> dict[str, Any]:
    """Run `python -m tests.benchmarks.MODULE TASK` in a process of its own, and read its last line."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", task]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{module} {task} failed: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
