"""Recommendations over HTTP: the same lists as in Python, one by one, in batches and as a stream."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from gream.decoding.filters import Filters
from gream.decoding.recommender import Recommendation
from gream.errors import InputError
from gream.serving import app as serve
from tests.serving.conftest import Watched

Ask = Callable[..., Any]


def same(answer: dict[str, Any], expected: list[Recommendation]) -> None:
    found = answer["recommendations"]
    assert [(r["rank"], r["item_id"], r["title"], r["name"]) for r in found] == [
        (r.rank, r.item_id, r.title, r.name) for r in expected
    ]
    np.testing.assert_allclose([r["logp"] for r in found], [r.logp for r in expected], atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == (None if other.score is None else pytest.approx(other.score, abs=1e-5))
        assert (one["chain"] is None) == (other.chain is None)
        if other.chain:
            assert vars(other.chain).items() <= one["chain"].items()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"k": 3, "exclude_seen": False},
        {"mode": "reasoning", "num_chains": 2, "seed": 7},
        {"expand_width": 12, "k": 5},
        {"mode": "reasoning", "num_chains": 1, "expand_width": 10},
    ],
)
def test_a_request_gets_the_list_that_python_gets(
    ask: Ask, recommender: Watched, settings: dict[str, Any]
) -> None:
    answer = ask(history=["item-3", "item-1"], **settings).json()
    same(answer, recommender.recommend(["item-3", "item-1"], **settings))
    assert answer["mode"] == settings.get("mode", "direct") and answer["seconds"] > 0
    assert [item["item_id"] for item in answer["history"]] == ["item-3", "item-1"]
    assert answer["history"][1]["title"] == "Ink <b>black</b> <a_1>"
    assert answer["search"] is None


def test_filters_reach_the_search(ask: Ask, recommender: Watched) -> None:
    filters = {"allow": [f"item-{n}" for n in range(4, 20)], "deny": ["item-5"], "max_price": 1e6}
    answer = ask(history=["item-3"], k=20, filters=filters).json()
    same(answer, recommender.recommend(["item-3"], 20, filters=Filters(**filters)))
    assert {r["item_id"] for r in answer["recommendations"]} == {f"item-{n}" for n in range(4, 20) if n != 5}


def test_a_known_user_brings_the_history(ask: Ask, recommender: Watched) -> None:
    user = recommender.interactions.user_ids[1]
    answer = ask(user_id=user).json()
    assert [item["item_id"] for item in answer["history"]] == recommender.history_of(user)


def test_an_explained_answer_tells_every_level(ask: Ask, recommender: Watched) -> None:
    answer = ask(history=["item-3"], k=2, num_beams=5, explain=True).json()
    assert len(answer["search"]) == 3 and all(1 <= len(level) <= 5 for level in answer["search"])
    names = [r["name"] for r in answer["recommendations"]]
    for depth, level in enumerate(answer["search"], start=1):
        paths = {rank: p["codes"] for p in level for rank in p["ranks"]}
        assert all(names[rank - 1].startswith(codes) for rank, codes in paths.items())
        assert all(p["kept"] and p["codes"].count("<") == depth for p in level)
        assert set(paths) == {1, 2}


def test_an_explained_chain_of_thought_tells_what_any_search_kept(ask: Ask, recommender: Watched) -> None:
    settings = {"mode": "reasoning", "num_chains": 6, "k": 20}
    answer = ask(history=["item-3"], explain=True, **settings).json()
    assert [len(level) > 0 for level in answer["search"]] == [True] * 3
    assert {rank for prefix in answer["search"][-1] for rank in prefix["ranks"]} == {*range(1, 21)}
    assert all(p["codes"].count("<") == 3 for p in answer["search"][-1])
    found = recommender.recommend(["item-3"], **settings)  # type: ignore[arg-type]
    assert [r["chain_number"] for r in answer["recommendations"]] == [r.chain_number for r in found]
    assert len({r.chain_number for r in found}) > 1


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, {"history": ["item-3", "nope"]}, "the history names `nope`"),
        (404, {"history": ["<a_1>"]}, "`<a_1>`"),
        (404, {"user_id": "u9"}, "User 'u9' is unknown"),
        (422, {"history": ["item-3"], "user_id": "user-1"}, "either `history` or `user_id`"),
        (422, {}, "either `history` or `user_id`"),
        (422, {"history": None, "user_id": "user-1"}, "`history`: Input should be a valid list"),
        (409, {"history": ["item-3"], "filters": {"min_price": 9, "max_price": 1}}, "the lower one first"),
        (409, {"history": ["item-3"], "filters": {"max_price": 0}}, "leave no item"),
        (422, {"history": []}, "`history`: List should have at least 1 item"),
        (422, {"history": ["item-3"] * 1001}, "`history`: List should have at most 1000 items"),
        (422, {"history": ["item-3"], "k": 0}, "`k`: Input should be greater than or equal to 1"),
        (422, {"history": ["item-3"], "k": -4}, "`k`: Input should be greater than or equal to 1"),
        (422, {"history": ["item-3"], "k": 101}, "`k`: Input should be less than or equal to 100"),
        (422, {"history": ["item-3"], "mode": "slow"}, "`mode`: Input should be 'direct' or 'reasoning'"),
        (
            422,
            {"history": ["item-3"], "num_chains": 33},
            "`num_chains`: Input should be less than or equal to 32",
        ),
        (422, {"history": ["item-3"], "expand_width": 0}, "`expand_width`"),
        (409, {"history": ["item-3"], "expand_width": 4}, "expand_width is 4, but the scorer must keep"),
        (422, {"history": ["item-3"], "top_k": 3}, "`top_k`: Extra inputs are not permitted"),
        (422, {"history": "item-3"}, "`history`: Input should be a valid list"),
        (422, {"history": [3]}, "`history.0`: Input should be a valid string"),
        (404, {"history": ["item-3"], "filters": {"brands": ["nope"]}}, "No item has the brand 'nope'"),
        (422, {"history": ["item-3"], "filters": {"price": 3}}, "`filters.price`: Extra inputs"),
        (422, {"history": ["item-3"], "timeout": 0}, "`timeout`"),
    ],
)
def test_a_clients_mistake_is_a_4xx_with_a_sentence(
    ask: Ask, client: TestClient, recommender: Watched, status: int, body: dict[str, Any], told: str
) -> None:
    for response in (ask(**body), client.post("/v1/recommendations/stream", json=body)):
        assert response.status_code == status
        assert told in response.json()["detail"]
    assert recommender.groups == []


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b"\xff", b'{"history": ["\\ud800"]}', b'{"\\ud800": 1}'])
def test_a_broken_body_is_a_4xx_with_a_sentence(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/recommendations", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert isinstance(response.json()["detail"], str)


def test_of_many_problems_the_first_are_told_and_the_others_counted(ask: Ask) -> None:
    response = ask(history=[3], **{f"field{n}": 1 for n in range(7)})
    told = response.json()["detail"]
    assert response.status_code == 422 and told.count("`: ") == 5 and told.endswith("; and 3 more.")


def test_a_sentence_that_cannot_be_encoded_is_sent_all_the_same(
    ask: Ask, recommender: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("half a letter: \ud83d")

    monkeypatch.setattr(recommender, "ask", refuse)
    response = ask(history=["item-3"])
    assert response.status_code == 409 and response.json() == {"detail": "half a letter: \\ud83d"}


def test_a_batch_answers_each_by_itself(client: TestClient, recommender: Watched) -> None:
    requests = [
        {"history": ["item-3"]},
        {"history": ["nope"]},
        {"history": ["item-7"], "mode": "reasoning", "num_chains": 1},
        {"history": ["item-2", "item-9"]},
    ]
    answers = client.post("/v1/recommendations/batch", json={"requests": requests}).json()["answers"]
    same(answers[0], recommender.recommend(["item-3"]))
    assert "names `nope`" in answers[1]["detail"]
    same(answers[2], recommender.recommend(["item-7"], mode="reasoning", num_chains=1))
    same(answers[3], recommender.recommend(["item-2", "item-9"]))
    assert sorted(recommender.groups[:2]) == [1, 2]  # those of one search together


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def test_a_stream_tells_the_chains_and_then_the_answer(client: TestClient, recommender: Watched) -> None:
    body = {"history": ["item-3"], "mode": "reasoning", "num_chains": 2}
    response = client.post("/v1/recommendations/stream", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    *chains, (last, answer) = events(response.text)
    assert last == "answer"
    same(answer, recommender.recommend(["item-3"], mode="reasoning", num_chains=2))
    assert {kind for kind, _ in chains} == {"chain"} and {data["number"] for _, data in chains} == {0, 1}
    assert all(not data["chain"]["well_formed"] for _, data in chains)
    [(kind, plain)] = events(client.post("/v1/recommendations/stream", json={"history": ["item-3"]}).text)
    assert kind == "answer"
    same(plain, recommender.recommend(["item-3"]))


def test_a_stream_that_fails_tells_it_as_an_event(client: TestClient) -> None:
    body = {"history": ["item-3"], "mode": "reasoning", "num_chains": 8, "timeout": 0.001}
    [*_, (kind, data)] = events(client.post("/v1/recommendations/stream", json=body).text)
    assert kind == "error" and "no answer within 0.001 s" in data["detail"]


def test_the_evidence_cites_what_was_bought(recommender: Watched) -> None:
    from gream.language.reasoning import Chain
    from gream.serving.desk import reason

    chain = Chain("pens Blue Pen; tents Old Tent", "Ink", "", "", "", well_formed=True)
    assert reason(chain, ["Old Tent", "Ink", "Blue Pen", ""]).cited == [0, 2]


def test_a_full_queue_is_429_and_says_when_to_come_again(recommender: Watched) -> None:
    config = serve.ServeConfig(run_dir="", max_queue=1)
    recommender.gate = threading.Event()
    with (
        TestClient(serve.create_app(recommender, config), base_url="http://localhost") as client,
        ThreadPoolExecutor(8) as clients,
    ):
        body = {"history": ["item-3"]}
        asked = [clients.submit(client.post, "/v1/recommendations", json=body)]
        while not recommender.groups:  # until it is at work it is in the queue itself
            time.sleep(0.01)
        asked += [clients.submit(client.post, "/v1/recommendations", json=body) for _ in range(7)]
        while sum(one.done() for one in asked) < 6:  # one is at work and one waits
            time.sleep(0.01)
        recommender.gate.set()
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) == 6 and sum(answer.status_code == 200 for answer in answers) == 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)


@pytest.mark.parametrize(
    ("own", "of_service", "status"), [(None, 0.05, 504), (5.0, 0.05, 504), (0.05, 5.0, 408)]
)
def test_who_waits_too_long_is_told_whose_limit_it_was(
    recommender: Watched, own: float | None, of_service: float, status: int
) -> None:
    config = serve.ServeConfig(run_dir="", max_seconds=of_service)
    recommender.gate = threading.Event()
    with TestClient(serve.create_app(recommender, config), base_url="http://localhost") as client:
        response = client.post("/v1/recommendations", json={"history": ["item-3"], "timeout": own})
        recommender.gate.set()
    assert response.status_code == status and "within 0.05 s" in response.json()["detail"]


@pytest.mark.parametrize(("engine", "at_once"), [("torch", 1), ("vllm", 2)])
def test_torch_answers_one_group_at_a_time(recommender: Watched, engine: Any, at_once: int) -> None:
    config = serve.ServeConfig(run_dir="", engine=engine, threads=2)
    recommender.gate = threading.Event()
    with (
        TestClient(serve.create_app(recommender, config), base_url="http://localhost") as client,
        ThreadPoolExecutor(2) as clients,
    ):
        bodies = [{"history": ["item-3"], "k": k} for k in (3, 4)]  # of two searches: never one group
        asked = [clients.submit(client.post, "/v1/recommendations", json=body) for body in bodies]
        while len(recommender.groups) < at_once:
            time.sleep(0.01)
        time.sleep(0.2)
        assert recommender.groups == [1] * at_once
        recommender.gate.set()
        assert [one.result().status_code for one in asked] == [200, 200]
    assert len(recommender.threads) == at_once
