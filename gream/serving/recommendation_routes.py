"""Routes that recommend: one request, several, and one whose reasoning is sent while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from gream.errors import EngineUnavailable, InputError
from gream.serving.desk import Desk, Taken, reason, refusal, titles_of, unless_left
from gream.serving.mistakes import described
from gream.serving.schema import (
    BatchAnswer,
    BatchRequest,
    ChainSoFar,
    Mistake,
    RecommendationAnswer,
    RecommendationRequest,
)

if TYPE_CHECKING:
    from gream.decoding.recommender import Recommender

PAUSE = 0.05  # seconds between two looks at chains that are being written
_EVENT = {
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {"enum": ["chain", "answer", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "events `chain` (ChainSoFar), `answer` (RecommendationAnswer), `error` (Mistake)",
        "content": {"text/event-stream": {"schema": _EVENT}},
    }
}


def add_recommendation_routes(app: FastAPI, desk: Desk) -> None:
    """Add the routes under /v1/recommendations."""

    @app.post("/v1/recommendations", responses=described(401, 404, 408, 409, 413, 422, 429, 503, 504))
    async def recommend(body: RecommendationRequest, request: Request) -> RecommendationAnswer:
        """Recommend items that follow a history, best first."""
        return await unless_left(request, desk.answer(desk.take(body)))

    @app.post("/v1/recommendations/batch", responses=described(401, 413, 422))
    async def recommend_batch(body: BatchRequest, request: Request) -> BatchAnswer:
        """Answer several requests; what is wrong with one is told in its place."""

        async def one(wanted: RecommendationRequest) -> RecommendationAnswer | Mistake:
            try:
                return await desk.answer(desk.take(wanted))
            except (EngineUnavailable, InputError, HTTPException) as error:
                return Mistake(detail=refusal(error))

        answers = asyncio.gather(*(one(wanted) for wanted in body.requests))
        return BatchAnswer(answers=await unless_left(request, answers))

    @app.post(
        "/v1/recommendations/stream",
        response_class=StreamingResponse,
        responses={**described(401, 404, 409, 413, 422), **_STREAM},
    )
    async def recommend_stream(body: RecommendationRequest) -> StreamingResponse:
        """Recommend, and send the reasoning as it is written, as server-sent events."""
        taken = desk.take(body)  # a mistake is a 4xx, not an event
        return StreamingResponse(
            _events(desk, taken), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


async def _events(desk: Desk, taken: Taken) -> AsyncIterator[str]:
    """Send the chains so far, whenever they grew, then the answer."""
    written: dict[int, list[int]] = {}  # the newest tokens of every chain, put here by the worker's thread
    titles = titles_of(taken.recommender, taken.history)
    work = asyncio.ensure_future(desk.answer(taken, lambda number, tokens: _keep(written, number, tokens)))
    sent: dict[int, int] = {}
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=PAUSE)
            for event in _grown(taken.recommender, titles, written, sent):
                yield event
        try:
            yield _event("answer", work.result())
        except (EngineUnavailable, InputError, HTTPException) as error:
            yield _event("error", Mistake(detail=refusal(error)))
    finally:
        work.cancel()  # the client left: nothing more is written for it


def _keep(written: dict[int, list[int]], number: int, tokens: list[int]) -> None:
    written[number] = tokens


def _grown(
    recommender: Recommender, titles: list[str], written: dict[int, list[int]], sent: dict[int, int]
) -> list[str]:
    """Return an event for every chain that grew since it was sent."""
    events = []
    for number, growing in sorted(written.items()):
        tokens = list(growing)  # the worker's thread may add to it
        if len(tokens) > sent.get(number, 0):
            sent[number] = len(tokens)
            chain = reason(recommender.so_far(tokens), titles)
            events.append(_event("chain", ChainSoFar(number=number, chain=chain)))
    return events


def _event(kind: str, data: BaseModel) -> str:
    return f"event: {kind}\ndata: {data.model_dump_json()}\n\n"
