"""What goes over the wire to vLLM's `/v1/completions`: the fields that are asked for, and what is read."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from gream.decoding.replicas import ServerFailed

_SHOWN = 200  # characters of an answer that cannot be read

# What a server would else take from the model's generation_config.json.
PLAIN: dict[str, Any] = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,  # only `stop` stops, as in the torch engine
}


def scoring(ids: list[int]) -> dict[str, Any]:
    """Fields that ask for the log-probabilities of listed tokens as the next one, see `Choice.logps`."""
    return {
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": 1,  # has to be there, and has no effect beside the list
        "logprob_token_ids": ids,
        "return_tokens_as_token_ids": True,
    }


class Card(BaseModel):
    """A model that a server names."""

    id: str
    root: str | None = None  # the folder that it was started with


class _Models(BaseModel):
    data: list[Card]


class _Logprobs(BaseModel):
    top_logprobs: list[dict[str, float]]


class Choice(BaseModel):
    """The answer to one prompt, or the newest piece of it."""

    index: int
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    logprobs: _Logprobs | None = None

    def logps(self, ids: list[int]) -> list[float]:
        """Log-probabilities of the listed tokens, as they were asked for with `scoring`.

        Raises:
            ServerFailed: they are not there.
        """
        found = self.logprobs.top_logprobs[0] if self.logprobs and self.logprobs.top_logprobs else {}
        try:
            return [found[f"token_id:{token}"] for token in ids]
        except KeyError as error:
            raise ServerFailed("it answered without the log-probabilities of listed tokens") from error


class _Completion(BaseModel):
    choices: list[Choice]


def read_models(body: bytes) -> list[Card]:
    """Read the answer of `/v1/models`.

    Raises:
        ServerFailed: it is none.
    """
    try:
        return _Models.model_validate_json(body).data
    except ValidationError as error:
        raise _unreadable(body) from error


def read_completion(body: bytes) -> list[Choice]:
    """Read the answer of `/v1/completions`, or a piece of a text that comes as a stream.

    Raises:
        ServerFailed: it is none, or empty.
    """
    try:
        choices = _Completion.model_validate_json(body).choices
    except ValidationError as error:
        raise _unreadable(body) from error
    if not choices:
        raise _unreadable(body)
    return choices


def _unreadable(body: bytes) -> ServerFailed:
    return ServerFailed(f"it answered what vLLM would not: {body[:_SHOWN].decode(errors='replace')!r}")
