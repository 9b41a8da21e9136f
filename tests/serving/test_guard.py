"""What stands before the routes: key, size, host, headers and figures."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import nullcontext
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gream.serving import app as serve
from gream.serving.guard import OPEN, Guard, Inside
from gream.serving.metrics import Metrics
from tests.serving.conftest import Watched

KEY = "a secret that is long enough"


def client_of(recommender: Watched, *, key: str = "", host: str = "localhost", **settings: Any) -> TestClient:
    config = serve.ServeConfig(run_dir="", **settings)
    return TestClient(serve.create_app(recommender, config, key=key), base_url=f"http://{host}")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {KEY}",
        f"Bearer {KEY} ",
        f"Bearer {KEY[:-1]}",
        "Bearer \u00e9",
    ],
)
def test_without_the_key_nothing_of_the_catalogue_is_told(recommender: Watched, header: str | None) -> None:
    client = client_of(recommender, key=KEY, host="shop.example")
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    paths = [path for path in client.get("/openapi.json").json()["paths"] if not path.startswith("/health")]
    assert len(paths) >= 8
    for path in paths:
        for method in ("GET", "POST"):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401 and "Authorization: Bearer KEY" in response.json()["detail"]
            assert response.headers["www-authenticate"] == "Bearer"
    assert all(client.get(path, headers=headers).status_code == 200 for path in OPEN if path != "/page/")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_everything_is_there_under_any_name(recommender: Watched, scheme: str) -> None:
    with client_of(recommender, key=KEY, host="shop.example") as client:
        headers = {"Authorization": f"{scheme} {KEY}"}
        body = {"history": ["item-3"]}
        assert client.post("/v1/recommendations", json=body, headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]", "[::1]:8000", "LOCALHOST"]
)
def test_without_a_key_the_loopback_is_answered(recommender: Watched, host: str) -> None:
    client = client_of(recommender)
    assert client.get("/v1/service", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:8000", "", "127.0.0.1.nip.io"]
)
def test_without_a_key_a_web_page_cannot_reach_in_under_its_own_name(recommender: Watched, host: str) -> None:
    response = client_of(recommender).get("/v1/service", headers={"Host": host})
    assert response.status_code == 421 and "127.0.0.1" in response.json()["detail"]


def test_a_body_is_refused_by_its_length_and_by_its_bytes(recommender: Watched) -> None:
    client = client_of(recommender, max_body_kb=1)
    large = b'{"history": ["' + b"x" * 2000 + b'"]}'
    told = client.post("/v1/recommendations", content=large)
    streamed = client.post("/v1/recommendations", content=iter([large[:900], large[900:]]))
    for response in (told, streamed):
        assert response.status_code == 413 and "larger than 1,000 bytes" in response.json()["detail"]
    assert told.headers["connection"] == "close"  # what was sent of it is not read
    exact = b'{"history": ["' + b"x" * 983 + b'"]}'
    assert len(exact) == 1000
    assert client.post("/v1/recommendations", content=iter([exact])).status_code == 422
    lie = client.post("/v1/recommendations", content=large, headers={"Content-Length": "ten"})
    assert lie.status_code in (400, 413)
    assert recommender.groups == []


def test_a_key_is_compared_in_constant_time(recommender: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    monkeypatch.setattr(hmac, "compare_digest", lambda given, key: bool(compared.append(given)))
    client = client_of(recommender, key=KEY)
    assert client.get("/v1/service", headers={"Authorization": f"Bearer {KEY}"}).status_code == 401
    assert compared == [KEY.encode()]


def test_a_service_is_ready_between_its_start_and_its_end(recommender: Watched) -> None:
    client = client_of(recommender)
    for status in (503, 200, 503):
        if status == 200:
            client.__enter__()
        assert client.get("/health/ready").status_code == status
        assert client.get("/health/live").status_code == 200
        if status == 200:
            client.__exit__()


@pytest.mark.parametrize("fails", [False, True])
def test_a_request_that_has_ended_is_inside_no_more(fails: bool) -> None:
    """Or a sole client would wait for the company of requests that are long gone."""
    inside, seen = Inside(), []

    async def app(*_: Any) -> None:
        seen.append((inside.requests, inside.others_coming(1), inside.others_coming(0)))
        if fails:
            raise RuntimeError

    async def send(_: Any) -> None: ...

    async def receive() -> Any: ...

    guard = Guard(app, key="", max_body=9, metrics=Metrics(), hosts=(), inside=inside)
    with pytest.raises(RuntimeError) if fails else nullcontext():
        asyncio.run(guard({"type": "http", "path": "/", "headers": []}, receive, send))
    assert seen == [(1, False, True)] and inside.requests == 0


def test_of_a_body_that_says_it_is_too_large_nothing_is_read() -> None:
    sent: list[Any] = []

    async def app(*_: Any) -> None:
        raise AssertionError("the application was asked")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the body was read")

    guard = Guard(app, key="", max_body=9, metrics=Metrics(), hosts=(), inside=Inside())
    headers = [(b"content-length", b"10")]
    asyncio.run(guard({"type": "http", "path": "/", "headers": headers}, receive, send))
    assert sent[0]["status"] == 413


def test_every_answer_has_the_headers_of_safety(recommender: Watched) -> None:
    client = client_of(recommender)
    for path in ("/", "/docs", "/health", "/v1/items/none", "/nowhere"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe-eval" not in headers["content-security-policy"]
    refused = client.get("/health", headers={"Host": "evil.example"})
    assert refused.headers["x-frame-options"] == "DENY"


def test_what_happens_is_counted_by_route_and_never_by_what_a_client_wrote(recommender: Watched) -> None:
    with client_of(recommender) as client:
        for body in ({"history": ["item-3"]}, {"history": ["item-7"]}, {"history": ["nope"]}):
            client.post("/v1/recommendations", json=body)
        client.get("/v1/items/item-3")
        client.get("/v1/items/secret-path")
        client.get("/wp-admin")
        text = client.get("/metrics").text
    lines = set(text.splitlines())
    assert 'gream_requests_total{route="/v1/recommendations",status="200"} 2.0' in lines
    assert 'gream_requests_total{route="/v1/recommendations",status="404"} 1.0' in lines
    assert 'gream_requests_total{route="/v1/items/{item_id:path}",status="200"} 1.0' in lines
    assert 'gream_requests_total{route="/v1/items/{item_id:path}",status="404"} 1.0' in lines
    assert 'gream_requests_total{route="unknown",status="404"} 1.0' in lines
    assert 'gream_recommendation_seconds_count{mode="direct"} 2.0' in lines
    assert 'gream_recommendation_seconds_bucket{le="+Inf",mode="direct"} 2.0' in lines
    assert 'gream_request_seconds_count{route="/v1/recommendations"} 3.0' in lines
    assert 'gream_request_seconds_bucket{le="60.0",route="/v1/recommendations"} 3.0' in lines
    assert "gream_batch_questions_count 2.0" in lines and "gream_items 24.0" in lines
    assert "gream_queue_questions 0.0" in lines
    assert "secret-path" not in text and "wp-admin" not in text
