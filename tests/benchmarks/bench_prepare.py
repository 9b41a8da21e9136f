"""Stage `data` on ten million purchases: 5-core, order and split within two minutes and 6 GB.

The purchases are made up: users and items drawn with skewed weights, ids as text, times in seconds, rows in
no order, one Parquet file. The stage runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tests.benchmarks.figures import figure, other_process

NUM_PURCHASES, NUM_USERS, NUM_ITEMS = 10_000_000, 1_000_000, 200_000
MOST_SECONDS, MOST_GB = 120, 6
_SKEW = 0.7  # exponent of rank in the popularity of items
_FROM, _TO = 1_500_000_000, 1_700_000_000  # UNIX seconds


def measure() -> dict[str, dict[str, Any]]:
    """Make the purchases, prepare them in another process, and return time and memory with their bars."""
    with tempfile.TemporaryDirectory() as folder:
        write_purchases(Path(folder) / "purchases.parquet", seed=0)
        found = other_process("bench_prepare", folder)
    return {
        "prepare 10 M interactions": figure(found["seconds"], "s", f"<= {MOST_SECONDS}"),
        "prepare 10 M interactions, peak memory": figure(found["peak_mb"] / 1024, "GB", f"<= {MOST_GB}"),
    }


def write_purchases(path: Path, *, seed: int) -> None:
    """Write the made-up purchases as Parquet: user, item, time."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1, NUM_ITEMS + 1) ** -_SKEW
    place = np.searchsorted(np.cumsum(popularity) / popularity.sum(), rng.random(NUM_PURCHASES))
    activity = rng.gamma(1.5, size=NUM_USERS)
    user = np.searchsorted(np.cumsum(activity) / activity.sum(), rng.random(NUM_PURCHASES))
    users = pl.Series([f"A{number:012X}" for number in rng.permutation(NUM_USERS)])
    items = pl.Series([f"B{number:09d}" for number in rng.permutation(NUM_ITEMS)])
    columns = {
        "user": users.gather(user.clip(max=NUM_USERS - 1)),
        "item": items.gather(place.clip(max=NUM_ITEMS - 1)),
        "time": rng.integers(_FROM, _TO, NUM_PURCHASES),
    }
    pl.DataFrame(columns).write_parquet(path)


def _prepare(folder: Path) -> None:
    """Run the stage and print what it cost, one line of JSON."""
    from gream import artifacts
    from gream.data.prepare import DataConfig, run

    config = DataConfig(
        run_dir=str(folder / "run"),
        source="table",
        path=str(folder / "purchases.parquet"),
        columns={"user": "user", "item": "item", "time": "time"},
    )
    started = time.perf_counter()
    run(config)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": artifacts.peak_memory_mb()}))


if __name__ == "__main__":
    _prepare(Path(sys.argv[1]))
