"""SRPO's trainer on two real processes: equal work, no waiting for ever, and nothing live lost."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.training.processes import two_processes


@pytest.mark.slow  # two processes import TRL
def test_srpo_trains_on_refilled_batches_on_two_processes(run_dir: Path) -> None:
    """Equal calls, logs and weights on both; ratios against the policy of the day."""
    first, second = two_processes("two_processes_srpo", run_dir, seconds=300)
    own = [rank.pop("own") for rank in (first, second)]
    assert first["world_size"] == 2
    assert first == second
    log = first["log"]
    rounds = sum(int(entry["refill_rounds"]) for entry in log)
    assert len(log) == 6 and rounds > 0
    written = [line for line in first["diary"] if line.startswith("write")]
    assert len(written) == 6 + rounds
    assert {"write direct", "write reasoning"} == set(written)
    live = sum(entry["live_groups"] * entry["generated_groups"] for entry in log)
    waiting = sum(entry["buffered_groups"] for entry in log[-2:])  # one batch of each mode
    assert round(live) == sum(entry["used_groups"] for entry in log) + waiting
    assert sum(rank["stale"] for rank in own) > 0 and sum(rank["current"] for rank in own) > 0
    assert all(math.isfinite(entry["loss"]) for entry in log)
