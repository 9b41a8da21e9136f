"""vLLM's asynchronous engine and vLLM's OpenAI server against the torch engine, on the same saved folder."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.async_backend import AsyncBackend
from gream.decoding.beam import beam_search
from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_async import start_vllm
from gream.errors import InputError
from gream.semantic_ids.constraint_file import constraint_of
from tests.decoding.vllm_servers import STOP, VllmServer, blocks, save_model, some_names

pytest.importorskip("httpx2", reason="the extra `serve` is not installed")
from gream.decoding.openai_engine import connect, served_by  # noqa: E402

PROMPTS = [[3, 9, 4], [5], [11, 2, 30, 8, 1, 6, 21] * 20]


@dataclass
class Pair:
    """Two engines over one folder; `server` runs behind the one that goes over HTTP."""

    by_torch: TorchBackend
    by_vllm: AsyncBackend
    tokenizer: Any
    server: VllmServer | None = None

    def unfinished(self) -> float:
        if self.server is not None:
            return self.server.metric("vllm:num_requests_running")
        return self.by_vllm._engine._llm.get_num_unfinished_requests()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "tiny"


@pytest.fixture(scope="module", params=["vllm", "openai"])
def pair(request: pytest.FixtureRequest, folder: Path) -> Iterator[Pair]:
    pytest.importorskip("vllm")
    model, tokenizer = save_model(folder)
    by_torch = TorchBackend(model, 0)
    if request.param == "vllm":
        backend = start_vllm(folder, max_num_seqs=64)
        yield Pair(by_torch, backend, tokenizer)
        backend.close()
        return
    server = VllmServer(folder)
    try:
        server.wait()
        backend = connect(server.url, served_by(folder, tokenizer, some_names()))
        yield Pair(by_torch, backend, tokenizer, server)
        backend.close()
    finally:
        server.kill(signal.SIGTERM)


@pytest.mark.vllm
@pytest.mark.parametrize(("num_beams", "ordered"), [(3, True), (60, True), (20, False)])
def test_the_search_finds_the_same_items_with_the_same_scores(
    pair: Pair, num_beams: int, ordered: bool
) -> None:
    names = some_names(ordered=ordered)
    where, constraint = blocks(pair.tokenizer, names), constraint_of(names)
    by_torch, by_vllm = (
        beam_search(engine, PROMPTS, constraint, where, num_beams=num_beams)
        for engine in (pair.by_torch, pair.by_vllm)
    )
    for a, b in zip(by_torch, by_vllm, strict=True):
        assert a.items.tolist() == b.items.tolist()
        # float32 in both, other kernels
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)


@pytest.mark.vllm
def test_threads_that_ask_at_once_get_what_they_would_get_alone(pair: Pair) -> None:
    names = some_names()
    where, constraint = blocks(pair.tokenizer, names), constraint_of(names)

    def items(engine: Any, number: int) -> list[int]:
        [found] = beam_search(engine, [[number, 9, 4]], constraint, where, num_beams=5)
        return found.items.tolist()

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda number: items(pair.by_vllm, number), range(10, 26)))
    assert found == [items(pair.by_torch, number) for number in range(10, 26)]


@pytest.mark.vllm
def test_greedy_text_is_the_same(pair: Pair) -> None:
    options = {"stop": STOP, "max_tokens": 12, "temperature": 0.0}
    by_torch, by_vllm = (
        engine.complete(PROMPTS, seeds=[[0], [0, 1], []], **options)
        for engine in (pair.by_torch, pair.by_vllm)
    )
    assert by_torch == by_vllm


@pytest.mark.vllm
def test_sampled_texts_follow_their_seeds_and_end_with_stop(pair: Pair) -> None:
    options = {"stop": STOP, "max_tokens": 100, "temperature": 1.5}
    many = [list(range(30)), [30, 3]]
    told: dict[tuple[int, int], list[int]] = {}
    one, other = pair.by_vllm.complete(
        [[3, 4], [3, 4]],
        seeds=many,
        watch=lambda row, place, tokens: told.setdefault((row, place), []).extend(tokens),
        **options,
    )
    assert [one, other] == pair.by_vllm.complete([[3, 4], [3, 4]], seeds=many, **options)
    assert told == {(row, i): text for row, texts in enumerate((one, other)) for i, text in enumerate(texts)}
    assert other[1] == one[3]  # the same prompt and seed, elsewhere in the batch
    assert len({tuple(text) for text in [*one, other[0]]}) == 31
    stopped = [text for text in one if STOP in text]
    assert stopped and all(text.index(STOP) == len(text) - 1 for text in stopped)
    assert all(len(text) == 100 for text in one if STOP not in text)


@pytest.mark.vllm
def test_sampling_is_from_the_full_distribution(pair: Pair) -> None:
    """Not from what the folder's generation_config.json asks for: its two most probable tokens."""
    texts = pair.by_vllm.complete([[3, 4]], seeds=[range(60)], stop=STOP, max_tokens=1, temperature=1.0)
    first = pair.by_torch.start([[3, 4]]).first(range(pair.by_torch.model.config.vocab_size))[0]
    drawn = {text[0] for text in texts[0]}
    assert len(drawn) > 2 and torch.exp(first[list(drawn)]).sum() > 0.2


