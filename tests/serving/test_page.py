"""The files of the page: how they are served, that they need nothing from elsewhere, and what they ask."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import gream.serving
from gream.data.store import Catalogue, Interactions
from gream.decoding.recommend import Engine, Search
from gream.decoding.recommender import Recommender
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.serving import app as serve

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient  # noqa: E402

FOLDER = Path(gream.serving.__file__).parent / "page"
PARTS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".js", ".css"))


@pytest.fixture
def client(
    model_and_tokenizer: tuple[Any, Any],
    prompter: Prompter,
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Any:
    model, tokenizer = model_and_tokenizer
    engine = Engine(TorchBackend(model, tokenizer.pad_token_id), prompter, TrieConstraint(names), names)
    recommender = Recommender(engine, catalogue, interactions, Search(num_beams=8))
    with TestClient(serve.create_app(recommender), base_url="http://localhost") as client:
        yield client


class Tags(HTMLParser):
    """The tags of the page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_every_part_is_served_as_what_it_is(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (FOLDER / "index.html").read_text(encoding="utf-8")
    for part in PARTS:
        response = client.get(f"/page/{part.name}")
        assert response.headers["content-type"].startswith(
            {".js": "text/javascript", ".css": "text/css"}[part.suffix]
        )
        assert response.content == part.read_bytes()
    assert client.get("/page/docs.html").status_code == 404


def test_the_page_loads_all_its_parts_and_nothing_else(client: TestClient) -> None:
    tags = Tags(client.get("/").text).found
    loaded = [a["src"] for tag, a in tags if tag == "script"]
    loaded += [a["href"] for tag, a in tags if tag == "link" and a["rel"] == "stylesheet"]
    assert sorted(loaded) == [f"page/{part.name}" for part in PARTS]
    assert not any(name.startswith("on") or name == "style" for _, a in tags for name in a)


@pytest.mark.parametrize("path", [FOLDER / "index.html", *PARTS], ids=lambda path: path.name)
def test_nothing_points_to_another_host_or_becomes_html(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<!:)//[\w.-]+\.\w|https?:|@import|url\(", text)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )


def test_every_request_of_the_page_is_one_that_the_service_knows(client: TestClient) -> None:
    asked = set()
    for part in PARTS:
        asked |= set(re.findall(r"[\"`](v1/[^\"`?]*)", part.read_text(encoding="utf-8")))
    known = client.get("/openapi.json").json()["paths"]
    patterns = {re.sub(r"\{[^}]*\}", "*", path) for path in known}
    assert len(asked) >= 6
    assert {"/" + re.sub(r"\$\{[^}]*\}", "*", path) for path in asked} <= patterns


def test_every_field_that_the_page_sends_is_one_that_a_request_has(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    known = {
        name for schema in ("RecommendationRequest", "ItemFilters") for name in schemas[schema]["properties"]
    }
    script = (FOLDER / "app.js").read_text(encoding="utf-8")
    body = script[script.index("function bodyOfRequest") :]
    body = body[: body.index("\n}\n")]
    sent = set(re.findall(r"^ {4,}(\w+)(?=[:,])", body, re.MULTILINE))
    assert {"k", "mode", "filters", "brands", "seed"} <= sent <= known


def test_every_control_has_a_label_and_every_reference_a_target(client: TestClient) -> None:
    tags = Tags(client.get("/").text).found
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    labelled = {a["for"] for tag, a in tags if tag == "label" and "for" in a}
    inside = {"scorer", "exclude_seen"}  # within their labels, as the two modes are
    controls = {a["id"] for tag, a in tags if tag in ("input", "select") and a.get("type") != "radio"}
    assert controls == {name for name in labelled if name in controls} | inside
    for _, attributes in tags:
        for name in ("aria-controls", "aria-labelledby", "aria-describedby", "for", "list"):
            assert attributes.get(name, ids[0]) in ids
