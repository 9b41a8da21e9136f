"""Many calls: the disk, the budget, answers that cannot be used, and being stopped at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_synthesis.account import Account
from data_synthesis.asking import Question, Reply, Unusable, ask_all, worst_case
from data_synthesis.call_cache import Answer, CallCache, call_key
from data_synthesis.settings import TeacherConfig
from gream.errors import InputError
from tests.data_synthesis.scripted_server import Planned, ScriptedServer

PRICES = {"prompt_price": 1000.0, "completion_price": 10000.0}  # 0.1 for the prompt, 0.1 for the answer


def questions(*texts: str) -> list[Question[str]]:
    return [Question([{"role": "user", "content": text}], read) for text in texts]


def read(text: str) -> str:
    if text.startswith("bad"):
        raise Unusable("it is bad")
    return text


def ask(
    server: ScriptedServer, folder: Path, asked: list[Question[str]], **changes: Any
) -> tuple[list[Reply[str]], Account]:
    settings = {"parameters": {"max_tokens": 10}, "concurrency": 3, **changes}
    config = TeacherConfig(run_dir=str(folder), teacher=server.url, model="m", **settings)
    return ask_all(asked, config, first_wait=0.001)


def echo(prompt: str, number: int) -> Planned:
    return Planned(text=f"to {prompt}")


TEXTS = [f"question {number}" for number in range(8)]


def test_answers_come_in_the_order_of_the_questions(tmp_path: Path) -> None:
    release = threading.Event()

    def plan(prompt: str, number: int) -> Planned:
        if prompt == TEXTS[7]:
            release.set()  # the first is answered after the last
        return Planned(text=f"to {prompt}", wait_for=release if prompt == TEXTS[0] else None)

    with ScriptedServer(plan) as server:
        replies, account = ask(server, tmp_path, questions(*TEXTS))
    assert [reply.value for reply in replies] == [f"to {text}" for text in TEXTS]
    assert server.answered[-1] == TEXTS[0]
    assert account.counts() == {"answers": 8, "prompt_tokens": 800, "completion_tokens": 80}


def test_no_more_calls_run_at_the_same_time_than_is_allowed(tmp_path: Path) -> None:
    full, running, most = threading.Event(), Counter[str](), []

    def plan(prompt: str, number: int) -> Planned:
        most.append(len(server.requests) - len(server.answered))
        if number >= 2:
            full.set()
        running[prompt] += 1
        return Planned(wait_for=full)

    with ScriptedServer(plan) as server:
        ask(server, tmp_path, questions(*TEXTS), concurrency=3)
    assert max(most) == 3 and set(running.values()) == {1}


def test_a_second_run_pays_for_nothing(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        first, _ = ask(server, tmp_path, questions(*TEXTS))
        second, account = ask(server, tmp_path, questions(*TEXTS))
        assert (first, len(server.requests)) == (second, 8)
        assert (account.answers, account.cached) == (8, 8)
        ask(server, tmp_path, questions(*TEXTS), parameters={"max_tokens": 11})
        assert len(server.requests) == 16


def test_equal_questions_are_paid_for_once(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        replies, account = ask(server, tmp_path, questions("same", "same", "same", "other"))
    assert sorted(server.prompts) == ["other", "same"]
    assert [reply.value for reply in replies] == ["to same"] * 3 + ["to other"]
    assert account.answers == 2


def test_the_key_holds_model_messages_and_parameters_in_any_order() -> None:
    message = [{"role": "user", "content": "x"}]
    keys = {
        call_key("m", message, {"a": 1, "b": 2}),
        call_key("m", message, {"b": 2, "a": 1}),
        call_key("n", message, {"a": 1, "b": 2}),
        call_key("m", [{"role": "user", "content": "y"}], {"a": 1, "b": 2}),
        call_key("m", message, {"a": 1, "b": 3}),
    }
    assert len(keys) == 4


def test_a_file_that_something_else_wrote_is_named(tmp_path: Path) -> None:
    cache = CallCache(tmp_path)
    cache.put("abc", Answer("x", "stop", 1, 1))
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_text("{")
    with pytest.raises(InputError, match=rf"{file.name} holds no answer.*delete this file"):
        cache.get("abc")


def test_an_answer_that_cannot_be_written_leaves_nothing_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*places: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache = CallCache(tmp_path)
    with pytest.raises(InputError, match="cannot be kept .*No space left on device.*run the same command"):
        cache.put("abc", Answer("x", "stop", 1, 1))
    assert cache.get("abc") is None


def test_an_answer_that_cannot_be_used_is_asked_for_again_a_few_times(tmp_path: Path) -> None:
    def plan(prompt: str, number: int) -> Planned:
        good = "attempt 3" in prompt and "one" in prompt
        return Planned(text="good" if good else "bad one")

    with ScriptedServer(plan) as server:
        replies, account = ask(server, tmp_path, questions("one", "two"), repairs=2)
        assert replies == [
            Reply("good", ["it is bad"] * 2, ["bad one"] * 2),
            Reply(None, ["it is bad"] * 3, ["bad one"] * 3),
        ]
        assert (len(server.requests), account.answers) == (6, 6)
        assert any("could not be used: it is bad. This is attempt 2" in prompt for prompt in server.prompts)
        again, _ = ask(server, tmp_path, questions("one", "two"), repairs=2)
        assert (again, len(server.requests)) == (replies, 6)


def test_an_answer_that_was_cut_off_is_not_used(tmp_path: Path) -> None:
    with ScriptedServer(lambda prompt, number: Planned(finish_reason="length")) as server:
        [reply], _ = ask(server, tmp_path, questions("one"), repairs=0)
    assert reply == Reply(None, ["the answer is longer than it may be"], ["fine"])


def test_a_failed_call_is_counted_and_asked_again_by_the_next_run_alone(tmp_path: Path) -> None:
    fails = {TEXTS[2]}
    with ScriptedServer(lambda prompt, number: Planned(status=500 if prompt in fails else 200)) as server:
        replies, account = ask(server, tmp_path, questions(*TEXTS), retries=1)
        assert replies[2] == Reply(None, ["failed: HTTP 500"], [""])
        assert account.failures == {"HTTP 500": 1} and account.answers == 7
        assert any("failed calls: HTTP 500 1; the same command" in told for told in account.sentences())
        fails.clear()
        replies, _ = ask(server, tmp_path, questions(*TEXTS), retries=1)
        assert all(reply.value for reply in replies)
        assert len(server.requests) == 7 + 2 + 1


@pytest.mark.parametrize("budget", [{"token_budget": 60}, {"money_budget": 0.36, **PRICES}])
def test_the_budget_stops_cleanly_and_keeps_what_is_done(budget: dict[str, Any], tmp_path: Path) -> None:
    """A call uses 4 + 8 tokens, and 4 + 10 at worst: 3 x 12 + 14 fit into 60, and 4 x 12 + 14 do not.

    In money 0.084 and 0.104: 3 x 0.084 + 0.104 fit into 0.36, and 4 x 0.084 + 0.104 do not.
    """

    def run(**changes: Any) -> tuple[list[Reply[str]], Account]:
        return ask(server, tmp_path, questions(*TEXTS), repairs=0, **changes)

    with ScriptedServer(lambda prompt, number: Planned(tokens=(4, 8))) as server:
        replies, account = run(**budget)
        assert [bool(reply.value) for reply in replies] == [True] * 4 + [False] * 4
        assert len(server.requests) == account.not_asked == account.counts()["not asked"] == 4
        assert any("the budget is spent: 4 questions were not asked" in told for told in account.sentences())
        assert (run(**budget)[0], len(server.requests)) == (replies, 4)
        assert all(reply.value for reply in run()[0])
        assert len(server.requests) == 8


def test_calls_under_way_are_reserved_for(tmp_path: Path) -> None:
    """Answers as long as they may be: three calls at a time must not go past what one at a time would."""
    config = TeacherConfig(parameters={"max_tokens": 10}, repairs=0)
    tokens = worst_case(questions(TEXTS[0])[0].messages, config)
    with ScriptedServer(lambda prompt, number: Planned(tokens=tokens)) as server:
        _, account = ask(
            server, tmp_path, questions(*TEXTS), repairs=0, concurrency=8, token_budget=sum(tokens) * 5 + 1
        )
    assert len(server.requests) == 5 and account.not_asked == 3


def test_the_money_of_earlier_runs_is_told_apart(tmp_path: Path) -> None:
    with ScriptedServer(echo) as server:
        ask(server, tmp_path, questions(*TEXTS[:6]), **PRICES)
        _, account = ask(server, tmp_path, questions(*TEXTS), **PRICES)
    [told] = account.sentences()
    assert told.endswith("1.6000 in all, 0.4000 of it now") and "(2 new, 6 from earlier runs)" in told
    assert account.counts()["cost"] == 1.6


PROGRAM = """
import json, sys
from pathlib import Path
from data_synthesis.asking import Question, ask_all
from data_synthesis.settings import TeacherConfig

