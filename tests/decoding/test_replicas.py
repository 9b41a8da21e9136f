"""Several scripted servers on loopback behind one engine: spread, left out, killed, back again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gream.errors import EngineUnavailable
from tests.decoding.scripted_client import BLOCK, WRITING, Clock, Connect, expected, first, prompts_from
from tests.decoding.scripted_vllm import ScriptedVllm, text_after

pytest.importorskip("httpx2", reason="the extra `serve` is not installed")


def test_requests_are_spread_and_a_prompt_keeps_its_server(connected: Connect) -> None:
    with ScriptedVllm() as one, ScriptedVllm() as other:
        backend = connected([one, other])
        prompts = prompts_from(7, 40)
        for prompt in prompts:
            session = backend.start([prompt])
            session.first(BLOCK)
            session.step(torch.zeros(1, 2, dtype=torch.long), torch.tensor([[40, 41]]), BLOCK)
        users = [{tuple(body["prompt"][0][:3]) for body, _ in server.asked} for server in (one, other)]
    assert not users[0] & users[1] and users[0] | users[1] == {tuple(prompt) for prompt in prompts}
    assert min(len(of_server) for of_server in users) >= 10  # of 40


def test_a_server_that_answers_500_costs_no_request_and_is_left_out_for_a_while(
    connected: Connect, clock: Clock
) -> None:
    with ScriptedVllm(lambda _: 500) as bad, ScriptedVllm() as good:
        backend = connected([bad, good])
        assert first(backend, prompts_from(1)) == expected(prompts_from(1))
        asked, checked = len(bad.asked), bad.checked
        assert asked > 0
        assert first(backend, prompts_from(2)) == expected(prompts_from(2))
        assert (len(bad.asked), bad.checked) == (asked, checked)  # nothing goes there
        bad.trouble = lambda _: None
        clock.now = 1.5  # the first pause is over
        assert first(backend, prompts_from(3)) == expected(prompts_from(3))
        assert bad.checked > checked and len(bad.asked) > asked


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"error": "engine died"}, "it answered what vLLM would not: .*engine died"),
        ({"choices": []}, "it answered what vLLM would not"),
        ({"choices": [{"index": 0, "token_ids": [1]}]}, "without the log-probabilities of listed tokens"),
        ({"choices": [{"index": 1}]}, "other prompts than it was asked for"),
    ],
)
def test_a_server_that_answers_something_else_is_left_out(
    connected: Connect, answer: dict[str, object], told: str
) -> None:
    with ScriptedVllm(lambda _: answer) as bad, ScriptedVllm() as good:
        assert first(connected([bad, good]), prompts_from(1)) == expected(prompts_from(1))
        with pytest.raises(EngineUnavailable, match=told):
            first(connected([bad]), [[3]])


def test_the_pause_doubles_with_every_failure_in_a_row(connected: Connect, clock: Clock) -> None:
    with ScriptedVllm(lambda _: 503) as bad, ScriptedVllm() as good:
        backend = connected([bad, good])
        asked_at = []
        for half in range(32):
            clock.now = half / 2
            before = len(bad.asked)
            first(backend, prompts_from(half, 6))
            if len(bad.asked) > before:
                asked_at.append(clock.now)
    assert asked_at == [0.0, 1.0, 3.0, 7.0, 15.0]


@pytest.mark.parametrize("end", ["cut", "short"])
def test_a_server_that_ends_in_the_middle_of_texts_costs_none_of_them(connected: Connect, end: str) -> None:
    """Half of each text was told already: the other server writes it again, and the rest alone is told."""
    with ScriptedVllm(lambda _: end) as dying, ScriptedVllm() as good:
        backend = connected([dying, good])
        told: dict[int, list[int]] = {}
        texts = backend.complete(
            prompts_from(1),
            seeds=[[row] for row in range(12)],
            watch=lambda row, _, tokens: told.setdefault(row, []).extend(tokens),
            **WRITING,
        )
        assert dying.asked
    wanted = [text_after(prompt, row, 8) for row, prompt in enumerate(prompts_from(1))]
    assert [text for [text] in texts] == wanted == [told[row] for row in range(12)]


def test_a_text_that_differs_elsewhere_goes_on_from_what_was_told(connected: Connect) -> None:
    with ScriptedVllm(lambda _: "cut") as dying, ScriptedVllm(voice=3) as good:
        backend = connected([dying, good])
        prompts = prompts_from(1)
        texts = backend.complete(prompts, seeds=[[0]] * 12, **WRITING)
        moved = [body["prompt"] for body, _ in dying.asked]
    assert moved
    for prompt, [text] in zip(prompts, texts, strict=True):
        half = text_after(prompt, 0, 4)
        rest = text_after(prompt + half, 0, 4, voice=3)
        assert text == (half + rest if prompt in moved else text_after(prompt, 0, 8, voice=3))


def test_a_killed_server_costs_no_request_of_many_threads(connected: Connect) -> None:
    killed = threading.Event()

    def kill_at_the_tenth(_: object) -> None:
        if len(dying.asked) >= 10 and not killed.is_set():
            killed.set()
            threading.Thread(target=dying.die).start()

    with ScriptedVllm() as good:
        dying = ScriptedVllm(kill_at_the_tenth)
        backend = connected([dying, good])

        def ask(number: int) -> tuple[list[list[float]], list[list[list[int]]]]:
            prompts = prompts_from(number, 3)
            return first(backend, prompts), backend.complete(prompts, seeds=[[1]] * 3, **WRITING)

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(ask, range(40)))
    assert killed.is_set()
    assert found == [
        (expected(prompts_from(n, 3)), [[text_after(p, 1, 8)] for p in prompts_from(n, 3)]) for n in range(40)
    ]


def test_when_all_are_dead_the_error_names_them_and_a_later_request_is_served(
    connected: Connect, clock: Clock
) -> None:
    one, other = ScriptedVllm(), ScriptedVllm(lambda _: 500)
    with one, other:
        backend = connected([one, other])
        one.die()
        with pytest.raises(EngineUnavailable) as told:
            first(backend, [[3, 4]])
        assert f"{one.url} (" in str(told.value) and f"{other.url} (HTTP 500)" in str(told.value)
        with pytest.raises(EngineUnavailable, match="No server answered"):
            backend.complete([[3, 4]], seeds=[[0]], **WRITING)
        one.start()  # still left out, but nobody else can answer
        assert first(backend, [[3, 4]]) == expected([[3, 4]])


def test_a_server_that_comes_back_with_another_model_is_not_used(connected: Connect, clock: Clock) -> None:
    with ScriptedVllm(lambda _: 500) as one, ScriptedVllm() as other:
        backend = connected([one, other])
        first(backend, prompts_from(1))
        one.trouble, one.model = lambda _: None, "older"
        asked, clock.now = len(one.asked), 2.0
        assert first(backend, prompts_from(2)) == expected(prompts_from(2))
        assert len(one.asked) == asked
        other.die()
        with pytest.raises(EngineUnavailable, match=r"serves older \(from /models/older\)"):
            first(backend, prompts_from(3))
        other.start()


def test_at_the_start_one_of_several_may_be_missing(connected: Connect, clock: Clock) -> None:
    with ScriptedVllm() as one, ScriptedVllm() as other:
        one.die()
        backend = connected([one, other])
        assert first(backend, prompts_from(1)) == expected(prompts_from(1))
        one.start()
        clock.now = 2.0
        assert first(backend, prompts_from(2)) == expected(prompts_from(2))
        assert one.asked
