"""The page at /docs: every request, nothing from elsewhere, everything escaped."""

from __future__ import annotations

from fastapi.testclient import TestClient


def test_the_docs_page_lists_every_request_and_loads_nothing(client: TestClient) -> None:
    page = client.get("/docs").text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/recommendations", "/v1/recommendations/stream", "/v1/items/{item_id}", "/health"} <= set(
        paths
    )
    assert all(f"<code>{path}</code>" in page for path in paths)
    assert "either this or `user_id`" in page
    assert "integer (at least 1, at most 100)" in page
    assert "<script" not in page and "src=" not in page and "http://" not in page and "https://" not in page


def test_the_docs_page_escapes_what_it_shows() -> None:
    from gream.serving.docs import docs_page

    page = docs_page({"info": {"title": "<script>", "version": "1", "description": "&"}, "paths": {}})
    assert "<script>" not in page and "&lt;script&gt;" in page
