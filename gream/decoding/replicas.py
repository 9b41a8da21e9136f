"""Several servers of one model behind one engine: requests are spread, and none is lost with a server.

A prompt has a server of its own (rendezvous hashing), so that its prefix is found in that server's cache at
every level of a search and with the same user's next request. While that server has more to do than its share
the next one in the prompt's order is asked: consistent hashing with bounded loads,
https://arxiv.org/abs/1608.01350.

A server that fails is left out for a while, which doubles with every failure in a row, and what it was asked
goes to another one. Before it is used again it is checked as at the start: it may have come back with another
model.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

from gream.decoding.async_backend import AsyncEngine
from gream.errors import EngineUnavailable, InputError

logger = logging.getLogger(__name__)

_SHARE = 1.25  # of the calls under way that a server may have, in parts of an equal share
_ROUNDS = 2  # times that a call asks every server before it gives up
_BETWEEN_ROUNDS = 0.5  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds that a server is left out


class ServerFailed(Exception):
    """A server gave no answer; the message says why, in a few words."""


class Server(AsyncEngine, Protocol):
    """One server; what it cannot answer itself it raises as `ServerFailed`."""

    @property
    def url(self) -> str:
        """How the server is named to people."""

    async def check(self) -> None:
        """Make sure that the right model is served.

        Raises:
            InputError: it is another one.
            ServerFailed: the server does not answer.
        """


@dataclass(eq=False)
class _Replica:
    """A server, and how it does."""

    server: Server
    under_way: int = 0
    checked: bool = False
    failures: int = 0  # in a row
    left_out_until: float = 0.0  # on the clock of `monotonic`
    why: str = ""
    checks: int = 0  # after a failure, ended
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Replicas:
    """Servers of the same model, see `gream.decoding.async_backend.AsyncEngine`."""

    def __init__(self, servers: Sequence[Server]) -> None:
        """Take servers, which belong to this engine from now on."""
        self._replicas = [_Replica(server) for server in servers]

    async def open(self) -> None:
        """Check all servers; those that do not answer are left out until they do.

        Raises:
            InputError: none answers, or one serves another model.
        """
        await asyncio.gather(*(self._check_at_start(replica) for replica in self._replicas))
        failed = [replica for replica in self._replicas if replica.why]
        for replica in failed:
            logger.warning("%s does not answer (%s); it is left out", replica.server.url, replica.why)
        if len(failed) == len(self._replicas):
            raise InputError(f"No server answers: {_told(failed)}; start one, or correct the URL.")

    async def write(
        self, prompt: list[int], *, seed: int, stop: int, max_tokens: int, temperature: float
    ) -> AsyncGenerator[list[int], None]:
        """Write a text and give its tokens as they come, see `AsyncEngine.write`.

        If its server fails, the next one writes the text again from the same seed, and what was given already
        is not given again. Should the second text differ there, it goes on from what was given.
        """
        given: list[int] = []
        tried: list[_Replica] = []
        while len(given) < max_tokens and stop not in given:
            again: list[int] = []
            replica = await self._next(prompt, tried)
            text = replica.server.write(
                prompt, seed=seed, stop=stop, max_tokens=max_tokens, temperature=temperature
            )
            async with self._asking(replica, tried), contextlib.aclosing(text):
                await self._check_again(replica)
                async for tokens in text:
                    again += tokens
                    if again[: len(given)] != given[: len(again)]:
                        prompt, max_tokens, given = [*prompt, *given], max_tokens - len(given), []
                        break
                    if len(again) > len(given):
                        yield again[len(given) :]
                        given = list(again)
                else:
                    return

    async def score(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: Sequence[list[int]]
    ) -> list[list[float]]:
        """Score tokens after a prompt that is continued by each path, see `AsyncEngine.score`."""
        tried: list[_Replica] = []
        while True:
            replica = await self._next(prompt, tried)
            async with self._asking(replica, tried):
                await self._check_again(replica)
                return await replica.server.score(prompt, paths, ids)

    async def close(self) -> None:
        """Close all connections."""
        for replica in self._replicas:
            await replica.server.close()

    async def _next(self, prompt: list[int], tried: list[_Replica]) -> _Replica:
        """Choose who is asked next.

        Raises:
            EngineUnavailable: all were asked often enough.
        """
        done, in_this_round = divmod(len(tried), len(self._replicas))
        if done == _ROUNDS:
            raise EngineUnavailable(f"No server answered: {_told(self._replicas)}.")
        if done and not in_this_round:
            await asyncio.sleep(_BETWEEN_ROUNDS)
        left = [replica for replica in self._replicas if replica not in tried[done * len(self._replicas) :]]
        now = monotonic()
        fit = [replica for replica in left if replica.left_out_until <= now] or left
        # A hash of numbers is the same in every process, so replicas of the service agree.
        fit.sort(key=lambda replica: hash((*prompt, self._replicas.index(replica))))
        share = math.ceil(_SHARE * (1 + sum(replica.under_way for replica in fit)) / len(fit))
        return next(replica for replica in fit if replica.under_way < share)

    @contextlib.asynccontextmanager
    async def _asking(self, replica: _Replica, tried: list[_Replica]) -> AsyncIterator[None]:
        """Ask one server: a failure is noted and ends here, so that the caller goes on with the next."""
        replica.under_way += 1
        try:
            yield
            replica.failures = 0
        except ServerFailed as failure:
            tried.append(replica)
            self._note(replica, failure)
        finally:
            replica.under_way -= 1

    async def _check_at_start(self, replica: _Replica) -> None:
        try:
            await replica.server.check()
            replica.checked = True
        except ServerFailed as failure:
            self._note(replica, failure)

    async def _check_again(self, replica: _Replica) -> None:
        """Check a server that has failed before it is used.

        Raises:
            ServerFailed: it still fails, or serves another model now.
        """
        checks = replica.checks
        async with replica.checking:
            if replica.checked:
                return
            if replica.checks > checks:  # it failed while this call waited
                raise ServerFailed(replica.why)
            try:
                await replica.server.check()
            except InputError as error:
                raise ServerFailed(str(error)) from error
            finally:
                replica.checks += 1
            replica.checked = True
            logger.warning("%s answers again", replica.server.url)

    def _note(self, replica: _Replica, failure: ServerFailed) -> None:
        """Leave a server out for a while."""
        now = monotonic()
        if replica.left_out_until <= now:  # else it is one failure that several calls met
            if replica.checked:
                logger.warning("%s failed (%s); it is left out for a while", replica.server.url, failure)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**replica.failures)
            replica.left_out_until = now + pause
            replica.failures += 1
        replica.checked = False
        replica.why = str(failure)


def _told(replicas: Sequence[_Replica]) -> str:
    return ", ".join(f"{replica.server.url} ({replica.why})" for replica in replicas)
