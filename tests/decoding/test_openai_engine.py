"""The engine on vLLM's OpenAI servers against scripted ones on loopback: its answers, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from gream.decoding.openai_engine import Served, base_urls, connect
from gream.errors import InputError
from tests.decoding.scripted_client import BLOCK, SERVED, WRITING, Connect, expected, first
from tests.decoding.scripted_vllm import SPELLED, TOKENS, VOCAB, ScriptedVllm, logp, text_after

pytest.importorskip("httpx2", reason="the extra `serve` is not installed")


def test_levels_and_texts_are_those_of_the_server(connected: Connect) -> None:
    with ScriptedVllm() as server:
        backend = connected([server])
        session = backend.start([[3, 4], [5]])
        assert session.first(BLOCK).tolist() == expected([[3, 4], [5]])
        tokens = torch.tensor([[40, 41, 41], [49, 49, 42]])
        parents = torch.zeros(2, 3, dtype=torch.long)
        found = session.step(parents, tokens, BLOCK)
        assert found.tolist() == [
            expected([[3, 4, 40], [3, 4, 41], [3, 4, 41]]),
            expected([[5, 49], [5, 49], [5, 42]]),
        ]
        again = session.step(torch.tensor([[2, 0], [2, 1]]), torch.tensor([[43, 44], [45, 46]]), BLOCK)
        assert again.tolist() == [
            expected([[3, 4, 41, 43], [3, 4, 40, 44]]),
            expected([[5, 42, 45], [5, 49, 46]]),
        ]
        texts = backend.complete([[3, 4], [5]], seeds=[[0, 9], [2]], **WRITING)
    assert texts == [[text_after([3, 4], 0, 8), text_after([3, 4], 9, 8)], [text_after([5], 2, 8)]]


def test_a_request_holds_all_beams_of_a_user_and_not_more_ids_than_vllm_takes(connected: Connect) -> None:
    with ScriptedVllm(vocab=1000) as server:
        backend = connect(server.url, Served(SERVED.folder, 1000, SPELLED, TOKENS))
        session = backend.start([[3], [4]])
        tokens = torch.arange(10).reshape(2, 5)
        found = session.step(torch.zeros(2, 5, dtype=torch.long), tokens, range(100, 400))
        backend.close()
    assert found.tolist() == [
        [[logp([prompt, path], token) for token in range(100, 400)] for path in paths]
        for prompt, paths in zip([3, 4], tokens.tolist(), strict=True)
    ]
    assert sorted(len(body["prompt"]) for body, _ in server.asked) == [5] * 6
    assert sorted(len(body["logprob_token_ids"]) for body, _ in server.asked) == [44, 44, 128, 128, 128, 128]


def test_a_request_that_no_server_can_take_is_the_callers_mistake(connected: Connect) -> None:
    with ScriptedVllm(lambda body: 400 if body["prompt"] == [[9]] else None) as one:
        backend = connected([one])
        with pytest.raises(InputError, match="cannot take this request: .*told to"):
            first(backend, [[9]])
        checked = one.checked
        assert first(backend, [[3]]) == expected([[3]])
        assert one.checked == checked  # it was not left out


def test_a_client_that_leaves_ends_its_requests_at_the_server(connected: Connect) -> None:
    class Left(Exception):
        pass

    def watch(*_: object) -> None:
        raise Left

    with ScriptedVllm() as server:
        server.endless = True
        backend = connected([server])
        with pytest.raises(Left):
            backend.complete([[3]], seeds=[[0]], watch=watch, **WRITING)
        assert server.left.wait(30)


@pytest.mark.parametrize(
    ("served", "vocab", "tokens", "message"),
    [
        (
            "other",
            VOCAB,
            TOKENS,
            r"serves other \(from /models/other\), but the run's model is runs/demo/tiny",
        ),
        ("tiny", VOCAB - 1, TOKENS, "cannot take this request: .*out-of-vocab"),
        ("tiny", VOCAB + 1, TOKENS, "serves a larger vocabulary than the 50 tokens"),
        ("tiny", VOCAB, [40, 48], "reads the names of items as other tokens"),
    ],
)
def test_a_server_of_another_model_is_refused(
    served: str, vocab: int, tokens: list[int], message: str
) -> None:
    with ScriptedVllm() as right, ScriptedVllm(model=served, vocab=vocab) as wrong:
        wrong.tokens = tokens
        with pytest.raises(InputError, match=message):
            connect(f"{right.url},{wrong.url}", SERVED)


def test_when_no_server_answers_at_the_start_the_error_names_all() -> None:
    with ScriptedVllm() as one, ScriptedVllm() as other:
        one.die()
        other.die()
        with pytest.raises(
            InputError, match=f"No server answers: {one.url} .*, {other.url} .*correct the URL"
        ):
            connect(f"{one.url},{other.url}", SERVED)


def test_the_key_comes_from_vllms_variable_and_no_other(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another secret")
    with ScriptedVllm() as server:
        first(connected([server]), [[3]])
        monkeypatch.setenv("VLLM_API_KEY", "sesame")
        first(connected([server]), [[3]])
    assert [headers.get("authorization") for _, headers in server.asked] == [None, "Bearer sesame"]


@pytest.mark.parametrize(
    ("urls", "bases"),
    [
        ("http://a:1", ["http://a:1"]),
        (" http://a:1/v1, https://b/x/v1/ ,", ["http://a:1", "https://b/x"]),
    ],
)
def test_urls_may_end_in_v1(urls: str, bases: list[str]) -> None:
    assert base_urls(urls) == bases


@pytest.mark.parametrize(
    ("urls", "message"),
    [
        ("", "needs --url"),
        ("localhost:8001", "url holds 'localhost:8001'"),
        ("ftp://a", "url holds 'ftp://a'"),
        ("http://a?key=1", "url holds"),
        ("http://me:secret@a", "put the key into VLLM_API_KEY"),
        ("http://a,http://a/v1", "the same server twice"),
    ],
)
def test_urls_that_cannot_be_used_are_told(urls: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        base_urls(urls)
