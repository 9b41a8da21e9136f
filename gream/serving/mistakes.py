"""What a client's mistake looks like: a 4xx whose `detail` is one sentence, without an echo of the input."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from gream.errors import InputError
from gream.serving.schema import Mistake

_MOST_TOLD = 5  # problems of one request
_WHAT = {
    400: "The body cannot be read",
    401: "The key is missing or wrong",
    404: "There is no such thing",
    409: "The run's folder cannot be served as it is",
    413: "The body is too large",
    422: "The request cannot be used",
    429: "Too many requests wait; `Retry-After` tells for how long",
    503: "The service takes no requests now",
    504: "There was no answer in time",
}


def described(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the answers to mistakes in the OpenAPI document; a broken body may come anywhere."""
    return {code: {"model": Mistake, "description": _WHAT[code]} for code in sorted({400, *codes})}


def tell_mistakes(app: FastAPI) -> None:
    """Answer a client's mistakes with 422 and one sentence."""

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": printable(str(error))}, status_code=422)

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
