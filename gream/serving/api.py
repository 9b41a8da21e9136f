"""The HTTP interface: what can be asked, what is answered, and what a mistake looks like.

Every mistake of a client is a 4xx whose `detail` is one sentence. The recommender works in threads of its own
(one, where the engine is not made for several); everything else is answered beside it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response

import gream
from gream.serving.batching import Batcher
from gream.serving.catalogue_routes import add_catalogue_routes, add_change_routes
from gream.serving.catalogue_schema import Health, Live
from gream.serving.desk import Desk
from gream.serving.docs import docs_page
from gream.serving.guard import LOOPBACK, Guard, Inside
from gream.serving.metrics import CONTENT_TYPE, Metrics
from gream.serving.mistakes import described, tell_mistakes
from gream.serving.recommendation_routes import add_recommendation_routes
from gream.serving.shop import Shop

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("dom", "service", "history", "search", "chains", "answer", "tree", "app")
# All that /page/ has; no path is looked up.
_PARTS = {
    **{f"{name}.js": "text/javascript" for name in _SCRIPTS},
    **{f"{name}.css": "text/css" for name in ("style", "answer")},
}


@dataclass(frozen=True)
class Limits:
    """What one service takes on."""

    max_batch: int = 64  # questions that are answered together
    max_queue: int = 512  # questions that wait
    batch_wait: float = 0.003  # seconds that a question waits for company
    seconds: float = 60.0  # longest wait for an answer
    max_body: int = 1_000_000  # bytes
    workers: int = 1  # groups that are answered at the same time


def build(shop: Shop, limits: Limits = Limits(), *, key: str = "", open_to_all: bool = False) -> FastAPI:
    """Build the service.

    Args:
        shop: what is served; its recommender is used from the service's threads only from now on.
        limits: what the service takes on.
        key: what clients must show; empty: nothing.
        open_to_all: answer under any host name, not only, where there is no key, under those of the loopback.
    """
    metrics = Metrics()
    inside = Inside()
    batcher = Batcher(
        limits.max_batch,
        limits.max_queue,
        limits.batch_wait,
        limits.workers,
        on_batch=metrics.batch.observe,
        others_coming=inside.others_coming,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        inside.ready = True
        yield
        inside.ready = False
        await batcher.stop()

    app = FastAPI(
        title="gream",
        version=gream.__version__,
        description="Recommendations, at once or with the reasons that led to them.",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere; ours needs no internet
        redoc_url=None,
        lifespan=lifespan,
    )
    desk = Desk(shop, batcher, metrics, limits.seconds)
    metrics.gauge("gream_queue_questions", "Questions that wait", lambda: batcher.queued)
    metrics.gauge("gream_items", "Items in the catalogue", lambda: len(shop.current.recommender.catalogue))
    tell_mistakes(app)
    add_recommendation_routes(app, desk)
    add_catalogue_routes(app, desk)
    add_change_routes(app, desk)
    _add_own_routes(app, desk, inside)
    _add_page(app)
    hosts = () if key or open_to_all else LOOPBACK
    app.add_middleware(Guard, key=key, max_body=limits.max_body, metrics=metrics, hosts=hosts, inside=inside)
    return app


def _add_own_routes(app: FastAPI, desk: Desk, inside: Inside) -> None:
    """Add what tells how the service is."""

    @app.get("/health")
    async def health() -> Health:
        """Say that the service is up, and how many items it can recommend."""
        items = len(desk.shop.current.recommender.catalogue)
        return Health(status="ok", version=gream.__version__, items=items)

    @app.get("/health/live")
    async def live() -> Live:
        """Say that the process answers."""
        return Live(status="ok")

    @app.get("/health/ready", responses=described(503))
    async def ready() -> Live:
        """Say that requests are taken; 503 while the service starts or ends."""
        if not inside.ready:
            raise HTTPException(503, "The service takes no requests now; ask another one.")
        return Live(status="ok")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE: {}}}})
    async def metrics() -> Response:
        """Tell Prometheus."""
        return Response(desk.metrics.text(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI) -> None:
    """Add the page for people; its files are read once, and no request names one."""
    index = (_PAGE / "index.html").read_text(encoding="utf-8")
    parts = {name: (_PAGE / name).read_bytes() for name in _PARTS}

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return index

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, "The page has no such part.")
        return Response(parts[name], media_type=_PARTS[name])

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return docs_page(app.openapi())
