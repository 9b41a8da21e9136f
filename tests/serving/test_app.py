"""The HTTP service over a scripted recommender: answers, mistakes, the docs page, one thread at a time."""

from __future__ import annotations

import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

import gream.serving
from gream.data.store import Catalogue
from gream.errors import InputError
from gream.serving import app as serve

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient  # noqa: E402

TITLES = ["Printer", "Ink <b>black</b>", "Paper"]
CATALOGUE = Catalogue(
    item_ids=["p1", "i/2", "x3"],
    titles=TITLES,
    descriptions=["prints", "", "white"],
    brands=["Acme", "", "Acme"],
    categories=[("Office", "Printers"), ("Office",), ()],
    prices=np.array([99.5, np.nan, 4.25], dtype=np.float32),
)


@dataclass(frozen=True)
class StubChain:
    evidence: str = "bought a printer"
    preference: str = "prints at home"
    intent: str = "needs ink"
    recommendation: str = "ink"
    rewritten_history: str = "<a_1>"
    well_formed: bool = True


@dataclass(frozen=True)
class StubRecommendation:
    item_id: str
    title: str
    logp: float
    score: float | None
    chain: StubChain | None
    rank: int


@dataclass
class StubRecommender:
    """Recommends the catalogue in its order, remembers what it was asked, and who asked at once."""

    catalogue: Catalogue = CATALOGUE
    asked: list[dict[str, object]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    inside: int = 0
    most_inside: int = 0

    def history_of(self, user_id: str) -> list[str]:
        if user_id != "u1":
            raise InputError(f"User {user_id} is not in the data; use a user_id of the data set.")
        return ["p1", "x3"]

    def recommend(self, history: list[str], **settings: object) -> list[StubRecommendation]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.threads.add(threading.current_thread().name)
        self.asked.append({"history": history, **settings})
        threading.Event().wait(0.005)  # long enough for a second caller to come in
        self.inside -= 1
        chain = StubChain() if settings["mode"] == "reasoning" else None
        pairs = list(zip(self.catalogue.item_ids, TITLES, strict=True))[: settings["k"]]
        return [StubRecommendation(i, t, -0.5 * n, None, chain, n + 1) for n, (i, t) in enumerate(pairs)]


@pytest.fixture
def recommender() -> StubRecommender:
    return StubRecommender()


@pytest.fixture
def client(recommender):
    with TestClient(serve.create_app(recommender)) as client:
        yield client


def ask(client, **body):
    return client.post("/v1/recommendations", json=body)


def test_a_history_gets_k_items_best_first(client, recommender):
    answer = ask(client, history=["x3", "p1"], k=2).json()
    assert [(r["rank"], r["item_id"]) for r in answer["recommendations"]] == [(1, "p1"), (2, "i/2")]
    assert answer["recommendations"][1]["logp"] == -0.5
    assert answer["recommendations"][0]["chain"] is None
    assert answer["history"] == [{"item_id": "x3", "title": "Paper"}, {"item_id": "p1", "title": "Printer"}]
    settings = {"k": 2, "mode": "direct", "num_chains": 4, "expand_width": None, "exclude_seen": True}
    assert recommender.asked == [{"history": ["x3", "p1"], **settings}]


def test_reasoning_mode_passes_its_settings_and_returns_the_chain(client, recommender):
    settings = {"num_chains": 3, "expand_width": 80, "exclude_seen": False}
    answer = ask(client, history=["p1"], mode="reasoning", **settings).json()
    assert answer["mode"] == "reasoning"
    assert answer["recommendations"][0]["chain"]["intent"] == "needs ink"
    assert settings.items() <= recommender.asked[0].items()


def test_a_known_user_brings_the_history(client):
    answer = ask(client, user_id="u1").json()
    assert [item["item_id"] for item in answer["history"]] == ["p1", "x3"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"history": ["p1", "nope"]}, "The history names `nope`"),
        ({"user_id": "u9"}, "User u9 is not in the data"),
        ({"history": ["p1"], "user_id": "u1"}, "either `history` or `user_id`"),
        ({}, "either `history` or `user_id`"),
        ({"history": []}, "`history`: List should have at least 1 item"),
        ({"history": ["p1"], "k": 0}, "`k`: Input should be greater than or equal to 1"),
        ({"history": ["p1"], "k": 101}, "`k`: Input should be less than or equal to 100"),
        ({"history": ["p1"], "mode": "slow"}, "`mode`: Input should be 'direct' or 'reasoning'"),
        ({"history": ["p1"], "num_chains": 33}, "`num_chains`: Input should be less than or equal to 32"),
        ({"history": ["p1"], "expand_width": 0}, "`expand_width`"),
        ({"history": ["p1"], "top_k": 3}, "`top_k`: Extra inputs are not permitted"),
        ({"history": "p1"}, "`history`: Input should be a valid list"),
    ],
)
def test_a_callers_mistake_is_422_with_a_sentence(client, recommender, body, told):
    response = ask(client, **body)
    assert response.status_code == 422
    assert told in response.json()["detail"]
    assert recommender.asked == []


