"""An engine for callers in several threads: what they ask runs as coroutines of one event loop.

The loop has a thread of its own. A call from any thread becomes many small requests there, one for each text
and one for each user of a level, and the requests of all calls are under way together: the engine behind
(`AsyncEngine`) batches them continuously, whoever asked.

Legend: B users, K tokens of a level's block, P prefixes.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import torch

from gream.decoding.backend import Watch, check_prompts
from gream.decoding.path_session import PathSession, Prefix, check_no_states, chunks
from gream.errors import EngineUnavailable

Result = TypeVar("Result")
_News = tuple[int, int, list[int]]  # what a `Watch` is told


class AsyncEngine(Protocol):
    """What is asked of a language model that answers many requests at once."""

    def write(
        self, prompt: list[int], *, seed: int, stop: int, max_tokens: int, temperature: float
    ) -> AsyncGenerator[list[int], None]:
        """Write a text and give its tokens as they come, see `Backend.complete`.

        A caller that is cancelled ends the request.

        Raises:
            InputError: the engine cannot take the request.
            EngineUnavailable: the engine is gone.
        """

    async def score(
        self, prompt: list[int], paths: Sequence[tuple[int, ...]], ids: Sequence[list[int]]
    ) -> list[list[float]]:
        """Score tokens after a prompt that is continued by each of some paths.

        Args:
            prompt: token ids of one user.
            paths: tokens that are added to it.
            ids: tokens to score after each, in lists that one request can hold.

        Returns:
            For each path the log-probabilities of all `ids`, at temperature 1, over the full vocabulary.

        Raises:
            InputError: the engine cannot take the request.
            EngineUnavailable: the engine is gone.
        """

    async def close(self) -> None:
        """Give back what the engine holds."""


class AsyncBackend:
    """A `Backend` that any number of threads may call at once."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Start the loop that `engine` lives in."""
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()  # between calls that begin and the end
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="gream-engine", daemon=True)
        self._thread.start()

    @property
    def device(self) -> torch.device:
        """The host: numbers come as Python floats."""
        return torch.device("cpu")

    def complete(
        self,
        prompts: list[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        stop: int,
        max_tokens: int,
        temperature: float,
        watch: Watch | None = None,
    ) -> list[list[list[int]]]:
        """Write free texts after each prompt, see `Backend.complete`.

        `watch` is told in the thread of the caller. What it raises ends all requests of the call before it
        goes on to the caller.
        """
        check_prompts(prompts)
        news: queue.SimpleQueue[_News | asyncio.Task[Any]] = queue.SimpleQueue()

        async def write(row: int, place: int, seed: int) -> list[int]:
            text: list[int] = []
            coming = self._engine.write(
                prompts[row], seed=seed, stop=stop, max_tokens=max_tokens, temperature=temperature
            )
            async for tokens in coming:
                text += tokens
                if watch:
                    news.put((row, place, tokens))
            return text

        wanted = [(row, place, seed) for row, user in enumerate(seeds) for place, seed in enumerate(user)]
        written = iter(self.run(lambda: together([write(*one) for one in wanted]), news, watch))
        return [[next(written) for _ in of_user] for of_user in seeds]

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> PathSession:
        """Begin one search over these prompts; the engine's prefix cache keeps beams cheap.

        Raises:
            InputError: the states of the prompts are asked for.
        """
        check_prompts(prompts)
        check_no_states(keep_states)

        def score(prefixes: list[Prefix], block: range) -> torch.Tensor:
            ids = chunks(block)
            # Prefixes come in the order of their users, so the answers lie in the order of the prefixes.
            by_user = [
                (prompts[user], [path for _, path in of_user])
                for user, of_user in itertools.groupby(prefixes, key=lambda prefix: prefix[0])
            ]
            found = self.run(
                lambda: together([self._engine.score(prompt, paths, ids) for prompt, paths in by_user])
            )
            logps = [row for of_user in found for row in of_user]
            return torch.tensor(logps, dtype=torch.float32)  # (P, K)

        return PathSession(len(prompts), score)

    def run(
        self,
        work: Callable[[], Coroutine[Any, Any, Result]],
        news: queue.SimpleQueue[_News | asyncio.Task[Any]] | None = None,
        watch: Watch | None = None,
    ) -> Result:
        """Run a coroutine in the engine's loop and wait for it; whatever ends the wait ends the coroutine.

        Args:
            work: makes the coroutine, in the loop.
            news: what the coroutine puts there is told to `watch`, in the calling thread.
            watch: may raise.

        Raises:
            EngineUnavailable: the backend was closed.
        """
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue() if news is None else news
        task = self._begin(work, inbox)
        try:
            while not isinstance(told := inbox.get(), asyncio.Task):
                if watch:
                    watch(*told)
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: task[0].cancel())
            while not isinstance(inbox.get(), asyncio.Task):
                pass  # what was under way when the call ended
            raise
        if told.cancelled():
            raise EngineUnavailable("The engine was closed while it worked on this request.")
        result: Result = told.result()
        return result

    def close(self) -> None:
        """End the calls that are under way, the engine and its loop; the backend is of no use any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(
        self, work: Callable[[], Coroutine[Any, Any, Result]], inbox: queue.SimpleQueue[Any]
    ) -> list[asyncio.Task[Result]]:
        """Make a task of `work` in the loop, which puts itself into `inbox` at its end.

        Returns:
            A list that holds the task as soon as the loop has come to it.
        """
        made: list[asyncio.Task[Result]] = []

        def begin() -> None:
            made.append(self._loop.create_task(work()))
            made[0].add_done_callback(inbox.put)

        with self._lock:
            if self._closed:
                raise EngineUnavailable("The engine was closed.")
            self._loop.call_soon_threadsafe(begin)
        return made

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._engine.close()


async def together(works: list[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run coroutines together; the first error, or a cancellation, ends them all before it goes on."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
