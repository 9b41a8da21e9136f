"""A running `gream serve`, as its users meet it: a process that is asked over HTTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2


class Service:
    """A service over a run, on a free port of the loopback."""

    def __init__(self, run: Path, *, threads: int = 1, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gream.cli", "serve", str(run), "--port", str(port)]
        variables = {f"GREAM_SERVE_{name.upper()}": value for name, value in settings.items()}
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **variables}
        self.process = subprocess.Popen(command, env=environment)
        self.client = httpx2.Client(base_url=self.address, timeout=60)
        while not self._answers():
            assert self.process.poll() is None, "the service did not start"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self.client.get("/health/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the list for a request that is a good one."""
        response = self.client.post("/v1/recommendations", json=body)
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["recommendations"]
        return found

    def kill(self) -> None:
        """End the process."""
        self.client.close()
        self.process.kill()
        self.process.wait()
