"""The service before vLLM: its own engine beside it, and two servers, of which one dies under load."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.decoding.vllm_servers import VllmServer
from tests.serving.live import Service
from tests.serving.test_under_attack import attacked, good_requests

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def direct_only(run: Path) -> list[dict[str, object]]:
    """Good requests whose answers do not depend on the engine: no chain is drawn."""
    pytest.importorskip("vllm")
    return [one for one in good_requests(run) if "mode" not in one["body"]]


def test_the_engine_beside_the_service_answers_as_torch_does(run_folder: Path, tmp_path: Path) -> None:
    good = direct_only(run_folder)
    service = Service(run_folder, engine="vllm")
    try:
        found = attacked(service, tmp_path, good, 64)
        chains = service.ask({"history": good[0]["body"]["history"], "mode": "reasoning", "num_chains": 2})
        assert len(chains) == 10 and chains[0]["chain"]
        service.process.terminate()
        assert service.process.wait(60) == 0
    finally:
        service.kill()
    assert found["wrong"] == [] and found["statuses"]["good 200"] > 40
    assert {status[:3] for status in found["statuses"]} <= {"goo", "bad"}


def test_one_of_two_servers_is_killed_under_load_and_no_request_is_lost(
    run_folder: Path, tmp_path: Path
) -> None:
    good = direct_only(run_folder)
    model = run_folder / json.loads((run_folder / "run.json").read_text())["model"]
    servers = [VllmServer(model), VllmServer(model)]
    service = None
    try:
        for server in servers:
            server.wait()
        service = Service(run_folder, engine="openai", url=",".join(server.url for server in servers))
        with ThreadPoolExecutor(1) as attacking:
            attack = attacking.submit(attacked, service, tmp_path, good, 400)
            while min(server.metric("vllm:prompt_tokens_total") for server in servers) < 500:
                time.sleep(0.1)  # both are asked
            assert not attack.done()
            servers[0].kill()
            found = attack.result()
        assert found["wrong"] == []
        assert {status for status in found["statuses"] if status.startswith("good")} == {"good 200"}
        servers[1].kill()
        response = service.client.post("/v1/recommendations", json=good[0]["body"])
        assert response.status_code == 503 and servers[0].url in response.json()["detail"]
        assert service.process.poll() is None
    finally:
        if service:
            service.kill()
        for server in servers:
            server.kill()
