"""One call to an endpoint that fails in every way: what is sent again, what is told, what is kept secret."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_synthesis.call_cache import Answer
from data_synthesis.endpoint import HOPELESS, Endpoint, Failure, Pace
from data_synthesis.settings import TeacherConfig, check_teacher
from gream.errors import InputError
from tests.data_synthesis.scripted_server import Planned, ScriptedServer

KEY = "sk-do-not-tell-0123456789"
MESSAGES = [{"role": "user", "content": "hello"}]


def settings(server: ScriptedServer, **changes: Any) -> TeacherConfig:
    config = TeacherConfig(teacher=server.url, model="m", parameters={"max_tokens": 50}, **changes)
    check_teacher(config)
    return config


def ask(server: ScriptedServer, times: int = 1, **changes: Any) -> tuple[list[Answer | Failure], Endpoint]:
    """Ask the same several times, one after the other, with short waits."""

    async def run() -> tuple[list[Answer | Failure], Endpoint]:
        async with Endpoint(settings(server, **changes), first_wait=0.001) as endpoint:
            return [await endpoint.ask(MESSAGES) for _ in range(times)], endpoint

    return asyncio.run(run())


def first(*planned: Planned) -> Callable[[str, int], Planned]:
    """Answer the first requests as planned, then well."""
    return lambda prompt, number: planned[number] if number < len(planned) else Planned()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits above zero, noted and not waited for."""
    noted: list[float] = []

    async def note(self: Endpoint, seconds: float) -> None:
        if seconds > 0:
            noted.append(seconds)

    monkeypatch.setattr(Endpoint, "_wait", note)
    return noted


@pytest.mark.parametrize(
    ("planned", "reason"),
    [
        (Planned(status=429), "HTTP 429"),
        (Planned(status=500), "HTTP 500"),
        (Planned(status=503, body=b"<html>busy</html>", headers={"content-type": "text/html"}), "HTTP 503"),
        (Planned(hangs=True), "timed out"),
        (Planned(drips=True, body=b"{" + b" " * 10_000), "timed out"),
        (Planned(cut=True), "connection failed"),
        (Planned(body=b'{"choices": [{"mess'), "answered without a completion"),
        (Planned(body=b"<html>", headers={"content-type": "text/html"}), "answered without a completion"),
        (Planned(body=b'{"choices": []}'), "answered without a completion"),
        (Planned(body=b'{"error": "overloaded"}'), "answered without a completion"),
    ],
)
def test_what_passes_by_itself_is_asked_again_and_counted(planned: Planned, reason: str) -> None:
    with ScriptedServer(first(planned, planned)) as server:
        [answer], endpoint = ask(server, timeout=0.5 if reason == "timed out" else 30.0)
    assert answer == Answer("fine", "stop", 100, 10)
    assert endpoint.retries == {reason: 2} and not endpoint.failures
    assert endpoint.requests == len(server.requests) == 3


def test_an_endpoint_that_nobody_answers_at_is_a_failed_connection() -> None:
    with ScriptedServer(first()) as server:
        pass
    [failure], endpoint = ask(server, retries=1)
    assert isinstance(failure, Failure) and failure.reason == "connection failed"
    assert endpoint.failures == {"connection failed": 1}


def test_when_the_retries_are_used_up_the_call_has_failed() -> None:
    with ScriptedServer(lambda prompt, number: Planned(status=503)) as server:
        [failure], endpoint = ask(server, retries=2)
    assert isinstance(failure, Failure) and failure.reason == "HTTP 503"
    assert (endpoint.retries, endpoint.failures) == ({"HTTP 503": 2}, {"HTTP 503": 1})
    assert len(server.requests) == 3


def test_a_request_that_the_endpoint_cannot_serve_is_sent_once() -> None:
    with ScriptedServer(lambda prompt, number: Planned(status=400)) as server:
        [failure], _ = ask(server)
    assert isinstance(failure, Failure) and failure.reason == "HTTP 400"
    assert len(server.requests) == 1


def test_the_wait_that_the_server_names_is_kept_by_all_calls(waits: list[float]) -> None:
    with ScriptedServer(first(Planned(status=429, headers={"retry-after": "300"}))) as server:
        ask(server, times=2)
    assert len(waits) == 2 and all(200 < wait <= 300 for wait in waits)


def test_the_wait_may_be_a_date(waits: list[float]) -> None:
    date = email.utils.formatdate(time.time() + 300, usegmt=True)
    with ScriptedServer(first(Planned(status=503, headers={"retry-after": date}))) as server:
        ask(server)
    assert len(waits) == 1 and 200 < waits[0] <= 300


def test_a_wait_of_an_hour_is_a_failure(waits: list[float]) -> None:
    with ScriptedServer(first(Planned(status=429, headers={"retry-after": "3600"}))) as server:
        [failure], _ = ask(server)
    assert isinstance(failure, Failure) and failure.reason == "HTTP 429, to be tried again in 3600 s"
    assert not waits