folder, url, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
config = TeacherConfig(run_dir=folder, teacher=url, model="m", concurrency=3)
asked = [Question([{"role": "user", "content": text}], str) for text in texts]
try:
    replies, account = ask_all(asked, config)
except KeyboardInterrupt:
    sys.exit(130)
print(account.answers, account.cached)
"""


def start(folder: Path, server: ScriptedServer) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), server.url, json.dumps(TEXTS)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answers_on_disk(folder: Path) -> int:
    return len(list((folder / "calls").rglob("*.json")))


def test_a_killed_run_goes_on_and_pays_for_no_answer_twice(tmp_path: Path) -> None:
    """Killed without warning while three calls are open: those were never answered, all others are kept."""
    killed, process = threading.Event(), None

    def plan(prompt: str, number: int) -> Planned:
        return Planned(text=f"to {prompt}", hangs=number >= 4 and not killed.is_set())

    with ScriptedServer(plan) as server:
        process = start(tmp_path, server)
        while len(server.requests) < 7 or answers_on_disk(tmp_path) < 4:
            assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed.set()
        assert Counter(server.answered).total() == 4
        process = start(tmp_path, server)
        out, error = process.communicate()
        assert out.split() == ["8", "4"], error
    assert Counter(server.answered) == Counter(TEXTS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_waits_for_the_calls_that_are_under_way(number: int, tmp_path: Path) -> None:
    told = threading.Event()
    with ScriptedServer(lambda prompt, n: Planned(wait_for=told if n >= 2 else None)) as server:
        process = start(tmp_path, server)
        while len(server.requests) < 5:
            assert process.poll() is None, process.communicate()
        os.kill(process.pid, number)
        assert process.stderr is not None
        line = process.stderr.readline()
        told.set()
        _, error = process.communicate()
        assert (process.returncode, answers_on_disk(tmp_path)) == (130, 5), line + error
        assert len(server.requests) == len(set(server.answered)) == 5
        assert "waiting for the calls that are under way" in line
