"""Clients that leave, and engines that are gone: what is told, and what is computed no more."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gream.errors import EngineUnavailable
from gream.serving import app as serve
from gream.serving.recommendation_routes import _grown
from tests.serving.conftest import Watched

ONE = {"history": ["item-3"], "mode": "reasoning"}


async def ask(app: Any, path: str, body: dict[str, Any], leave: asyncio.Event) -> list[dict[str, Any]]:
    """Ask as a client that leaves at the event; returns what it was sent."""
    coming = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if coming:
            return coming.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": f"/v1/recommendations{path}", "raw_path": b""}
    scope |= {"query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http"}
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", ["", "/batch"])
def test_a_client_that_leaves_is_noticed_while_it_waits(recommender: Watched, path: str) -> None:
    recommender.gate = gate = threading.Event()
    app = serve.create_app(recommender)

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            leave = asyncio.Event()
            asyncio.get_running_loop().call_later(0.2, leave.set)
            try:
                sent = await asyncio.wait_for(ask(app, path, {"requests": [ONE]} if path else ONE, leave), 5)
            finally:
                gate.set()
        assert sent[0]["status"] == 499 and recommender.groups == [1]

    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("path", ["", "/batch", "/stream"])
def test_nothing_is_computed_for_who_left_the_queue(recommender: Watched, path: str) -> None:
    recommender.gate = gate = threading.Event()
    app = serve.create_app(recommender)

    async def scenario() -> None:
        async with app.router.lifespan_context(app):
            first = asyncio.ensure_future(ask(app, "", ONE, asyncio.Event()))
            while not recommender.groups:
                await asyncio.sleep(0.01)
            leave = asyncio.Event()
            second = asyncio.ensure_future(
                ask(app, path, {"requests": [ONE, ONE]} if path == "/batch" else ONE, leave)
            )
            await asyncio.sleep(0.2)
            leave.set()
            try:
                await asyncio.wait_for(second, 5)
            finally:
                gate.set()
            assert (await first)[0]["status"] == 200

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert recommender.groups == [1]


def test_an_engine_that_is_gone_is_a_503_with_its_sentence(
    client: TestClient, recommender: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise EngineUnavailable("No server answers: http://a, http://b.")

    monkeypatch.setattr(recommender, "answer", gone)
    told = {"detail": "No server answers: http://a, http://b."}
    response = client.post("/v1/recommendations", json=ONE)
    assert response.status_code == 503 and response.json() == told
    batch = client.post("/v1/recommendations/batch", json={"requests": [ONE, ONE]})
    assert batch.json() == {"answers": [told, told]}
    stream = client.post("/v1/recommendations/stream", json=ONE)
    assert stream.text == f"event: error\ndata: {json.dumps(told, separators=(',', ':'))}\n\n"


def test_a_chain_is_sent_again_only_when_it_grew(recommender: Watched) -> None:
    written, sent = {0: [5, 6], 1: [7]}, {}  # type: ignore[var-annotated]
    numbers = []
    for grows in (None, None, 1, 0, None):
        if grows is not None:
            written[grows].append(8)
        events = _grown(recommender, ["a"], written, sent)
        numbers.append([json.loads(event.split("data: ")[1])["number"] for event in events])
    assert numbers == [[0, 1], [], [1], [0], []]
