"""What is served and how it changes: kept, in turns, whole or not at all."""

from __future__ import annotations

import gc
import json
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from gream.artifacts import file_hashes
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.run_folder import working_in
from gream.serving import app as serve
from gream.serving.shop import SHELF_FILE, Loaded, Shop


def shop_of(run: Path) -> Shop:
    return serve.open_shop(serve.ServeConfig(run_dir=str(run)))


def client_of(shop: Shop) -> TestClient:
    return TestClient(serve.create_app(shop), base_url="http://localhost")


def test_changes_outlive_the_service_and_new_items_are_recommended_at_once(run_folder: Path) -> None:
    new = {"item_id": "new/1", "title": "Blue Garden Hose", "categories": ["Garden"], "price": 9.5}
    with client_of(shop_of(run_folder)) as client:
        items = client.get("/v1/service").json()["items"]
        client.patch("/v1/items/item-0012", json={"available": False})
        client.patch("/v1/items/item-0013", json={"price": 1.25})
        client.patch("/v1/items/item-0013", json={"available": False})
        [added] = client.post("/v1/items", json={"items": [new]}).json()["items"]
        assert (added["title"], added["price"], added["available"]) == ("Blue Garden Hose", 9.5, True)
        body = {"history": ["item-0007", "new/1"], "filters": {"allow": ["new/1"]}, "exclude_seen": False}
        [found] = client.post("/v1/recommendations", json=body).json()["recommendations"]
        assert (found["item_id"], found["name"]) == ("new/1", added["name"])
        assert client.get("/v1/items/item-0012").json()["available"] is False
        assert client.get("/v1/items", params={"query": "garden ho"}).json()["items"][0]["item_id"] == "new/1"
        again = client.post("/v1/items", json={"items": [new]})
        assert again.status_code == 409 and "named already" in again.json()["detail"]
        assert client.get("/v1/service").json()["items"] == items + 1
    with client_of(shop_of(run_folder)) as client:
        assert client.get("/v1/items/item-0012").json()["available"] is False
        kept = client.get("/v1/items/item-0013").json()
        assert (kept["price"], kept["available"]) == (1.25, False)
        assert client.get("/v1/items/new/1").status_code == 200


def test_a_change_that_cannot_be_kept_is_not_made(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with client_of(shop_of(run_folder)) as client:
        client.patch("/v1/items/item-0012", json={"price": 2})
        before = (run_folder / SHELF_FILE).read_bytes()
        monkeypatch.setattr(os, "replace", full)
        response = client.patch("/v1/items/item-0012", json={"price": 3})
        assert response.status_code == 409 and "No space left" in response.json()["detail"]
        assert client.get("/v1/items/item-0012").json()["price"] == 2
    assert (run_folder / SHELF_FILE).read_bytes() == before


def test_items_are_not_added_while_a_command_works_in_the_folder(run_folder: Path) -> None:
    """Which may be naming items itself; the refusal says which command it is."""
    new = {"item_id": "new/1", "title": "Blue Garden Hose", "categories": ["Garden"], "price": 9.5}
    with client_of(shop_of(run_folder)) as client:
        before = (run_folder / "run.json").read_bytes()
        with working_in(run_folder, "gream run recipes/demo"), pytest.MonkeyPatch.context() as patch:
            patch.delenv("GREAM_HELD")  # as if another process held it
            refused = client.post("/v1/items", json={"items": [new]})
        assert refused.status_code == 409 and "`gream run recipes/demo`" in refused.json()["detail"]
        assert (run_folder / "run.json").read_bytes() == before
        assert client.get("/v1/items/new/1").status_code == 404
        assert client.post("/v1/items", json={"items": [new]}).status_code in (200, 201)


def test_no_command_begins_while_items_are_added(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and told that the service is why."""

    def adding(*_: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("GREAM_HELD")  # as if another process came
            with (
                pytest.raises(InputError, match="being written by `gream serve, which adds items`"),
                working_in(run_folder, "gream run recipes/demo"),
            ):
                pass
        return {"names": {}}

    monkeypatch.setattr("gream.semantic_ids.adding.add_items", adding)
    assert shop_of(run_folder).add([]) == {}


def test_changes_take_turns(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that come together would else begin with the same shelf, and the later one forget the earlier."""
    shop = shop_of(run_folder)
    monkeypatch.setattr("gream.serving.shop._remember", lambda *_: time.sleep(0.2))
    ids = ["item-0012", "item-0013"]
    changing = [threading.Thread(target=shop.change, args=(one, {"available": False})) for one in ids]
    for thread in changing:
        thread.start()
    for thread in changing:
        thread.join()
    assert [one["available"] for one in shop._changes.values()] == [False, False]
    recommender = shop.current.recommender
    assert not recommender.shelf.available[[recommender.catalogue.index[one] for one in ids]].any()


def test_a_shelf_that_cannot_be_read_is_one_sentence(run_folder: Path) -> None:
    (run_folder / SHELF_FILE).write_text('["item"]')
    with pytest.raises(InputError, match=r"shelf.json cannot be read .*delete it"):
        shop_of(run_folder)


def test_what_was_loaded_is_served_when_it_is_stocked_and_not_before(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = shop_of(run_folder)
    old, stocked = shop.current, shop._stocked
    seen: list[Loaded] = []
    monkeypatch.setattr(shop, "_stocked", lambda loaded: (seen.append(shop.current), stocked(loaded))[1])
    assert shop.reload() is shop.current is not old and seen == [old]


def test_a_run_that_does_not_fit_together_is_not_served(run_folder: Path) -> None:
    with client_of(shop_of(run_folder)) as client:
        before = client.post("/v1/recommendations", json={"history": ["item-0007"]}).json()["recommendations"]
        shutil.move(run_folder / "base", run_folder / "kept")
        response = client.post("/v1/reload")
        assert response.status_code == 409 and "base" in response.json()["detail"]
        after = client.post("/v1/recommendations", json={"history": ["item-0007"]}).json()["recommendations"]
        assert after == before
        shutil.move(run_folder / "kept", run_folder / "base")
        settings = json.loads((run_folder / "run.json").read_text())
        (run_folder / "run.json").write_text(json.dumps({**settings, "num_beams": 3}))
        assert client.post("/v1/reload").json()["num_beams"] == 3


def test_a_model_goes_on_where_it_is_the_same_and_ends_with_its_last_answer(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[Any] = []
    monkeypatch.setattr(TorchBackend, "close", lambda backend: closed.append(backend))
    shop = shop_of(run_folder)
    backend = shop.current.recommender.engine.backend
    shop.add([{"item_id": "new", "title": "Blue Hose"}])
    assert shop.current.recommender.engine.backend is backend and closed == []
    manifest = json.loads((run_folder / "base" / "manifest.json").read_text())
    (run_folder / "base" / "note").write_text("another model")
    manifest["outputs"]["note"] = file_hashes(run_folder / "base")["note"]
    (run_folder / "base" / "manifest.json").write_text(json.dumps(manifest))
    busy = shop.current.recommender  # an answer that is still being made
    shop.reload()
    assert shop.current.recommender.engine.backend is not backend and closed == []
    assert len(busy.recommend(["item-0007"], 3)) == 3
    del busy
    gc.collect()
    assert closed == [backend]
