"""The prompt pool and the refilling in TRL's own trainer, on two real processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.training.processes import two_processes


@pytest.mark.slow  # two processes import TRL
def test_trl_trains_on_refilled_batches_on_two_processes(run_dir: Path) -> None:
    """Equal calls and equal weights on both, no prompt twice, ratios against the policy of the day."""
    first, second = two_processes("two_processes_srpo", run_dir, seconds=150)
    assert first["world_size"] == second["world_size"] == 2
    for equal in ("diary", "refilled", "weights", "pool"):
        assert first[equal] == second[equal], equal
    rounds = [took["refill_rounds"] for took in first["refilled"]]
    assert len(rounds) == 6 and max(rounds) > 0
    assert first["diary"].count("score") == 6 + sum(rounds)
    assert first["stale"] + second["stale"] > 0 and first["current"] + second["current"] > 0
    live, used = (sum(took[key] for took in first["refilled"]) for key in ("live_groups", "used_groups"))
    assert live == used + first["refilled"][-1]["buffered_groups"]
    assert all(math.isfinite(loss) for loss in first["losses"])
    draws = zip(*(iter(first["asked"]),) * 2, *(iter(second["asked"]),) * 2, strict=True)
    assert all(len(set(draw)) == 4 for draw in draws)