@pytest.mark.parametrize("body", [b"{", b"", b"[1]", b"\xff", b'{"history": ["\\ud800"]}', b'{"\\ud800": 1}'])
def test_a_broken_body_is_a_4xx_with_a_sentence(client, body):
    response = client.post("/v1/recommendations", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert isinstance(response.json()["detail"], str)


def test_an_item_is_described_and_an_unknown_price_is_null(client):
    assert client.get("/v1/items/p1").json() == {
        "item_id": "p1",
        "title": "Printer",
        "description": "prints",
        "brand": "Acme",
        "categories": ["Office", "Printers"],
        "price": 99.5,
    }
    assert client.get("/v1/items/i/2").json()["price"] is None  # an id with a slash is an id, too


def test_an_unknown_item_is_404_with_a_sentence(client):
    response = client.get("/v1/items/nope")
    assert response.status_code == 404
    assert "No item has the id 'nope'" in response.json()["detail"]


def test_health_counts_the_items(client):
    assert client.get("/health").json()["items"] == 3


def test_requests_at_once_reach_the_recommender_one_by_one_in_one_thread(client, recommender):
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: ask(client, history=["p1"]).status_code, range(16)))
    assert answers == [200] * 16
    assert recommender.most_inside == 1
    assert len(recommender.threads) == 1


def test_the_docs_page_lists_every_request_and_loads_nothing(client):
    page = client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/v1/recommendations", "/v1/items/{item_id}", "/health"}
    assert all(f"<code>{path}</code>" in page for path in paths)
    assert "either this or `user_id`" in page
    assert "integer (at least 1, at most 100)" in page
    assert "<script" not in page and "src=" not in page and "http://" not in page and "https://" not in page


def test_the_docs_page_escapes_what_it_shows():
    from gream.serving.docs import docs_page

    page = docs_page({"info": {"title": "<script>", "version": "1", "description": "&"}, "paths": {}})
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_the_root_leads_to_the_docs(client):
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_a_port_in_use_is_told_before_the_model_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = serve.ServeConfig(run_dir=str(tmp_path), port=taken.getsockname()[1])
        with pytest.raises(InputError, match=r":\d+ \(Address already in use\); give another --port"):
            serve.run(config)


def test_a_port_out_of_range_is_told():
    with pytest.raises(InputError, match="port 70000 is out of range"):
        serve.listen("127.0.0.1", 70000)


def test_without_the_extra_the_message_names_it(monkeypatch, recommender):
    monkeypatch.delattr(gream.serving, "api", raising=False)
    monkeypatch.delitem(sys.modules, "gream.serving.api", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(InputError, match=r"pip install 'gream\[serve\]'"):
        serve.create_app(recommender)
