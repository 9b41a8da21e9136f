"""The service: what it adds to Python's own calls, and what it gains by answering many together.

The run is one of the simulator with an untrained model of the demo's size, which costs what a trained one
does. The same requests are answered by `Recommender.recommend` in a loop, by the service for one client
after another, and by the service for 32 clients at once, all in one run of this file; clients are a process
of their own. Of three turns the fastest counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gream.cli import main
from gream.decoding.recommender import Recommender
from tests.benchmarks.figures import figure, other_process
from tests.serving.live import Service

CLIENTS, REQUESTS, TURNS = 32, 192, 3
THREADS = len(os.sched_getaffinity(0))  # of torch, in the loop and in the service
STAGES: dict[str, dict[str, Any]] = {
    "1-data": {"output": "data", "source": "simulator", "num_items": 400, "num_customers": 600},
    "2-text": {"data": "data", "output": "text"},
    "3-embed": {"data": "data", "text": "text", "output": "embeddings", "dim": 32},
    "4-sids": {"data": "data", "embeddings": "embeddings", "output": "sids", "codebook_size": 32},
    "5-vocab": {"sids": "sids", "text": "text", "output": "base"},
    "6-evaluate": {"data": "data", "sids": "sids", "model": "base", "output": "evaluation"}
    | {"reasoning": False, "max_users": 5},
}


def measure() -> dict[str, dict[str, Any]]:
    """Serve a run of its own."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder))
        loop = other_process("bench_serving", str(Path(folder) / "run"))["seconds"]
        service = Service(Path(folder) / "run", threads=THREADS)
        try:
            one = fastest(service, Path(folder), clients=1)
            many = fastest(service, Path(folder), clients=CLIENTS)
        finally:
            service.kill()
    times = sorted(many["seconds"])
    found = {
        "serving: time of a request over HTTP against a call in Python": figure(
            one["elapsed"] / loop, "x", "<= 1.2"
        ),
        f"serving: requests a second of {CLIENTS} clients against one": figure(
            one["elapsed"] / many["elapsed"], "x", ">= 5"
        ),
    }
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        found[f"serving: {name} of {CLIENTS} clients"] = figure(1000 * times[int(share * len(times))], "ms")
    return found


def make_run(folder: Path) -> None:
    """Make the run, and the requests that everybody asks."""
    recipe = folder / "recipe"
    recipe.mkdir()
    for name, settings in STAGES.items():
        (recipe / f"{name}.yaml").write_text(json.dumps({"run_dir": str(folder / "run"), **settings}))
    assert main(["run", str(recipe)]) == 0
    recommender = Recommender.load(folder / "run")
    histories = [recommender.history_of(user)[-8:] for user in recommender.interactions.user_ids[:64]]
    (folder / "run" / "histories.json").write_text(json.dumps(histories))


def in_a_loop(run: Path) -> float:
    """Seconds for all requests, one call after the other."""
    torch.set_num_threads(THREADS)
    recommender = Recommender.load(run)
    histories = json.loads((run / "histories.json").read_text())
    found = []
    for _ in range(TURNS + 1):
        started = time.monotonic()
        for number in range(REQUESTS):
            recommender.recommend(histories[number % len(histories)])
        found.append(time.monotonic() - started)
    return min(found[1:])


def fastest(service: Service, folder: Path, *, clients: int) -> dict[str, Any]:
    """Ask everything some times, and return the fastest time."""
    histories = json.loads((folder / "run" / "histories.json").read_text())
    good = [
        {"body": {"history": history}, "items": service.ask({"history": history})} for history in histories
    ]
    for one in good:
        one["items"] = [r["item_id"] for r in one["items"]]
    plan = {"good": good, "requests": REQUESTS, "clients": clients, "malformed": 0, "seed": 0}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "tests.serving.attack", service.address]
    found = []
    for _ in range(TURNS):
        subprocess.run([*command, str(folder / "plan.json"), str(folder / "result.json")], check=True)
        found.append(json.loads((folder / "result.json").read_text()))
        assert set(found[-1]["statuses"]) == {"good 200"} and not found[-1]["wrong"]
    return min(found, key=lambda one: one["elapsed"])


if __name__ == "__main__":
    print(json.dumps({"seconds": in_a_loop(Path(sys.argv[1]))}))
