"""What stands before every route: the key, the size of a request, headers of safety, and the counting.

Plain ASGI, so that a stream passes through as it is and a client that leaves is noticed by the route.
"""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gream.serving.metrics import Metrics

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
OPEN = ("/", "/page/", "/docs", "/health", "/openapi.json")  # what tells nothing of the catalogue
_SAFETY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class _TooLargeError(Exception):
    """A body is larger than it may be."""


class _Sending:
    """Sends an answer with the headers of safety; once a body proved too large, 413 in its place."""

    def __init__(self, send: Send, told: str) -> None:
        self._send = send
        self._told = told
        self.too_large = False
        self.status = 500  # until an answer begins

    async def __call__(self, message: Message) -> None:
        """Send one message."""
        if self.too_large:
            # The framework takes the broken body for an unreadable one; the client is told what is wrong.
            if message["type"] == "http.response.start":
                self.too_large = False
                await _refuse(self, 413, self._told)
                self.too_large = True
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *_safe(message.get("headers", []))]
        await self._send(message)


class Inside:
    """Who is inside: requests that are not answered yet, and whether more are let in."""

    def __init__(self) -> None:
        self.requests = 0
        self.ready = False

    def others_coming(self, queued: int) -> bool:
        """Say whether requests are inside that may still come to the queue."""
        return self.requests > queued


class Guard:
    """Lets a request pass or answers in its place."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str,
        max_body: int,
        metrics: Metrics,
        hosts: tuple[str, ...],
        inside: Inside,
    ) -> None:
        """Stand before an application.

        Args:
            app: the application.
            key: what a client must show; empty: nothing.
            max_body: most bytes of a request.
            metrics: counts.
            hosts: names that a request may call this service by, without the port; empty: any. Without a key
                they are those of the loopback, or a web page could reach the service under a name of its own
                that it lets point here.
            inside: counts the requests that are not answered yet.
        """
        self.app = app
        self._key = key.encode()
        self._max_body = max_body
        self._metrics = metrics
        self._hosts = hosts
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.monotonic()
        sending = _Sending(send, self._too_large())
        self._inside.requests += 1
        try:
            refusal = self._refusal(scope)
            if refusal:
                await _refuse(sending, *refusal)
            else:
                await self.app(scope, self._measured(receive, sending), sending)
        finally:
            self._inside.requests -= 1
            # The route's pattern, never its path, which a client writes.
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(route, str(sending.status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").rsplit(":", 1)[0] if "]" not in headers.get("host", "") else "[::1]"
        if self._hosts and host.lower() not in self._hosts:
            return 421, f"This service answers under {', '.join(self._hosts)}; ask it by one of these names."
        if self._key and not _open(scope["path"]) and not self._shown(headers):
            return 401, "This service needs its key; send it as `Authorization: Bearer KEY`."
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "The Content-Length is no number; send the number of bytes."
        if int(length) > self._max_body:
            return 413, self._too_large()
        return None

    def _shown(self, headers: MutableMapping[str, str] | Any) -> bool:
        given = headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        # Compared as bytes and in constant time, whatever was sent.
        return scheme.lower() == "bearer" and hmac.compare_digest(key.encode("utf-8", "replace"), self._key)

    def _measured(self, receive: Receive, sending: _Sending) -> Receive:
        """Count the bytes of a body as they come: a length may not be told, or not be true."""
        taken = 0

        async def measured() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._max_body:
                sending.too_large = True
                raise _TooLargeError
            return message

        return measured

    def _too_large(self) -> str:
        return f"The request is larger than {self._max_body:,} bytes; send fewer items."


def _open(path: str) -> bool:
    return path in OPEN or path.startswith(("/page/", "/health/"))


def _safe(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in headers}
    return [(n.encode(), v.encode()) for n, v in _SAFETY.items() if n.encode() not in given]


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    # The rest of a body that was refused is not read, so the connection ends with it.
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
