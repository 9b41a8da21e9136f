"""Engines over scripted servers, on a clock of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from gream.decoding import replicas
from gream.decoding.async_backend import AsyncBackend
from gream.decoding.openai_engine import connect
from tests.decoding.scripted_client import SERVED, Clock, Connect
from tests.decoding.scripted_vllm import ScriptedVllm


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(replicas, "monotonic", clock)
    monkeypatch.setattr(replicas, "_BETWEEN_ROUNDS", 0.0)
    return clock


@pytest.fixture
def connected(clock: Clock) -> Iterator[Connect]:
    made: list[AsyncBackend] = []

    def make(servers: Sequence[ScriptedVllm]) -> AsyncBackend:
        made.append(connect(",".join(server.url for server in servers), SERVED))
        return made[-1]

    yield make
    for backend in made:
        backend.close()
