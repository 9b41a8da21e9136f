"""Stage `serve`: load a finished run and answer over HTTP until it is stopped.

Settings come from the command line, then from the environment (`GREAM_SERVE_PORT` for `port`), then from a
YAML file. The key that clients must show comes from the environment alone. The HTTP interface itself is in
`api.py`; only there fastapi is imported, so that the settings can be read and checked without the extra.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gream.arguments import StageConfig, option
from gream.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from gream.decoding.recommender import Recommender
    from gream.serving.shop import Shop

logger = logging.getLogger(__name__)

STAGE = "serve"
KEY = "GREAM_API_KEY"  # the environment variable with the key
PREFIX = "GREAM_SERVE_"  # of the environment variables with settings
_EXTRA = ("fastapi", "prometheus_client", "starlette", "uvicorn")
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(kw_only=True)
class ServeConfig(StageConfig):
    """Which run is served, where, by which engine, and what it takes on; `seed` has no effect."""

    host: str = option("127.0.0.1", doc=f"address to listen on; another than the loopback needs {KEY}")
    port: int = option(8000, doc="TCP port to listen on, 1 to 65535")
    engine: Literal["torch", "vllm", "openai"] = option(
        "torch", doc="what runs the model: torch or vllm here, or openai for vLLM servers elsewhere"
    )
    url: str = option("", doc="of those servers, with commas between; for the engine openai alone")
    threads: int = option(16, doc="groups of requests that vllm or openai answer at once; torch answers one")
    max_batch: int = option(64, doc="requests that are answered together")
    batch_wait_ms: float = option(3.0, doc="milliseconds that a request waits for company")
    max_queue: int = option(512, doc="requests that wait; more are refused with 429")
    max_seconds: float = option(60.0, doc="longest wait for an answer; 504 after it")
    max_body_kb: int = option(1000, doc="largest request in thousands of bytes; 413 above it")
    drain_seconds: int = option(30, doc="time to finish what was begun when the service is stopped")


CONFIG = ServeConfig


def from_environment(environment: Mapping[str, str]) -> list[str]:
    """Return the settings that the environment gives, as words of a command line.

    Raises:
        InputError: a variable that begins like a setting's and names none.
    """
    known = {PREFIX + field.name.upper(): field.name for field in fields(ServeConfig)}
    given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"{unknown[0]} is no setting of `gream serve`; known: {', '.join(sorted(known))}.")
    return [word for name, value in sorted(given.items()) for word in (f"--{known[name]}", value)]


def create_app(served: Shop | Recommender, config: ServeConfig | None = None, *, key: str = "") -> FastAPI:
    """Build the HTTP service over a loaded recommender, or over a shop that can change it.

    Raises:
        InputError: the extra `serve` is not installed, or a limit out of range.
    """
    try:
        from gream.serving import api
        from gream.serving.shop import Shop
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    config = config or ServeConfig(run_dir="")
    _check(config)
    shop = served if isinstance(served, Shop) else Shop(served)
    limits = api.Limits(
        max_batch=config.max_batch,
        max_queue=config.max_queue,
        batch_wait=config.batch_wait_ms / 1000,
        seconds=config.max_seconds,
        max_body=1000 * config.max_body_kb,
        workers=1 if config.engine == "torch" else config.threads,
    )
    return api.build(shop, limits, key=key, open_to_all=config.host not in _LOCAL)


def run(config: ServeConfig) -> None:
    """Serve the run in `config.run_dir` until the process is stopped; SIGHUP loads the run again.

    Raises:
        InputError: the extra `serve` is not installed, the address cannot be used, an open address without a
            key, no such run.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    _check(config)
    key = os.environ.get(KEY, "")
    if config.host not in _LOCAL and not key:
        raise InputError(
            f"{config.host} can be reached by others, and no key protects the service; put one into the "
            f"environment as {KEY}, or listen on 127.0.0.1."
        )
    # Bound before the model is loaded: an address in use is told at once, not after a minute.
    with listen(config.host, config.port) as listener:
        shop = open_shop(config)
        app = create_app(shop, config, key=key)
        address = f"http://{config.host}:{config.port}"
        logger.info(
            "serving %s on %s, for programs described at %s/docs; Ctrl+C stops",
            config.run_dir,
            address,
            address,
        )
        _reload_on_hangup(shop)
        options = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=config.drain_seconds
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            # uvicorn raises the signal that stopped it once more when all is done: the end is a clean one.
            signal.signal(number, lambda *_: None)
        uvicorn.Server(options).run(sockets=[listener])
        logger.info("stopped; everything that was asked has been answered")


def open_shop(config: ServeConfig) -> Shop:
    """Load the run and remember where from.

    Raises:
        InputError: no such run.
    """
    from gream.decoding.recommender import Recommender
    from gream.serving.shop import Shop, Source

    run_dir = Path(config.run_dir)

    def load(before: Recommender | None = None) -> Recommender:
        return Recommender.load(run_dir, engine=config.engine, url=config.url, concurrent=True, before=before)

    return Shop(load(), Source(run_dir, load))


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        InputError: the port is out of range or taken, or the address is not one of this machine.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"port {port} is out of range; give one from 1 to 65535 with --port.")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(f"Cannot listen on {host}:{port} ({reason}); give another --port.") from error


def _reload_on_hangup(shop: Shop) -> None:
    """Load the run again when the process gets SIGHUP; a failure leaves what is served."""

    def reload() -> None:
        try:
            logger.info("serving what the run's folder holds since %s", shop.reload().since)
        except InputError as error:
            logger.error("the run was not loaded again: %s", error)

    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=reload).start())


def _check(config: ServeConfig) -> None:
    """Refuse limits that let nothing through."""
    for name in ("max_batch", "max_queue", "max_body_kb", "threads"):
        if getattr(config, name) < 1:
            raise InputError(f"{name} is {getattr(config, name)}; give at least 1.")
    if not config.max_seconds > 0 or not 0 <= config.batch_wait_ms <= 1000 or config.drain_seconds < 0:
        raise InputError(
            f"max_seconds is {config.max_seconds}, batch_wait_ms {config.batch_wait_ms} and drain_seconds "
            f"{config.drain_seconds}; give more than 0, 0 to 1000, and at least 0."
        )


def _missing_extra(error: ModuleNotFoundError) -> InputError:
    """Tell which extra is missing; a missing module of our own stays the defect that it is."""
    if error.name not in _EXTRA:
        raise error
    return InputError(f"`gream serve` needs {error.name}, which is missing; run pip install 'gream[serve]'.")
