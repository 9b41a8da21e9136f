"""A small server that speaks vLLM's completions in this process, and misbehaves as it is told to.

The model behind it is arithmetic: `logp` and `text_after` say what it answers.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

VOCAB = 50
SPELLED, TOKENS = "<a_0><c_2>", [40, 49]  # what is asked at the start: some item tokens and their ids

# What happens to a request: nothing, an HTTP status, "cut": the connection closes in the middle, or "short":
# a text ends in good order before its end; or an answer in place of the right one.
Trouble = Callable[[dict[str, Any]], int | str | dict[str, Any] | None]


def logp(prompt: list[int], token: int) -> float:
    mixed = sum(place * known for place, known in enumerate(prompt, start=1))  # another order, another number
    return -1.0 - (mixed * 31 + token * 17) % 23


def text_after(prompt: list[int], seed: int, length: int, voice: int = 0) -> list[int]:
    """The prompt's seeded text; another `voice` writes another one."""
    return [1 + (sum(prompt) + 7 * seed + 5 * place + voice * place) % 30 for place in range(length)]


class ScriptedVllm:
    """Serves `model`; `trouble` is asked about every completion but those of the check at the start.

    `asked` holds the bodies and headers of these, `checked` counts the checks, and `left` is set as soon as
    a client leaves in the middle of a text.
    """

    def __init__(
        self, trouble: Trouble = lambda _: None, *, model: str = "tiny", vocab: int = VOCAB, voice: int = 0
    ) -> None:
        self.trouble, self.model, self.vocab, self.voice = trouble, model, vocab, voice
        self.spelled, self.tokens = SPELLED, TOKENS
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.checked = 0
        self.left = threading.Event()
        self.endless = False  # texts go on until the client leaves
        self._handler = type("Handler", (_Handler,), {"owner": self})
        self._open: set[socket.socket] = set()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._port = self._server.server_address[1]
        self._server.daemon_threads, self._server.block_on_close = True, False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def die(self) -> None:
        """End as a process that is killed: nobody listens, and what was open is reset."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> ScriptedVllm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()


class _Handler(BaseHTTPRequestHandler):
    owner: ScriptedVllm
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner._open.add(self.connection)

    def finish(self) -> None:
        self.owner._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:  # noqa: N802 - the library's name
        self._send({"data": [{"id": self.owner.model, "root": f"/models/{self.owner.model}"}]})

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ids = body.get("logprob_token_ids", [])
        if any(token >= self.owner.vocab for token in ids):
            self._send({"error": {"message": "out-of-vocab"}}, 400)
        elif body["prompt"] == self.owner.spelled:
            self.owner.checked += 1
            self._send({"choices": [{**_scored(0, [], ids), "prompt_token_ids": self.owner.tokens}]})
        else:
            self.owner.asked.append((body, {k.lower(): v for k, v in self.headers.items()}))
            self._answer(body, ids)

    def _answer(self, body: dict[str, Any], ids: list[int]) -> None:
        trouble = self.owner.trouble(body)
        if isinstance(trouble, int):
            self._send({"error": {"message": "told to"}}, trouble)
        elif isinstance(trouble, dict):
            self._send(trouble)
        elif body.get("stream"):
            with contextlib.suppress(ConnectionError):
                self._stream(body, trouble)
        elif trouble == "cut":
            self._close()
        else:
            self._send({"choices": [_scored(i, prompt, ids) for i, prompt in enumerate(body["prompt"])]})

    def _stream(self, body: dict[str, Any], trouble: str | None) -> None:
        text = text_after(body["prompt"], body["seed"], body["max_tokens"], self.owner.voice)
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for place, token in enumerate(text):
            if trouble and place == len(text) // 2:
                if trouble == "short":
                    self.wfile.write(b"0\r\n\r\n")
                else:
                    self._close()
                return
            self._chunk(json.dumps({"choices": [{"index": 0, "token_ids": [token]}]}))
        try:
            while self.owner.endless:
                self._chunk(json.dumps({"choices": [{"index": 0, "token_ids": []}]}))
        except ConnectionError:
            self.owner.left.set()
            raise
        self._chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: str) -> None:
        event = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))

    def _close(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _scored(index: int, prompt: list[int], ids: list[int]) -> dict[str, Any]:
    found = {f"token_id:{token}": logp(prompt, token) for token in ids}
    return {"index": index, "token_ids": [1], "logprobs": {"top_logprobs": [{"token_id:1": -0.5, **found}]}}
