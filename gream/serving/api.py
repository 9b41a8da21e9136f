"""The HTTP interface: what can be asked, what is answered, and what a mistake looks like.

Every mistake of a caller is a 4xx whose `detail` is one sentence. All work on the recommender happens in
one worker thread: the model is not made for several threads, and a second one would only slow down the
first; `/health` is answered beside it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

import gream
from gream.errors import InputError
from gream.serving.docs import docs_page
from gream.serving.schema import (
    Health,
    Item,
    ItemReference,
    Mistake,
    Reason,
    RecommendationAnswer,
    RecommendationRequest,
    Recommended,
)

if TYPE_CHECKING:
    from gream.data.store import Catalogue
    from gream.decoding.recommender import Recommendation, Recommender

Result = TypeVar("Result")


def build(recommender: Recommender) -> FastAPI:
    """Build the service; the recommender is used from one thread only from now on."""
    worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gream-recommender")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.shutdown(cancel_futures=True)

    async def in_worker(work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(worker, work)

    app = FastAPI(
        title="gream",
        version=gream.__version__,
        description="Recommendations, at once or with the reasons that led to them.",
        docs_url=None,  # FastAPI's own pages load their scripts from elsewhere; ours needs no internet
        redoc_url=None,
        lifespan=lifespan,
    )
    _tell_mistakes(app)

    @app.post("/v1/recommendations", responses=_mistakes(422))
    async def recommendations(request: RecommendationRequest) -> RecommendationAnswer:
        """Recommend items that follow a history, best first."""
        return await in_worker(lambda: answer(recommender, request))

    @app.get("/v1/items/{item_id:path}", responses=_mistakes(404, 422))
    async def item(item_id: str) -> Item:
        """Return what the catalogue knows of one item."""
        return describe(recommender.catalogue, item_id)

    @app.get("/health")
    async def health() -> Health:
        """Say that the service is up, and how many items it can recommend."""
        return Health(status="ok", version=gream.__version__, items=len(recommender.catalogue))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> str:
        return docs_page(app.openapi())

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app


def answer(recommender: Recommender, request: RecommendationRequest) -> RecommendationAnswer:
    """Answer one request.

    Raises:
        InputError: an unknown item or user, or settings that the recommender cannot serve.
    """
    started = time.monotonic()
    history = request.history
    if history is None:
        assert request.user_id is not None  # the request's own validation sees to it
        history = recommender.history_of(request.user_id)
    catalogue = recommender.catalogue
    items = catalogue.lookup(history, "The history")
    found = recommender.recommend(
        history,
        k=request.k,
        mode=request.mode,
        num_chains=request.num_chains,
        expand_width=request.expand_width,
        exclude_seen=request.exclude_seen,
    )
    return RecommendationAnswer(
        mode=request.mode,
        history=[ItemReference(item_id=catalogue.item_ids[i], title=catalogue.titles[i]) for i in items],
        recommendations=[_recommended(one) for one in found],
        seconds=round(time.monotonic() - started, 4),
    )


def describe(catalogue: Catalogue, item_id: str) -> Item:
    """Return one item of the catalogue, or answer 404."""
    position = catalogue.index.get(item_id)
    if position is None:
        raise HTTPException(404, f"No item has the id {item_id!r}; use an item_id of the catalogue.")
    price = float(catalogue.prices[position])
    return Item(
        item_id=item_id,
        title=catalogue.titles[position],
        description=catalogue.descriptions[position],
        brand=catalogue.brands[position],
        categories=list(catalogue.categories[position]),
        price=price if math.isfinite(price) else None,
    )


def _recommended(one: Recommendation) -> Recommended:
    return Recommended(
        rank=one.rank,
        item_id=one.item_id,
        title=one.title,
        logp=one.logp,
        score=one.score,
        chain=None if one.chain is None else Reason.model_validate(one.chain),
    )


def _mistakes(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers to mistakes in the OpenAPI page."""
    return {code: {"model": Mistake} for code in codes}


def _tell_mistakes(app: FastAPI) -> None:
    """Answer a caller's mistakes with 422 and one sentence."""

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(_sentence(problem) for problem in error.errors())
        return JSONResponse({"detail": f"The request cannot be used: {told}."}, status_code=422)


def _sentence(problem: dict[str, Any]) -> str:
    """Turn one of pydantic's problems into words, without echoing the whole input."""
    if problem["type"] == "json_invalid":
        return "the body is not valid JSON"
    path = ".".join(str(part) for part in problem["loc"][1:])  # the first part is "body"
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    told = f"`{path}`: {message}" if path else message
    return told.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be sent back
