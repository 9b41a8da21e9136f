"""Good requests among malformed ones: all good ones get the answers of Python, and memory stays level."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gream.decoding.recommender import Recommender
from tests.serving.live import Service


def good_requests(run: Path) -> list[dict[str, Any]]:
    """Requests of every kind, each with its answer without any service."""
    recommender = Recommender.load(run)
    settings: list[dict[str, Any]] = [
        {}, {"k": 3}, {"exclude_seen": False, "k": 20}, {"mode": "reasoning", "num_chains": 1, "seed": 5},
    ]  # fmt: skip
    found = []
    for place, user in enumerate(recommender.interactions.user_ids[:16]):
        history = recommender.history_of(user)[: 1 + place % 7]
        chosen = settings[place % len(settings)]
        items = [r.item_id for r in recommender.recommend(history, **chosen)]
        found.append({"body": {"history": history, **chosen}, "items": items})
    return found


def attacked(service: Service, folder: Path, good: list[dict[str, Any]], requests: int) -> dict[str, Any]:
    plan = {"good": good, "requests": requests, "clients": 32, "malformed": 0.2, "seed": requests}
    (folder / "plan.json").write_text(json.dumps(plan))
    command = [sys.executable, "-m", "tests.serving.attack", service.address]
    subprocess.run([*command, str(folder / "plan.json"), str(folder / "result.json")], check=True)
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def memory(service: Service) -> int:
    """Resident memory of the service in kB."""
    lines = Path(f"/proc/{service.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.parametrize(
    ("first", "others"),
    [(300, 300), pytest.param(1000, 9000, marks=pytest.mark.slow)],
    ids=["short", "whole"],
)
def test_no_malformed_request_harms_a_good_one(
    service: Service, run_folder: Path, tmp_path: Path, first: int, others: int
) -> None:
    good = good_requests(run_folder)
    warm = attacked(service, tmp_path, good, first)
    before = memory(service)
    found = attacked(service, tmp_path, good, others)
    for one in (warm, found):
        assert one["wrong"] == []
        statuses = one["statuses"]
        assert {status for status in statuses if status.startswith("good")} == {"good 200"}
        refused = {status.removeprefix("bad ") for status in statuses if status.startswith("bad")}
        assert refused <= {"400", "404", "405", "409", "413", "422", "cut off"} and len(refused) >= 4
    assert memory(service) < 1.1 * before + 20_000
    assert service.client.get("/health/ready").status_code == 200


def test_changes_under_load_fail_no_request(service: Service, run_folder: Path, tmp_path: Path) -> None:
    """Models are loaded again, items come, prices change: every answer is that of a whole run."""
    good = [one for one in good_requests(run_folder) if not one["body"].get("exclude_seen", True)]
    for one in good:  # new items must not get into these lists
        known = sorted(Recommender.load(run_folder).catalogue.item_ids)
        one["body"]["filters"] = {"allow": known}
    with ThreadPoolExecutor(1) as attacking:
        attack = attacking.submit(attacked, service, tmp_path, good, 400)
        rounds = 0
        while not attack.done():
            item = {"item_id": f"new-{rounds}", "title": "Blue Hose"}
            assert service.client.post("/v1/items", json={"items": [item]}).status_code == 200
            assert service.client.post("/v1/reload").status_code == 200
            change = {"price": float(rounds)}
            assert service.client.patch(f"/v1/items/new-{rounds}", json=change).json()["price"] == rounds
            rounds += 1
        found = attack.result()
    assert rounds >= 3 and found["wrong"] == []
    assert {status for status in found["statuses"] if status.startswith("good")} == {"good 200"}
