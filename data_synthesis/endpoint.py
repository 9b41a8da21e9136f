"""One call to an OpenAI-compatible endpoint: paced, retried, and an answer or a counted reason in the end.

The `openai` package speaks the protocol; its own retries are switched off, because a retry must keep to the
rate limit and be counted. What passes by itself (429, 5xx, time-outs, broken connections, a 200 that holds no
completion) is asked again after a growing wait, or after the wait that the server names. What does not pass
(no permission, no such model) stops the stage.

The key is sent to the endpoint and to nothing else: no message of a server is shown before it is taken out.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ValidationError

from data_synthesis.call_cache import Answer, Message
from data_synthesis.questions import estimated_tokens
from data_synthesis.settings import TeacherConfig, api_key
from gream.errors import InputError

logger = logging.getLogger(__name__)

HOPELESS = 20  # calls that fail one after the other before the stage gives up
_LONGEST_BACK_OFF = 60.0  # seconds
_LONGEST_REQUESTED_WAIT = 600.0  # seconds that a server may ask for; with more the call counts as failed
_SHOWN = 200  # characters of a server's message


@dataclass(frozen=True)
class Failure:
    """A request that brought no answer: why, whether it may pass, and how long the server asks to wait."""

    reason: str
    passing: bool
    retry_after: float | None = None
    detail: str = ""


STOPPED = Failure("not asked: stopped", passing=True)


class Pace:
    """Spreads the starts of requests evenly over the minute, and holds all of them while a server says so.

    Args:
        per_minute: most starts in a minute; 0 for no limit.
    """

    def __init__(self, per_minute: float) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0

    def reserve(self, now: float) -> float:
        """Take the next start; returns the seconds to wait for it."""
        start = max(now, self._next)
        self._next = start + self._gap
        return start - now

    def hold(self, until: float) -> None:
        """Let no request start before `until`."""
        self._next = max(self._next, until)


class Endpoint:
    """A model at an address; use it as an async context manager.

    Args:
        config: checked settings.
        first_wait: seconds before the first retry when the server names none; doubled each time.

    Raises:
        InputError: the `openai` package or the key is missing.
    """

    def __init__(self, config: TeacherConfig, *, first_wait: float = 1.0) -> None:
        self.stop = asyncio.Event()  # once it is set, nothing more is sent
        self.retries: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.requests = 0
        self._config = config
        self._key = api_key(config)
        self._client = _client(config, self._key)
        self._pace = Pace(config.requests_per_minute)
        self._first_wait = first_wait
        self._jitter = random.Random(config.seed)
        self._in_a_row = 0

    async def __aenter__(self) -> Endpoint:
        """Nothing to open: connections are made when they are needed."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._client.close()

    async def ask(self, messages: Sequence[Message]) -> Answer | Failure:
        """Ask until there is an answer, the retries are used up, or `stop` is set.

        Raises:
            InputError: the endpoint refuses the key or does not know the model, or too many calls in a row
                failed.
        """
        outcome = STOPPED
        for attempt in range(self._config.retries + 1):
            await self._wait(self._pace.reserve(time.monotonic()))
            if self.stop.is_set():
                return STOPPED
            self.requests += 1
            answer = await self._send(messages)
            if isinstance(answer, Answer):
                self._in_a_row = 0
                return answer
            outcome = answer
            if not outcome.passing or attempt == self._config.retries:
                break
            self.retries[outcome.reason] += 1
            await self._back_off(outcome, attempt)
        self._count(outcome)
        return outcome

    async def _send(self, messages: Sequence[Message]) -> Answer | Failure:
        import openai

        try:
            async with asyncio.timeout(self._config.timeout):  # the client's own limit is for each read alone
                raw = await self._client.chat.completions.with_raw_response.create(
                    model=self._config.model,
                    messages=[dict(m) for m in messages],
                    extra_body=self._config.parameters,
                    # The package would send them from its own environment variables, whoever this is.
                    extra_headers={"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()},
                )
            return _read(raw.http_response.content, messages)
        except (openai.APITimeoutError, TimeoutError):
            return Failure("timed out", passing=True)
        except openai.APIConnectionError:
            return Failure("connection failed", passing=True)
        except openai.APIStatusError as error:
            return self._refused(error.status_code, error.response.headers, error.response.text)

    def _refused(self, status: int, headers: Mapping[str, str], body: str) -> Failure:
        if status in (401, 403):
            raise InputError(
                f"The endpoint {self._config.teacher} refuses the key (HTTP {status}); "
                "correct the environment variable that `api_key_env` names."
            )
        if status == 404:
            raise InputError(
                f"The endpoint {self._config.teacher} knows no model {self._config.model!r}, or is no base "
                "URL (HTTP 404); correct `model`, or `teacher`, which usually ends in /v1."
            )
        wait = _retry_after(headers, time.time())
        passing = status in (408, 409, 429) or status >= 500
        if wait is not None and wait > _LONGEST_REQUESTED_WAIT:
            return Failure(f"HTTP {status}, to be tried again in {wait:.0f} s", passing=False)
        return Failure(f"HTTP {status}", passing, wait, self._shown(body))

    async def _back_off(self, failure: Failure, attempt: int) -> None:
        if failure.retry_after is not None:
            # Everybody waits: a server that is over its limit answers the other calls no better.
            self._pace.hold(time.monotonic() + failure.retry_after)
            return
        longest = min(_LONGEST_BACK_OFF, self._first_wait * 2**attempt)
        await self._wait(longest * self._jitter.uniform(0.5, 1.0))

    async def _wait(self, seconds: float) -> None:
        """Sleep, but not past the moment at which `stop` is set."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stop.wait(), seconds)

    def _count(self, failure: Failure) -> None:
        if not self.failures[failure.reason]:
            logger.warning("a call failed: %s%s", failure.reason, failure.detail and f" ({failure.detail})")
        self.failures[failure.reason] += 1
        self._in_a_row += 1
        if self._in_a_row >= HOPELESS:
            told = ", ".join(f"{reason}: {number}" for reason, number in self.failures.most_common())
            raise InputError(
                f"{HOPELESS} calls in a row to {self._config.teacher} failed ({told}); see to the endpoint "
                "and run the same command again: answers that are there are kept."
            )

    def _shown(self, body: str) -> str:
        text = " ".join(body.split())
        return (text.replace(self._key, "***") if self._key else text)[:_SHOWN]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int


class _Completion(BaseModel):
    """The few fields that are needed: servers differ in the others."""

    choices: list[_Choice]
    usage: _Usage | None = None


def _read(body: bytes, messages: Sequence[Message]) -> Answer | Failure:
    try:
        completion = _Completion.model_validate_json(body)
        choice = completion.choices[0]
    except (ValidationError, IndexError):
        return Failure("answered without a completion", passing=True)
    text = choice.message.content or ""
    prompt = "".join(message["content"] for message in messages)
    # A server that does not say what it used still uses up the budget.
    usage = completion.usage or _Usage(
        prompt_tokens=estimated_tokens(prompt), completion_tokens=estimated_tokens(text)
    )
    return Answer(text, choice.finish_reason or "", usage.prompt_tokens, usage.completion_tokens)


def _retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the header `Retry-After` asks to wait, which holds seconds or a date; None without it."""
    value = headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(date) - now) if date else None


def _client(config: TeacherConfig, key: str) -> Any:
    try:
        import openai
    except ImportError as error:
        raise InputError(
            f"A model as teacher needs the package openai, which cannot be imported ({error}); "
            "run `pip install 'gream[teacher]'`, or use `teacher: rules`."
        ) from error
    # Given a key of None the package would send OPENAI_API_KEY to whatever endpoint this is.
    return openai.AsyncOpenAI(
        base_url=config.teacher, api_key=key or "none", timeout=config.timeout, max_retries=0
    )
