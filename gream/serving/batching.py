"""Requests that arrive together are answered together: a bounded queue in front of the recommender.

The engine takes a group of questions of one search at a time (several groups, where it can). While it works,
the others gather; when it is idle, the first one waits for company for a few milliseconds, and only while
requests are on their way that are not in the queue yet, so that a sole client never waits.

What nobody waits for any more costs nothing: it leaves the queue, and a group that all have left is abandoned
while it writes its chains. A group that fails is asked again one by one, so that nobody pays for another's
question.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gream.errors import EngineUnavailable

if TYPE_CHECKING:
    from gream.decoding.answer import Answer
    from gream.decoding.recommender import Question, Recommender

logger = logging.getLogger(__name__)

Watch = Callable[[int, list[int]], None]  # told of a chain: its number, its tokens so far; in another thread


class QueueFullError(Exception):
    """There is no place in the queue; `wait` says in how many seconds there may be."""

    def __init__(self, wait: int) -> None:
        super().__init__(wait)
        self.wait = wait


class DeadlineError(Exception):
    """The time that a request gave, or that the service gives, is over."""


class _AbandonedError(Exception):
    """Nobody waits for any answer of a group."""


@dataclass(eq=False)
class _Waiting:
    """A question in the queue or at work."""

    recommender: Recommender
    question: Question
    watch: Watch | None
    answer: asyncio.Future[Answer]
    left: bool = False  # read by the worker's thread, too

    @property
    def kind(self) -> Hashable:
        """Only what is equal in this may be answered together."""
        return id(self.recommender), self.question.search


@dataclass(eq=False)
class Batcher:
    """The queue and the threads that empty it; use it on one event loop.

    Attributes:
        max_batch: most questions that are answered together.
        max_queue: most questions that wait; more are refused.
        wait: seconds that the first question waits for company.
        workers: groups that are answered at the same time; 1 for an engine of one thread.
        on_batch: told of the size of every group that was answered.
        others_coming: says whether requests are on their way that are not in the queue yet.
    """

    max_batch: int = 64
    max_queue: int = 512
    wait: float = 0.003
    workers: int = 1
    on_batch: Callable[[int], None] = lambda _: None
    others_coming: Callable[[int], bool] = lambda _: True
    _queue: list[_Waiting] = field(default_factory=list)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _dispatcher: asyncio.Task[None] | None = None
    _seconds_each: float = 0.05  # a moving mean of the time for one question, for Retry-After

    def start(self) -> None:
        """Begin to answer."""
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="gream-recommender")
        self._free = asyncio.Semaphore(self.workers)
        self._dispatcher = asyncio.create_task(self._dispatch())

    async def stop(self) -> None:
        """Finish what is in the queue, then end the threads."""
        while self._queue or self._running:
            await asyncio.sleep(0.01)
        if self._dispatcher:
            self._dispatcher.cancel()
        self._threads.shutdown(wait=True)

    @property
    def queued(self) -> int:
        """Questions that wait."""
        return len(self._queue)

    async def ask(
        self, recommender: Recommender, question: Question, seconds: float, watch: Watch | None = None
    ) -> Answer:
        """Wait for an answer.

        Args:
            recommender: made the question.
            question: what `Recommender.ask` gave.
            seconds: longest wait.
            watch: told of the chains while they are written, in the worker's thread.

        Raises:
            QueueFullError: too many wait already.
            DeadlineError: the time is over.
        """
        if len(self._queue) >= self.max_queue:
            raise QueueFullError(1 + int(self.max_queue * self._seconds_each))
        waiting = _Waiting(recommender, question, watch, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._arrived.set()
        try:
            async with asyncio.timeout(seconds):
                return await waiting.answer
        except TimeoutError as error:
            raise DeadlineError from error
        finally:
            waiting.left = True  # answered, too late, or the client is gone
            if waiting in self._queue:
                self._queue.remove(waiting)

    async def _dispatch(self) -> None:
        while True:
            await self._free.acquire()
            group = await self._next_group()
            task = asyncio.create_task(self._answer(group))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _next_group(self) -> list[_Waiting]:
        """Take the oldest question and all that may be answered with it."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        until = time.monotonic() + self.wait
        while len(self._queue) < self.max_batch and self.others_coming(len(self._queue)):
            left = until - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, 0.001))
        if not self._queue:  # all of them left meanwhile
            return await self._next_group()
        kind = self._queue[0].kind
        group = [waiting for waiting in self._queue if waiting.kind == kind][: self.max_batch]
        self._queue = [waiting for waiting in self._queue if waiting not in group]
        return group

    async def _answer(self, group: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            await self._work(group)
        finally:
            self._free.release()
        each = (time.monotonic() - started) / len(group)
        self._seconds_each += 0.1 * (each - self._seconds_each)
        self.on_batch(len(group))

    async def _work(self, group: list[_Waiting]) -> None:
        loop = asyncio.get_running_loop()
        try:
            answers = await loop.run_in_executor(self._threads, _answers, group)
        except _AbandonedError:
            return
        except EngineUnavailable as error:  # nobody's question is at fault, and none would fare better alone
            for waiting in group:
                _settle(waiting, error)
            return
        except Exception as error:
            if len(group) == 1:
                _settle(group[0], error)
                return
            logger.exception("%d questions failed together and are asked one by one", len(group))
            for waiting in group:
                await self._work([waiting])
            return
        for waiting, answer in zip(group, answers, strict=True):
            _settle(waiting, answer)


def _answers(group: list[_Waiting]) -> list[Answer]:
    """Answer a group, in a worker's thread."""

    def watch(place: int, number: int, tokens: list[int]) -> None:
        if all(waiting.left for waiting in group):
            raise _AbandonedError
        told = group[place].watch
        if told and not group[place].left:
            told(number, tokens)

    if all(waiting.left for waiting in group):
        raise _AbandonedError
    return group[0].recommender.answer([waiting.question for waiting in group], watch)


def _settle(waiting: _Waiting, result: Answer | Exception) -> None:
    if waiting.answer.done():  # too late, or the client is gone
        return
    if isinstance(result, Exception):
        waiting.answer.set_exception(result)
    else:
        waiting.answer.set_result(result)
