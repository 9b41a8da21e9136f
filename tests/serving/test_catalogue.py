"""Items and customers: looked up, searched, changed, added; nothing half-changed is ever served."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from gream.data.store import Catalogue
from gream.serving.filter_names import FilterNames
from gream.serving.item_search import ItemSearch
from tests.serving.conftest import Watched


def test_an_item_is_described_and_an_unknown_price_is_null(client: TestClient, recommender: Watched) -> None:
    catalogue = recommender.catalogue
    assert client.get("/v1/items/item-1").json() == {
        "item_id": "item-1",
        "title": "Ink <b>black</b> <a_1>",
        "name": recommender.engine.names.spell(1),
        "description": catalogue.descriptions[1],
        "brand": catalogue.brands[1],
        "categories": list(catalogue.categories[1]),
        "price": pytest.approx(float(catalogue.prices[1])),
        "available": True,
    }
    assert client.get("/v1/items/item-2").json()["price"] is None


@pytest.mark.parametrize("item_id", ["nope", "../../etc/passwd", "%2e%2e/x", "a" * 5000, "%01", "<a_1>"])
def test_an_unknown_item_is_404_with_a_sentence(client: TestClient, item_id: str) -> None:
    for method in ("GET", "PATCH"):
        response = client.request(method, f"/v1/items/{item_id}", json={"price": 1})
        assert response.status_code == 404 and len(response.json()["detail"]) < 600


def test_customers_are_examples_spread_over_all(client: TestClient, recommender: Watched) -> None:
    users = recommender.interactions.user_ids
    found = client.get("/v1/customers", params={"limit": 2}).json()["customers"]
    assert [one["user_id"] for one in found] == users[:: len(users) // 2][:2]
    assert [item["item_id"] for item in found[1]["history"]] == recommender.history_of(found[1]["user_id"])
    everybody = client.get("/v1/customers", params={"limit": 100}).json()["customers"]
    assert [one["user_id"] for one in everybody] == users


def test_the_service_says_what_it_can_do(client: TestClient, recommender: Watched) -> None:
    found = client.get("/v1/service").json()
    assert (found["engine"], found["scorer"], found["num_beams"]) == ("torch", True, 8)
    assert (found["items"], found["ordered"]) == (24, True)
    assert found["codebooks"] == list(recommender.engine.names.layout.codebook_sizes)


WORDS = Catalogue(
    item_ids=list("abcde"),
    titles=["Blue ink pen", "Black ink", "Pencil, blue", "Tent", "Ink"],
    descriptions=["tent"] * 5,
    brands=["", "Nib", "", "Peak", ""],
    categories=[("Office",), ("Office", "Ink"), (), (), ()],
    prices=np.zeros(5),
)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("ink", [0, 1, 4]),  # of equal ones the lower item first
        ("INK black", [1, 0, 4]),
        ("black ink", [1, 0, 4]),
        ("pen", [0, 2]),  # the last word may be unfinished
        ("pen ink", [0, 1, 4]),  # another one may not
        ("nib", [1]),
        ("office blue", [0, 1, 2]),
        ("zebra", []),
        ("", []),
        ("<script> ; -- '", []),
    ],
)
def test_items_are_found_by_their_words(query: str, found: list[int]) -> None:
    scored = ItemSearch(WORDS).find(query, 10)
    assert sorted(scored) == sorted(found)
    if query in ("ink", "INK black", "black ink"):
        assert scored == found
    assert ItemSearch(WORDS).find(query, 1) == scored[:1]


def test_the_search_answers_over_http(client: TestClient) -> None:
    found = client.get("/v1/items", params={"query": "black", "limit": 3}).json()["items"]
    assert found[0]["item_id"] == "item-1" and found[0]["title"] == "Ink <b>black</b> <a_1>"
    first = client.get("/v1/items", params={"limit": 3}).json()["items"]
    assert [item["item_id"] for item in first] == ["item-0", "item-1", "item-2"]
    assert len(client.get("/v1/items", params={"limit": 100}).json()["items"]) == 24  # all that there are
    for params in ({"query": "x", "limit": 0}, {"query": "x", "limit": "ten"}, {"query": "x" * 1001}):
        assert client.get("/v1/items", params=params).status_code == 422


def test_several_items_are_looked_up_at_once_in_the_order_of_their_ids(client: TestClient) -> None:
    ids = ["item-7", "item-2", "item-7", *(f"item-{n}" for n in range(24))]
    found = client.get("/v1/items", params={"ids": ids, "query": "black", "limit": 1}).json()["items"]
    assert found == [client.get(f"/v1/items/{item_id}").json() for item_id in ids]
    unknown = client.get("/v1/items", params={"ids": ["item-7", "no,pe"]})
    assert unknown.status_code == 404 and "names `no,pe`" in unknown.json()["detail"]
    for wrong in (["item-7"] * 101, [""], ["x" * 257]):
        assert client.get("/v1/items", params={"ids": wrong}).status_code == 422


def test_the_filters_names_are_told_those_of_most_items_first(client: TestClient, ask: Any) -> None:
    found = client.get("/v1/filters").json()
    told = {kind: [(one["name"], one["items"]) for one in found[kind]] for kind in ("categories", "brands")}
    kinds = ["ink", "lamps", "paper", "printers", "stoves", "tents"]
    assert told["categories"] == [("camping", 12), ("office", 12), *((kind, 4) for kind in kinds)]
    assert told["brands"] == [("Kesk", 8), ("Orrin", 8), ("Volta", 8)]
    for kind, names in told.items():
        for name, items in names:
            filters = {kind: [name]}
            listed = ask(history=["item-3"], k=24, filters=filters, exclude_seen=False).json()
            assert len(listed["recommendations"]) == items
    few = client.get("/v1/filters", params={"limit": 1}).json()
    assert [len(names) for names in few.values()] == [1, 1]
    for limit in (0, 1001, "x"):
        assert client.get("/v1/filters", params={"limit": limit}).status_code == 422


def test_names_that_differ_in_case_are_one_and_an_item_counts_once() -> None:
    many = Catalogue(
        item_ids=list("abcd"),
        titles=[""] * 4,
        descriptions=[""] * 4,
        brands=["Nib", "NIB", "", "peak"],
        categories=[("Ink", "ink"), ("INK", "Pens"), (), ("",)],
        prices=np.zeros(4),
    )
    names = FilterNames(many)
    assert names.categories == [("Ink", 2), ("Pens", 1)]
    assert names.brands == [("Nib", 2), ("peak", 1)]


def test_what_is_removed_is_gone_from_the_next_answer_and_comes_back(client: TestClient, ask: Any) -> None:
    first, second = (r["item_id"] for r in ask(history=["item-3"], k=2).json()["recommendations"])
    assert client.patch(f"/v1/items/{first}", json={"available": False}).json()["available"] is False
    found = [r["item_id"] for r in ask(history=["item-3"], k=2).json()["recommendations"]]
    assert first not in found and found[0] == second
    assert ask(history=[first]).status_code == 200  # a history may name what is sold out
    assert client.patch(f"/v1/items/{first}", json={"available": True, "price": 3}).json()["price"] == 3
    assert ask(history=["item-3"], k=1).json()["recommendations"][0]["item_id"] == first
    cheap = ask(history=["item-3"], k=24, filters={"max_price": 3}).json()["recommendations"]
    assert first in {r["item_id"] for r in cheap}
    for change in (
        {},
        {"price": -1},
        {"price": "free"},
        {"stock": 3},
        {"price": None},
        {"price": False},
        {"available": 0},
    ):
        assert client.patch(f"/v1/items/{first}", json=change).status_code == 422


def test_a_request_that_began_before_a_change_is_answered_by_what_was_there(
    client: TestClient, ask: Any, recommender: Watched
) -> None:
    recommender.gate = threading.Event()
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(ask(history=["item-3"], k=1).json()))
    asking.start()
    while not recommender.groups:
        pass
    [first, _] = [r.item_id for r in recommender_list(recommender)]
    client.patch(f"/v1/items/{first}", json={"available": False})
    recommender.gate.set()
    asking.join()
    assert answers[0]["recommendations"][0]["item_id"] == first


def recommender_list(recommender: Watched) -> Any:
    gate, recommender.gate = recommender.gate, None
    found = recommender.recommend(["item-3"], 2)
    recommender.gate = gate
    return found


def test_without_a_folder_nothing_can_be_loaded(client: TestClient) -> None:
    assert "start it with `gream serve RUN`" in client.post("/v1/reload").json()["detail"]
