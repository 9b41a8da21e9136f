"""`gream serve` as a process: settings, addresses, keys, signals, and requests that arrive together."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

import gream.serving
from gream.cli import main
from gream.errors import InputError
from gream.serving import app as serve
from tests.serving.conftest import Watched
from tests.serving.live import Service


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = serve.ServeConfig(run_dir=str(tmp_path), port=taken.getsockname()[1])
        with pytest.raises(InputError, match=r":\d+ \(Address already in use\); give another --port"):
            serve.run(config)


def test_a_port_out_of_range_is_told() -> None:
    with pytest.raises(InputError, match="port 70000 is out of range"):
        serve.listen("127.0.0.1", 70000)


def test_an_open_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(serve.KEY, raising=False)
    with pytest.raises(
        InputError, match="no key protects the service; put one into the environment as GREAM_API_KEY"
    ):
        serve.run(serve.ServeConfig(run_dir=str(tmp_path), host="0.0.0.0"))


def test_without_the_extra_the_message_names_it(
    monkeypatch: pytest.MonkeyPatch, recommender: Watched
) -> None:
    monkeypatch.delattr(gream.serving, "api", raising=False)
    monkeypatch.delitem(sys.modules, "gream.serving.api", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(InputError, match=r"pip install 'gream\[serve\]'"):
        serve.create_app(recommender)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_batch", 0),
        ("max_queue", 0),
        ("max_body_kb", 0),
        ("max_seconds", 0.0),
        ("batch_wait_ms", -1.0),
        ("drain_seconds", -1),
    ],
)
def test_limits_that_let_nothing_through_are_refused(recommender: Watched, name: str, value: float) -> None:
    with pytest.raises(InputError, match=rf"{name} (is )?{value}"):
        serve.create_app(recommender, serve.ServeConfig(run_dir="", **{name: value}))


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(serve, "run", seen.append)
    file = tmp_path / "serve.yaml"
    file.write_text("port: 8001\nmax_queue: 7\nmax_batch: 5\n")
    monkeypatch.setenv("GREAM_SERVE_PORT", "8002")
    monkeypatch.setenv("GREAM_SERVE_MAX_QUEUE", "9")
    assert main(["serve", "runs/x", "--config", str(file), "--port", "8003"]) == 0
    assert (seen[0].port, seen[0].max_queue, seen[0].max_batch, seen[0].run_dir) == (8003, 9, 5, "runs/x")
    monkeypatch.setenv("GREAM_SERVE_PROT", "8002")
    assert main(["serve", "runs/x"]) == 2 and len(seen) == 1


def test_a_service_batches_reloads_and_finishes_what_it_began(service: Service, run_folder: Path) -> None:
    ask = {"history": ["item-0007"], "mode": "reasoning", "num_chains": 2}
    alone = service.ask(ask)
    with ThreadPoolExecutor(12) as clients:
        many = list(clients.map(lambda _: service.ask(ask), range(24)))
        for found in many:
            assert [r["item_id"] for r in found] == [r["item_id"] for r in alone]
        settings = json.loads((run_folder / "run.json").read_text())
        (run_folder / "run.json").write_text(json.dumps({**settings, "num_beams": 11}))
        os.kill(service.process.pid, signal.SIGHUP)
        while service.client.get("/v1/service").json()["num_beams"] != 11:
            time.sleep(0.05)
        text = service.client.get("/metrics").text
        batches = float(text.split("gream_batch_questions_count ")[1].split()[0])
        assert 1 < batches < 25
        asked = [clients.submit(service.ask, {**ask, "seed": n}) for n in range(12)]
        time.sleep(0.05)
        os.kill(service.process.pid, signal.SIGTERM)
        assert service.process.wait(30) == 0
        taken = [one for one in asked if one.exception() is None]
        assert all(isinstance(one.exception(), httpx2.TransportError | None) for one in asked)
        assert taken and all(len(one.result()) == 10 for one in taken)
