"""Runs of titles in texts, by hand and against the slow search over all runs."""

from __future__ import annotations

import random

from gream.evaluation.leakage import is_explained, shared_run, telling_runs
from gream.evaluation.mentions import Phrase, phrase_of


def run(text: str, title: str) -> Phrase:
    return shared_run(phrase_of(text), phrase_of(title))


def test_a_run_is_at_least_three_words_of_the_title_in_a_row() -> None:
    title = "Quiet Brushed Steel Laser Printer"
    assert run("wants a brushed STEEL laser one", title) == ("brushed", "steel", "laser")
    assert run("wants brushed steel, a laser printer", title) == ()
    assert run("quiet steel printer of brushed laser", title) == ()


def test_a_short_title_must_be_there_as_a_whole() -> None:
    assert run("after pens a gel pen", "Gel Pen") == ("gel", "pen")
    assert run("after pens a pen", "Gel Pen") == ()
    assert run("any text", "") == run("", "Gel Pen") == ()


def test_the_first_of_equally_long_runs_is_returned() -> None:
    assert run("d e f and a b c", "a b c x d e f") == ("a", "b", "c")


def test_the_longest_run_equals_that_of_trying_all() -> None:
    rng = random.Random(2)
    for _ in range(500):
        words, title = tuple(rng.choices("abcd", k=9)), tuple(rng.choices("abcd", k=rng.randint(1, 7)))
        every = [title[i:j] for i in range(len(title)) for j in range(i + 1, len(title) + 1)]
        held = [r for r in every if any(words[p : p + len(r)] == r for p in range(len(words)))]
        longest = max(held, key=len, default=())
        assert shared_run(words, title) == (longest if len(longest) >= min(3, len(title)) else ())


def test_a_run_tells_while_few_titles_hold_it() -> None:
    titles = ["Stainless Steel Bolt M3"] * 3 + ["Stainless Steel Bolt, long", "stainless steel bolts"]
    runs = {("stainless", "steel", "bolt"), ("steel", "bolt", "m3"), ("no", "such", "run")}
    assert telling_runs(titles, runs) == {("steel", "bolt", "m3"), ("no", "such", "run")}


def test_a_title_that_holds_a_run_twice_counts_once() -> None:
    assert telling_runs(["a b c a b c", "a b c a b c"], {("a", "b", "c")}) == {("a", "b", "c")}


def test_no_title_is_read_without_a_run() -> None:
    def titles() -> list[str]:
        raise AssertionError("read")

    assert telling_runs(iter(titles, None), set()) == set()  # type: ignore[arg-type]


def test_a_run_is_explained_by_a_text_that_holds_it_in_a_row() -> None:
    known = ["The gel-pen set", "pen gel"]
    assert is_explained(("gel", "pen"), known)
    assert not is_explained(("the", "pen"), known) and not is_explained(("gel", "pen"), [])
