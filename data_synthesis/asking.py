"""Many questions to one endpoint: answers from the disk first, then by several workers, within the budget.

Questions are admitted in their order, each only when the worst that it can cost still fits beside what is
spent and what is under way, so the budget holds and the same answers are reached however fast they come. What
earlier runs paid for counts: a budget is for the output, not for a run.

At Ctrl-C or SIGTERM nothing more is sent, and what is under way is waited for and kept, because it is paid;
at a second one it is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from tqdm import tqdm

from data_synthesis.account import Account
from data_synthesis.call_cache import Answer, CallCache, Message, call_key
from data_synthesis.endpoint import Endpoint, Failure
from data_synthesis.questions import ask_again, estimated_tokens
from data_synthesis.settings import TeacherConfig
from gream.errors import InputError

logger = logging.getLogger(__name__)

_REPAIR_TOKENS = 60  # what asking again adds to a prompt at most

Value = TypeVar("Value")


class Unusable(Exception):  # noqa: N818 - no error of the program: the answer is at fault, and is counted
    """An answer that cannot be used, and why; counted, and told to the teacher when it is asked again."""


@dataclass(frozen=True)
class Question(Generic[Value]):
    """What is asked, and how the answer is read; `read` raises `Unusable`."""

    messages: list[Message]
    read: Callable[[str], Value]


@dataclass
class Reply(Generic[Value]):
    """What came of a question: a value, or none; every reason why an answer was not used, or none came.

    `texts` holds the answer for each reason, empty where none came. All are empty where the budget did not
    allow to ask.
    """

    value: Value | None = None
    reasons: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def ask_all(
    questions: Sequence[Question[Value]], config: TeacherConfig, *, first_wait: float = 1.0
) -> tuple[list[Reply[Value]], Account]:
    """Ask all questions that the budget allows.

    Args:
        questions: in the order in which they are to be asked.
        config: checked settings.
        first_wait: seconds before the first retry of a request.

    Returns:
        One reply for each question, and what was used.

    Raises:
        InputError: the key is missing or refused, the model unknown, or too many calls fail.
        KeyboardInterrupt: after a signal, once the calls that were under way have been kept.
    """
    asking = _Asking(questions, config)
    if asyncio.run(asking.run(first_wait)):
        raise KeyboardInterrupt
    return asking.replies, asking.account


def worst_case(messages: Sequence[Message], config: TeacherConfig) -> tuple[int, int]:
    """Most prompt and completion tokens that one question can use, asked again as often as is allowed."""
    prompt = sum(estimated_tokens(message["content"]) for message in messages)
    times = config.repairs + 1
    repairs = _REPAIR_TOKENS * config.repairs
    return prompt * times + repairs, config.longest_answer * times


class _Asking(Generic[Value]):
    """The state of one `ask_all`."""

    def __init__(self, questions: Sequence[Question[Value]], config: TeacherConfig) -> None:
        self._questions = questions
        self._config = config
        self._cache = CallCache(config.calls_path)
        self.replies: list[Reply[Value]] = [Reply() for _ in questions]
        self.account = Account(config)
        self._admitted = 0
        self._change = asyncio.Condition()
        self._same: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, first_wait: float) -> bool:
        """Fill `replies` and `account`; returns whether a signal stopped it."""
        async with Endpoint(self._config, first_wait=first_wait) as endpoint:
            bar = tqdm(total=len(self._questions), desc="calls", unit="call", disable=None)
            with bar, _stopped_by_signals(endpoint.stop):
                try:
                    async with asyncio.TaskGroup() as group:
                        for _ in range(min(self._config.concurrency, len(self._questions))):
                            group.create_task(self._work(endpoint, bar))
                except ExceptionGroup as several:
                    mistakes, others = several.split(InputError)
                    if mistakes is None or others is not None:
                        raise
                    raise mistakes.exceptions[0] from None
            self.account.take_over(endpoint)
            stopped = endpoint.stop.is_set()
        self.account.not_asked = len(self._questions) - self._admitted
        return stopped

    async def _work(self, endpoint: Endpoint, bar: tqdm) -> None:
        while (number := await self._admit(endpoint)) is not None:
            await self._exchange(endpoint, self._questions[number], self.replies[number])
            async with self._change:
                self.account.release(*worst_case(self._questions[number].messages, self._config))
                self._change.notify_all()
            bar.update()

    async def _admit(self, endpoint: Endpoint) -> int | None:
        """The next question that the budget allows; None when there is none, or a signal came."""
        async with self._change:
            while self._admitted < len(self._questions) and not endpoint.stop.is_set():
                worst = worst_case(self._questions[self._admitted].messages, self._config)
                if self.account.fits(*worst):
                    self.account.reserve(*worst)
                    self._admitted += 1
                    return self._admitted - 1
                if not self.account.under_way:
                    return None
                await self._change.wait()
            return None

    async def _exchange(self, endpoint: Endpoint, question: Question[Value], reply: Reply[Value]) -> None:
        messages = question.messages
        for attempt in range(self._config.repairs + 1):
            if attempt:
                messages = ask_again(question.messages, reply.reasons[-1], attempt + 1)
            answer = await self._answer(endpoint, messages)
            if isinstance(answer, Failure):
                reply.reasons.append(f"failed: {answer.reason}")
                reply.texts.append("")
                return
            try:
                if answer.finish_reason == "length":
                    raise Unusable("the answer is longer than it may be")
                reply.value = question.read(answer.text)
                return
            except Unusable as why:
                reply.reasons.append(str(why))
                reply.texts.append(answer.text)

    async def _answer(self, endpoint: Endpoint, messages: list[Message]) -> Answer | Failure:
        """The answer from the disk, or from the endpoint and then on the disk."""
        key = call_key(self._config.model, messages, self._config.parameters)
        # Two questions can be the same, and only one of them must be paid for.
        async with self._same.setdefault(key, asyncio.Lock()):
            answer = self._cache.get(key)
            cached = answer is not None
            if answer is None:
                outcome = await endpoint.ask(messages)
                if isinstance(outcome, Failure):
                    return outcome
                answer = outcome
                self._cache.put(key, answer)
            self.account.book(key, answer, cached=cached)
            return answer


@contextlib.contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` at the first Ctrl-C or SIGTERM; the next one takes its usual course."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield
        return
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def told() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)
        logger.warning("stopping: waiting for the calls that are under way; once more to give them up")

    for number in signals:
        loop.add_signal_handler(number, told)
    try:
        yield
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
