"""A server that speaks OpenAI's chat completions in this process, and misbehaves as it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass
class Planned:
    """How one request is answered: with a completion, unless something else is set."""

    text: str = "fine"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # in place of a completion
    cut: bool = False  # the connection closes in the middle of the body
    hangs: bool = False  # nothing comes until the server closes
    drips: bool = False  # a byte comes now and then, until the server closes
    wait_for: threading.Event | None = None  # nothing comes before
    finish_reason: str = "stop"
    tokens: tuple[int, int] = (100, 10)


class ScriptedServer:
    """Answers as `plan` says, which is given the prompt and how many requests came before.

    `requests` holds what was asked, as (headers, body), and `answered` the prompts that got an answer.
    """

    def __init__(self, plan: Callable[[str, int], Planned]) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.answered: list[str] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._plan = plan
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for _, body in self.requests]

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def plan_for(self, headers: dict[str, str], body: dict[str, Any]) -> Planned:
        with self._lock:
            number = len(self.requests)
            self.requests.append((headers, body))
            return self._plan(body["messages"][-1]["content"], number)


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # noqa: N802 - the library's name
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        planned = self.owner.plan_for(headers, request)
        if planned.hangs:
            self.owner.closing.wait()
            self.close_connection = True
            return
        if planned.wait_for is not None:
            planned.wait_for.wait()
        if planned.status == 200 and not planned.cut:  # noted first: with the answer the next one may come
            self.owner.answered.append(request["messages"][-1]["content"])
        with contextlib.suppress(ConnectionError):  # who asked may be gone by now
            self._answer(planned)

    def _answer(self, planned: Planned) -> None:
        body = planned.body if planned.body is not None else _completion(planned)
        self.send_response(planned.status)
        for name, value in {"content-type": "application/json", **planned.headers}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if planned.drips:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if self.owner.closing.wait(0.05):
                    break
        else:
            self.wfile.write(body[: len(body) // 2] if planned.cut else body)
        self.close_connection = planned.cut or planned.drips

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _completion(planned: Planned) -> bytes:
    prompt, completion = planned.tokens
    choice = {"index": 0, "message": {"role": "assistant", "content": planned.text}}
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    whole["choices"] = [choice | {"finish_reason": planned.finish_reason}]
    return json.dumps(whole).encode()
