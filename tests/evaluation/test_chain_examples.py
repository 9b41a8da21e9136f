"""Which chains are shown as good and bad, and what is said to be wrong with them, in the toy shop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gream.data.store import Case, Catalogue
from gream.decoding.answer import Answer
from gream.evaluation.chain_examples import choose_chains
from gream.evaluation.exam import Exam
from gream.evaluation.mentions import Vocabulary
from gream.evaluation.reasoning_quality import Facts
from gream.evaluation.reasoning_row import judge_chains
from gream.semantic_ids.layout import Names

HISTORY, TARGET = [0, 4], 8  # a printer by Volta and ink by Orrin, then paper by Kesk


@pytest.fixture
def facts(catalogue: Catalogue, names: Names) -> Facts:
    return Facts(catalogue, names, Vocabulary(catalogue), max_history=5)


def written(
    evidence: str,
    preference: str = "office, Orrin",
    intent: str = "after ink comes paper",
    rewritten: str | None = None,
) -> str:
    return (
        f"Evidence: {evidence}\nPreference: {preference}\nIntent: {intent}\nRecommendation: paper\n"
        f"History: {evidence if rewritten is None else rewritten}\n</think>"
    )


def choose(
    facts: Facts, chains: list[list[tuple[str, int]]], target: int = TARGET
) -> tuple[list[Any], list[Any]]:
    """Good and bad chains of users with the same purchases; a chain is its text and its own first item."""
    cases = [Case(user, np.array(HISTORY), target) for user in range(len(chains))]
    answers = [
        Answer(
            np.array([mine[0][1]]),
            np.array([-1.0]),
            None,
            chains=[text for text, _ in mine],
            chain_of=[0],
            chain_tops=[top for _, top in mine],
        )
        for mine in chains
    ]
    exam = Exam(cases, num_items=24, k=5, seed=0)
    judged = judge_chains(exam, answers, facts)
    ids = [f"user-{user}" for user in range(len(cases))]
    found = choose_chains(exam, answers, judged, facts, ids)
    assert list(found) == ["good_chains", "bad_chains"]
    return found["good_chains"], found["bad_chains"]


def fault_of(facts: Facts, text: str, top: int = TARGET) -> list[str]:
    """What is wrong with one chain; three sound ones of other users are the good ones."""
    sound = (written(f"printers {facts.names.spell(0)}"), TARGET)
    _, [bad] = choose(facts, [[sound], [sound], [sound], [(text, top)]])
    assert bad["user_id"] == "user-3"
    faults: list[str] = bad["faults"]
    return faults


def test_every_fault_is_said_in_words(facts: Facts) -> None:
    printer, ink, paper, tent, stove = (facts.names.spell(item) for item in (0, 4, 8, 12, 16))
    assert fault_of(facts, "No steps at all.") == [
        "its form is broken, the five steps do not all stand in order"
    ]
    assert fault_of(facts, written(f"printers {printer}", "office, Kesk, camping, tents")) == [
        "the brand that it mentions was not bought",
        "2 of 4 categories that it mentions were not bought",
    ]
    assert fault_of(facts, written(f"{tent}, {stove} and {ink}", rewritten=tent)) == [
        "2 of 3 items that its evidence cites were not bought",
        "the item of its rewritten history was not bought",
    ]
    assert fault_of(facts, written("ink", rewritten="all of them")) == ["it cites no item"]
    assert fault_of(facts, written(f"ink {printer}")) == ["its evidence calls a purchase what it is not"]
    assert fault_of(facts, written(f"{printer}{ink}"), top=13) == [
        "its intent names paper, but its answer is of camping > tents"
    ]
    assert fault_of(facts, written(f"{printer}", intent="ink"), top=4) == [
        "its answer is in the history already"
    ]
    assert fault_of(facts, written(f"{printer}"), top=9) == ["only its answer, which was not bought next"]
    assert fault_of(facts, written(printer, "Kesk paper model 8"))[0] == (
        "it names its answer before it comes to recommend it"
    )


def test_good_chains_are_whole_grounded_true_and_right(facts: Facts) -> None:
    """The mark of the second user's better chain is 1; who is wrong comes behind, who is broken last."""
    printer, tent = facts.names.spell(0), facts.names.spell(12)
    sound = written(f"printers {printer}")
    good, bad = choose(
        facts,
        [
            [(sound, 9)],  # all but right
            [("broken", 8), (sound, 8)],
            [(written(tent), 13)],
            [(written(f"printers {printer}", "nothing"), 8)],  # says less than the second user's
            [(sound, 9)],
        ],
    )
    assert [one["user_id"] for one in good] == ["user-1", "user-3", "user-0"]
    assert [one["mark"] for one in good] == [1.0, 1.0, pytest.approx(6 / 7, abs=1e-4)]
    assert good[0]["faults"] == [] and good[0]["hit"] and good[0]["chain"]["well_formed"]
    assert [one["user_id"] for one in bad] == ["user-2", "user-4"]  # nobody is shown twice


def test_bad_chains_show_different_faults_before_the_same_again(facts: Facts) -> None:
    printer, tent = facts.names.spell(0), facts.names.spell(12)
    sound = [(written(printer), TARGET)]
    broken = [("broken", 13)]
    _, bad = choose(
        facts, [sound, sound, sound, broken, broken, broken, [(written(tent), 8)], [(written("ink"), 8)]]
    )
    assert [one["user_id"] for one in bad] == ["user-3", "user-6", "user-7"]
    _, bad = choose(facts, [sound, sound, sound, broken, broken, [(written(tent), 8)]])
    assert [one["user_id"] for one in bad] == ["user-3", "user-5", "user-4"]


def test_a_chain_without_its_form_has_no_mark_whatever_it_cites(facts: Facts) -> None:
    printer = facts.names.spell(0)
    sound = [(written(printer), TARGET)]
    _, [bad] = choose(facts, [sound, sound, sound, [(f"Evidence: {printer}", TARGET)]])
    assert bad["user_id"] == "user-3" and bad["hit"] and bad["mark"] == 0.0


def test_a_chain_is_shown_with_titles(facts: Facts) -> None:
    [good, *_], bad = choose(facts, [[(written(f"printers {facts.names.spell(0)}"), TARGET)]])
    titles = facts.catalogue.titles
    assert good["history"] == [titles[0], titles[4]]
    assert (good["answer"], good["target"]) == (titles[8], titles[8])
    assert good["chain"]["evidence"] == f"printers {titles[0]}"
    assert bad == []


def test_what_was_really_bought_again_is_no_fault(facts: Facts) -> None:
    text = written(f"printers {facts.names.spell(0)}", intent="printers")
    [good], _ = choose(facts, [[(text, 0)]], target=0)
    assert good["hit"] and good["faults"] == [] and good["mark"] == 1.0