def test_without_a_named_wait_the_waits_grow(waits: list[float]) -> None:
    with ScriptedServer(lambda prompt, number: Planned(status=500)) as server:
        ask(server, retries=4)
    assert [int(wait / 0.001 / 2**n * 2) for n, wait in enumerate(waits)] == [1, 1, 1, 1]  # half to whole


def test_starts_are_spread_over_the_minute() -> None:
    pace = Pace(30)
    assert [pace.reserve(10.0), pace.reserve(10.0), pace.reserve(11.0)] == [0.0, 2.0, 3.0]
    assert pace.reserve(100.0) == 0.0
    pace.hold(150.0)
    assert [pace.reserve(120.0), pace.reserve(120.0)] == [30.0, 32.0]


def test_without_a_limit_nothing_waits() -> None:
    pace = Pace(0)
    assert [pace.reserve(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_calls_that_all_fail_stop_the_stage() -> None:
    with (
        ScriptedServer(lambda prompt, number: Planned(status=500)) as server,
        pytest.raises(InputError, match=rf"{HOPELESS} calls in a row .* failed \(HTTP 500: {HOPELESS}\)"),
    ):
        ask(server, times=HOPELESS + 1, retries=0)
    assert len(server.requests) == HOPELESS


def test_an_answer_between_failures_lets_the_stage_go_on() -> None:
    with ScriptedServer(lambda prompt, number: Planned(status=200 if number == 5 else 500)) as server:
        replies, _ = ask(server, times=HOPELESS + 5, retries=0)
    assert len(replies) == HOPELESS + 5


@pytest.mark.parametrize(
    ("status", "told"),
    [(401, "refuses the key"), (403, "refuses the key"), (404, "knows no model 'm'")],
)
def test_a_refusal_stops_at_once(status: int, told: str) -> None:
    with ScriptedServer(lambda prompt, number: Planned(status=status)) as server:
        with pytest.raises(InputError, match=told):
            ask(server)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_server_that_repeats_the_key_does_not_get_it_told(
    status: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    body = f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()
    error = ""
    with ScriptedServer(lambda prompt, number: Planned(status=status, body=body)) as server:
        try:
            ask(server, api_key_env="TEACHER_API_KEY", retries=1)
        except InputError as refused:
            error = str(refused)
    assert server.requests[0][0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in error + caplog.text
    assert bool(error) == (status in (401, 403, 404))
    assert ("***" in caplog.text) == (not error)


def test_a_key_of_somebody_else_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client library would send what it finds in the environment to whatever endpoint this is."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, KEY)
    with ScriptedServer(first()) as server:
        ask(server)
    [(headers, _)] = server.requests
    assert not [name for name, value in headers.items() if KEY in value]


def test_a_key_that_is_not_set_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_API_KEY", raising=False)
    with ScriptedServer(first()) as server, pytest.raises(InputError, match="TEACHER_API_KEY.* is not set"):
        ask(server, api_key_env="TEACHER_API_KEY")


def test_a_server_that_does_not_say_what_it_used_is_estimated() -> None:
    body = b'{"choices": [{"message": {"content": "123456789"}, "finish_reason": null}]}'
    with ScriptedServer(first(Planned(body=body))) as server:
        [answer], _ = ask(server)
    assert answer == Answer("123456789", "", 2, 3)  # three bytes to a token


def test_what_the_settings_say_is_in_the_request() -> None:
    with ScriptedServer(first()) as server:
        ask(server)
    [(_, body)] = server.requests
    assert body == {"model": "m", "messages": MESSAGES, "max_tokens": 50}


def test_without_the_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with (
        ScriptedServer(first()) as server,
        pytest.raises(InputError, match=r"pip install 'gream\[teacher\]'"),
    ):
        ask(server)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": "localhost:8000"}, "`teacher` must be the base URL"),
        ({"teacher": f"http://user:{KEY}@host/v1"}, "without user, password or query"),
        ({"teacher": f"http://host/v1?key={KEY}"}, "without user, password or query"),
        ({"api_key_env": KEY}, "`api_key_env` must be the name"),
        ({"model": ""}, "`model` must name"),
        ({"parameters": {"temperature": 1}}, "`parameters` must set one of max_tokens"),
        ({"parameters": {"max_tokens": 5, "max_completion_tokens": 5}}, "`parameters` must set one of"),
        ({"parameters": {"max_tokens": 5, "stream": True}}, "`parameters` must not set `stream`"),
        ({"money_budget": 1.0}, "`money_budget` needs `prompt_price`"),
        ({"concurrency": 0}, "`concurrency` must be above 0"),
        ({"retries": -1}, "`retries` must not be negative"),
        ({"calls": ""}, "`calls` must name a folder"),
    ],
)
def test_settings_that_cannot_work_are_refused_without_telling_a_secret(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    good = {"teacher": "http://127.0.0.1:1/v1", "model": "m"}
    with pytest.raises(InputError, match=told) as refused:
        check_teacher(TeacherConfig(**(good | changes)))
    assert KEY not in str(refused.value)
