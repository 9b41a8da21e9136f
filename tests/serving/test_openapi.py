"""The OpenAPI document says what the service does: schemathesis makes requests of it, good and bad ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.live import Service

pytest.importorskip("schemathesis", reason="the extra `dev` is not installed")


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    """Every operation: examples, the edges of every field, random bodies, and sequences of requests."""
    # A schema cannot say how long an answer takes, so a good request may meet the limit that it set itself.
    accepted = ["2xx", "401", "404", "408", "409", "429"]
    (tmp_path / "schemathesis.toml").write_text(
        f"[checks]\npositive_data_acceptance.expected-statuses = {accepted}\n"
    )
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.address}/openapi.json"]
    command += ["--max-examples", "3", "--seed", "1", "--request-timeout", "30"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400)
    (tmp_path / "found.txt").write_text(found.stdout)
    assert found.returncode == 0, found.stdout[-8000:]
    assert service.process.poll() is None


def test_a_path_that_is_asked_the_wrong_way_says_which_ways_there_are(service: Service) -> None:
    response = service.client.put("/v1/items/item-0007", json={})
    assert response.status_code == 405 and response.headers["allow"] == "GET, PATCH"
    assert "GET, PATCH" in response.json()["detail"]
