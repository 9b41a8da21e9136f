"""What a client's mistake looks like: a 4xx whose `detail` is one sentence, without an echo of the input."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.routing import Match

from gream.errors import EngineUnavailable, InputError, NotFoundError
from gream.serving.schema import Mistake

_MOST_TOLD = 5  # problems of one request
_WHAT = {
    400: "The body cannot be read",
    401: "The key is missing or wrong",
    404: "It names an item, a customer, a category or a brand that is not there",
    408: "There was no answer within the `timeout` of the request",
    409: "This catalogue or this run cannot do what it asks",
    413: "The body is too large",
    422: "The request cannot be used",
    429: "Too many requests wait; `Retry-After` tells for how long",
    503: "The service takes no requests now, or what runs its model does not answer",
    504: "There was no answer in time",
}


def described(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers to mistakes in the OpenAPI document; a broken body may come anywhere."""
    return {code: {"model": Mistake, "description": _WHAT[code]} for code in sorted({400, *codes})}


def tell_mistakes(app: FastAPI) -> None:
    """Answer a client's mistakes with one sentence.

    422 where the body is not what the interface asks for, 404 where it names what is not there, 409 where
    this catalogue or this run cannot do what it asks.
    """

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        status = 404 if isinstance(error, NotFoundError) else 409
        return JSONResponse({"detail": printable(str(error))}, status_code=status)

    @app.exception_handler(EngineUnavailable)
    async def no_engine(_: Request, error: EngineUnavailable) -> JSONResponse:
        return JSONResponse({"detail": printable(str(error))}, status_code=503)

    @app.exception_handler(405)
    async def wrong_method(request: Request, _: Exception) -> JSONResponse:
        # One path has a route for each method, and the router knows of the first alone.
        matching = [route for route in app.routes if route.matches(request.scope)[0] != Match.NONE]
        methods = sorted({method for route in matching for method in getattr(route, "methods", None) or ()})
        told = f"This path takes {', '.join(methods)}; ask it by one of these methods."
        return JSONResponse({"detail": told}, status_code=405, headers={"Allow": ", ".join(methods)})

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = list(error.errors())
        told = "; ".join(_sentence(problem) for problem in problems[:_MOST_TOLD])
        more = f"; and {len(problems) - _MOST_TOLD} more" if len(problems) > _MOST_TOLD else ""
        return JSONResponse({"detail": f"The request cannot be used: {told}{more}."}, status_code=422)


def _sentence(problem: dict[str, Any]) -> str:
    """Turn one of pydantic's problems into words, without echoing the whole input."""
    if problem["type"] == "json_invalid":
        return "the body is not valid JSON"
    path = ".".join(str(part)[:100] for part in problem["loc"][1:])  # the first part is "body"
    message = str(problem["msg"]).removeprefix("Value error, ").rstrip(".")
    return printable(f"`{path}`: {message}" if path else message)


def printable(text: str) -> str:
    """Return text that can be sent: a lone surrogate cannot."""
    return text.encode("utf-8", "backslashreplace").decode()