@pytest.mark.vllm
def test_long_prompts_with_seeds_do_not_end_the_engine(pair: Pair) -> None:
    """More tokens than vLLM takes at once: it would prefill a prompt in parts, and fail there on a CPU."""
    prompts = [[5 + number % 50, 9, 4] * 150 for number in range(24)]
    texts = pair.by_vllm.complete(prompts, seeds=[[1]] * 24, stop=STOP, max_tokens=2, temperature=1.0)
    assert all(1 <= len(text) <= 2 for [text] in texts)


@pytest.mark.vllm
def test_a_caller_who_leaves_ends_the_requests(pair: Pair) -> None:
    class Left(Exception):
        pass

    def watch(row: int, place: int, tokens: list[int]) -> None:
        raise Left

    options = {"stop": 0, "max_tokens": 500, "temperature": 1.0}
    with pytest.raises(Left):
        pair.by_vllm.complete([[3, 4]], seeds=[range(8)], watch=watch, **options)
    deadline = time.monotonic() + 20
    while pair.unfinished() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert pair.unfinished() == 0


@pytest.mark.vllm
def test_a_prompt_that_is_too_long_is_told(pair: Pair) -> None:
    with pytest.raises(InputError, match="maximum context length is 512 tokens"):
        pair.by_vllm.complete([[3] * 600], seeds=[[0]], stop=STOP, max_tokens=4, temperature=0.0)


@pytest.mark.vllm
def test_a_search_finds_its_prompt_in_the_prefix_cache(pair: Pair) -> None:
    if pair.server is None:
        pytest.skip("only a server counts it")
    names = some_names()
    prompts = [[20 + place % 40 for place in range(start, start + 320)] for start in (0, 13)]
    before = pair.server.metric("vllm:prefix_cache_hits_total")
    where = blocks(pair.tokenizer, names)
    beam_search(pair.by_vllm, prompts, constraint_of(names), where, num_beams=10)
    # Of each prompt, 9 whole blocks of 32 tokens for 10 beams of the second and the third level at least.
    assert pair.server.metric("vllm:prefix_cache_hits_total") - before >= 2 * 9 * 32 * 20


@pytest.mark.vllm
@pytest.mark.slow
def test_a_server_that_is_killed_under_load_costs_no_request(folder: Path) -> None:
    pytest.importorskip("vllm")
    model, tokenizer = save_model(folder)
    by_torch, names = TorchBackend(model, 0), some_names()
    where, constraint = blocks(tokenizer, names), constraint_of(names)
    prompts = [[number % 60 + 10, number // 60, 9] * 30 for number in range(120)]
    greedy = {"stop": STOP, "max_tokens": 20, "temperature": 0.0}

    def answer(engine: Any, prompt: list[int]) -> tuple[list[int], list[int]]:
        [[text]] = engine.complete([prompt], seeds=[[0]], **greedy)
        [found] = beam_search(engine, [prompt], constraint, where, num_beams=5)
        return text, found.items.tolist()

    servers = [VllmServer(folder), VllmServer(folder)]
    try:
        for server in servers:
            server.wait()
        backend = connect(",".join(s.url for s in servers), served_by(folder, tokenizer, names))
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(answer, backend, prompt) for prompt in prompts]
            asked[20].result()
            assert all(
                server.metric("vllm:prompt_tokens_total") > 500 for server in servers
            )  # both are asked
            unfinished = [one for one in asked if not one.done()]
            servers[0].kill()
            found = [one.result() for one in asked]
        assert len(unfinished) > 50  # it was killed in the middle
        backend.close()
    finally:
        for server in servers:
            server.kill(signal.SIGTERM)
    assert found == [answer(by_torch, prompt) for prompt in prompts]
