"""Stage `serve`: load a finished run and answer over HTTP until it is stopped.

The HTTP interface itself is in `api.py`. Only there fastapi is imported, so that the settings of this
stage can be read and checked without the extra.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gream.arguments import StageConfig, option
from gream.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from gream.decoding.recommender import Recommender

logger = logging.getLogger(__name__)

STAGE = "serve"
_EXTRA = ("fastapi", "starlette", "uvicorn")


@dataclass(kw_only=True)
class ServeConfig(StageConfig):
    """Which run is served, where, and by which engine; `output` and `seed` have no effect."""

    host: str = option("127.0.0.1", doc="address to listen on; 0.0.0.0 opens the service to the network")
    port: int = option(8000, doc="TCP port to listen on, 1 to 65535")
    engine: Literal["torch", "vllm"] = option("torch", doc="what runs the model: torch or vllm")


CONFIG = ServeConfig


def create_app(recommender: Recommender) -> FastAPI:
    """Build the HTTP service over a loaded recommender.

    Raises:
        InputError: the extra `serve` is not installed.
    """
    try:
        from gream.serving import api
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    return api.build(recommender)


def run(config: ServeConfig) -> None:
    """Serve the run in `config.run_dir` until the process is interrupted.

    Raises:
        InputError: the extra `serve` is not installed, the address cannot be used, no such run.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from error
    # Bound before the model is loaded: an address in use is told at once, not after a minute.
    with listen(config.host, config.port) as listener:
        from gream.decoding.recommender import Recommender

        app = create_app(Recommender.load(config.run_dir, engine=config.engine))
        address = f"http://{config.host}:{config.port}"
        logger.info("serving %s on %s, described at %s/docs; Ctrl+C stops", config.run_dir, address, address)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


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


def _missing_extra(error: ModuleNotFoundError) -> InputError:
    """Tell which extra is missing; a missing module of our own stays the defect that it is."""
    if error.name not in _EXTRA:
        raise error
    return InputError(f"`gream serve` needs {error.name}, which is missing; run pip install 'gream[serve]'.")
