"""Calls from several threads become coroutines of one loop: under way together, ended together, exact."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gream.decoding.async_backend import AsyncBackend
from gream.decoding.beam import beam_search
from gream.decoding.torch_backend import TorchBackend
from gream.errors import EngineUnavailable, InputError
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names
from tests.decoding.tiny import VOCAB, tiny_model

WRITING = {"stop": 0, "max_tokens": 5, "temperature": 1.0}


class ScriptedEngine:
    """Writes seed, seed + 1, ...; scores with a torch engine, prefix by prefix."""

    def __init__(self, by_torch: TorchBackend | None = None) -> None:
        self.by_torch = by_torch
        self.under_way = 0
        self.most = 0
        self.wrong_seed = -1
        self.closed = False
        self.wanted_at_once = 1

    async def write(
        self, prompt: list[int], *, seed: int, stop: int, max_tokens: int, temperature: float
    ) -> AsyncGenerator[list[int], None]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for place in range(max_tokens):
                yield [seed + place]
                if seed == self.wrong_seed:
                    raise InputError("this seed is wrong")
                while self.most < self.wanted_at_once:
                    await asyncio.sleep(0)
        finally:
            self.under_way -= 1

    async def score(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: Sequence[list[int]]
    ) -> list[list[float]]:
        assert self.by_torch is not None
        await asyncio.sleep(0)
        rows = self.by_torch.start([[*prompt, *path] for path in paths]).first(range(VOCAB))
        return rows[:, [token for some in ids for token in some]].tolist()

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def backend(engine: ScriptedEngine) -> Iterator[AsyncBackend]:
    backend = AsyncBackend(engine)
    yield backend
    backend.close()


def test_the_search_is_that_of_the_torch_engine(
    engine: ScriptedEngine, backend: AsyncBackend, names: Names
) -> None:
    by_torch = TorchBackend(tiny_model().eval(), 0)
    engine.by_torch = by_torch
    blocks = [range(10, 13), range(13, 17), range(17, 22)]
    prompts = [[3, 9, 4], [5], [11, 2, 30, 8, 1]]
    one, other = (
        beam_search(engine, prompts, constraint_of(names), blocks, num_beams=7)
        for engine in (by_torch, backend)
    )
    for a, b in zip(one, other, strict=True):
        assert a.items.tolist() == b.items.tolist()
        torch.testing.assert_close(torch.tensor(a.logps), torch.tensor(b.logps), atol=1e-4, rtol=0)


def test_texts_come_in_the_order_of_their_seeds_and_are_told_in_the_callers_thread(
    backend: AsyncBackend,
) -> None:
    told: dict[tuple[int, int], list[int]] = {}
    threads = set()

    def watch(row: int, place: int, tokens: list[int]) -> None:
        threads.add(threading.current_thread())
        told.setdefault((row, place), []).extend(tokens)

    texts = backend.complete([[1], [2], [3]], seeds=[[30, 10], [], [20]], watch=watch, **WRITING)
    assert texts == [[[30, 31, 32, 33, 34], [10, 11, 12, 13, 14]], [], [[20, 21, 22, 23, 24]]]
    assert told == {(0, 0): texts[0][0], (0, 1): texts[0][1], (2, 0): texts[2][0]}
    assert threads == {threading.current_thread()}


def test_what_several_threads_ask_is_under_way_together(
    engine: ScriptedEngine, backend: AsyncBackend
) -> None:
    """No text goes on before all 12 of the 4 threads are there."""
    engine.wanted_at_once = 12
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(backend.complete, [[1]], seeds=[[n, n, n]], **WRITING) for n in range(4)]
        found = [one.result(timeout=60) for one in asked]
    assert found == [[[[n + place for place in range(5)]] * 3] for n in range(4)]


def test_what_watch_raises_ends_the_requests_of_this_call_and_of_no_other(
    engine: ScriptedEngine, backend: AsyncBackend
) -> None:
    engine.wanted_at_once = 5  # four of the one who leaves, one of the other
    begun = threading.Event()

    def leave(*_: object) -> None:
        begun.set()
        raise KeyError("left")

    with ThreadPoolExecutor(1) as threads:
        with pytest.raises(KeyError, match="left"):
            backend.complete([[1]], seeds=[[1, 2, 3, 4]], watch=leave, **WRITING)
        assert begun.is_set() and engine.under_way == 0  # ended before the caller goes on
        stays = threads.submit(backend.complete, [[1]], seeds=[[7]], **WRITING)
        engine.wanted_at_once = 1
        assert stays.result(timeout=60) == [[[7, 8, 9, 10, 11]]]


def test_an_error_of_one_text_ends_the_others_and_comes_out_as_it_is(
    engine: ScriptedEngine, backend: AsyncBackend
) -> None:
    engine.wanted_at_once, engine.wrong_seed = 99, 2
    with pytest.raises(InputError, match="this seed is wrong"):
        backend.complete([[1]], seeds=[[1, 2, 3]], **WRITING)
    assert engine.under_way == 0


def test_closing_ends_calls_that_are_under_way_and_refuses_new_ones() -> None:
    engine = ScriptedEngine()
    backend = AsyncBackend(engine)
    engine.wanted_at_once = 99
    begun = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        options = {**WRITING, "watch": lambda *_: begun.set()}
        asked = threads.submit(backend.complete, [[1]], seeds=[[1]], **options)
        assert begun.wait(60)
        backend.close()
        with pytest.raises(EngineUnavailable, match="was closed while it worked"):
            asked.result(timeout=60)
    assert engine.closed and engine.under_way == 0
    backend.close()  # a second time does nothing
    with pytest.raises(EngineUnavailable, match="was closed"):
        backend.complete([[1]], seeds=[[1]], **WRITING)


def test_the_states_of_prompts_and_empty_prompts_are_refused(backend: AsyncBackend) -> None:
    with pytest.raises(InputError, match="use the engine torch, or a scorer with an encoder of its own"):
        backend.start([[1]], keep_states=True)
    with pytest.raises(ValueError, match="without keep_states"):
        backend.start([[1]]).prompt_states()
    with pytest.raises(InputError, match="Prompt 1 has no tokens"):
        backend.start([[1], []])
    with pytest.raises(InputError, match="Prompt 0 has no tokens"):
        backend.complete([[]], seeds=[[1]], **WRITING)
