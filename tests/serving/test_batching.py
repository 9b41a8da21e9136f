"""The queue: who is answered with whom, who is refused, who leaves, and who pays for another's failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gream.errors import EngineUnavailable
from gream.serving.batching import Batcher, DeadlineError, QueueFullError


@dataclass(frozen=True)
class Asked:
    search: str
    value: int = 0


@dataclass(eq=False)
class Scripted:
    """Doubles values; waits for the gate, fails on 13, has no engine on 17, writes for the search "slow"."""

    gate: threading.Event = field(default_factory=threading.Event)
    groups: list[list[int]] = field(default_factory=list)
    written: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def answer(self, questions: Sequence[Asked], watch: Callable[[int, int, list[int]], None]) -> list[int]:
        self.groups.append([question.value for question in questions])
        assert self.gate.wait(10)
        if any(question.value == 13 for question in questions):
            raise RuntimeError("thirteen")
        if any(question.value == 17 for question in questions):
            raise EngineUnavailable("No server answers.")
        if questions[0].search == "slow":
            for token in range(2000):
                self.written.append(token)
                for place, question in enumerate(questions):
                    watch(place, 0, [question.value, token])
                threading.Event().wait(0.002)
        return [2 * question.value for question in questions]


def run(scenario: Callable[[Batcher, Scripted], Any], **settings: Any) -> Scripted:
    scripted = Scripted()

    async def played() -> None:
        batcher = Batcher(**{"wait": 0.02, **settings})
        batcher.start()
        await scenario(batcher, scripted)
        await batcher.stop()

    asyncio.run(asyncio.wait_for(played(), 20))
    return scripted


def ask(batcher: Batcher, scripted: Any, value: int, search: str = "a", **options: Any) -> Any:
    return asyncio.ensure_future(
        batcher.ask(scripted, Asked(search, value), options.pop("seconds", 10), **options)
    )


def test_what_comes_together_is_answered_together_in_groups_of_one_search() -> None:
    sizes: list[int] = []

    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        batcher.on_batch = sizes.append
        searches = ["a", "b", "a", "a", "b", "a"]
        asked = [ask(batcher, scripted, value, search) for value, search in enumerate(searches)]
        assert await asyncio.gather(*asked) == [0, 2, 4, 6, 8, 10]

    assert run(scenario).groups == [[0, 2, 3, 5], [1, 4]] and sizes == [4, 2]


def test_a_group_has_no_more_than_it_may() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        await asyncio.gather(*(ask(batcher, scripted, value) for value in range(7)))

    assert run(scenario, max_batch=3).groups == [[0, 1, 2], [3, 4, 5], [6]]


def test_questions_of_two_loaded_runs_are_never_mixed() -> None:
    other = Scripted()

    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        asked = [ask(batcher, one, value) for value, one in enumerate([scripted, other, scripted, other])]
        assert await asyncio.gather(*asked) == [0, 2, 4, 6]

    assert run(scenario).groups == [[0, 2]] and other.groups == [[1, 3]]


def test_a_sole_client_does_not_wait_for_company() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        assert await ask(batcher, scripted, 4) == 8

    asked: list[int] = []

    def others_coming(queued: int) -> bool:
        asked.append(queued)
        return False

    run(scenario, wait=1000.0, others_coming=others_coming)
    assert asked == [1]


def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        first = ask(batcher, scripted, 1)
        await asyncio.sleep(0.1)
        waiting = [ask(batcher, scripted, value) for value in (2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as refused:
            await batcher.ask(scripted, Asked("a", 4), 10)  # type: ignore[arg-type]
        assert refused.value.wait >= 1 and batcher.queued == 2
        scripted.gate.set()
        assert await asyncio.gather(first, *waiting) == [2, 4, 6]

    assert run(scenario, max_queue=2).groups == [[1], [2, 3]]


def test_who_waits_too_long_is_told_and_leaves_the_queue() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        first = ask(batcher, scripted, 1)
        await asyncio.sleep(0.1)
        late = ask(batcher, scripted, 2, seconds=0.05)
        with pytest.raises(DeadlineError):
            await late
        assert batcher.queued == 0
        scripted.gate.set()
        assert await first == 2

    assert run(scenario).groups == [[1]]


def test_a_client_that_left_costs_nothing_in_the_queue() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        first = ask(batcher, scripted, 1)
        await asyncio.sleep(0.1)
        gone, stays = ask(batcher, scripted, 2), ask(batcher, scripted, 3)
        await asyncio.sleep(0)
        gone.cancel()
        scripted.gate.set()
        assert await first == 2 and await stays == 6

    assert run(scenario).groups == [[1], [3]]


def test_writing_stops_when_all_of_a_group_have_left_and_not_before() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        told: list[int] = []
        one = ask(batcher, scripted, 1, "slow", watch=lambda _, tokens: told.append(tokens[1]))
        other = ask(batcher, scripted, 2, "slow")
        await asyncio.sleep(0.2)
        one.cancel()
        await asyncio.sleep(0.1)
        so_far, heard = len(scripted.written), len(told)
        await asyncio.sleep(0.1)
        assert len(scripted.written) > so_far and len(told) == heard > 0  # the other one still waits
        other.cancel()
        await asyncio.sleep(0.1)
        assert await ask(batcher, scripted, 5) == 10  # the thread is free again

    assert len(run(scenario).written) < 1000


def test_a_failure_is_of_the_one_who_caused_it() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        found = await asyncio.gather(
            *(ask(batcher, scripted, value) for value in (1, 13, 3)), return_exceptions=True
        )
        assert found[0] == 2 and found[2] == 6 and str(found[1]) == "thirteen"

    assert run(scenario).groups == [[1, 13, 3], [1], [13], [3]]


def test_an_engine_that_is_gone_is_asked_once_and_everybody_is_told() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        asked = [ask(batcher, scripted, value) for value in (1, 17, 3)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in found] == [EngineUnavailable] * 3

    assert run(scenario).groups == [[1, 17, 3]]


def test_who_left_is_not_asked_again_after_a_failure() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        asked = [ask(batcher, scripted, value) for value in (1, 13, 3)]
        while not scripted.groups:
            await asyncio.sleep(0.01)
        asked[2].cancel()
        await asyncio.sleep(0)
        scripted.gate.set()
        await asyncio.gather(*asked, return_exceptions=True)

    assert run(scenario).groups == [[1, 13, 3], [1], [13]]


def test_stopping_finishes_what_was_asked() -> None:
    answers: list[int] = []

    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        for value in range(5):
            ask(batcher, scripted, value).add_done_callback(lambda task: answers.append(task.result()))
        await asyncio.sleep(0)

    run(scenario, max_batch=2)
    assert answers == [0, 2, 4, 6, 8]


def test_an_engine_of_several_threads_answers_several_groups_at_once() -> None:
    async def scenario(batcher: Batcher, scripted: Scripted) -> None:
        scripted.gate.clear()
        asked = [ask(batcher, scripted, value, search) for value, search in enumerate("abc")]
        while len(scripted.groups) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert len(scripted.groups) == 2  # as many as it has threads
        scripted.gate.set()
        assert await asyncio.gather(*asked) == [0, 2, 4]

    run(scenario, workers=2)
