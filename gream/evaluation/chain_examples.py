"""Three good and three bad chains of an evaluation to look at, chosen by rule, with what is wrong in words.

A chain's mark is the mean of what can be said of it: the shares of its items, brands and categories that
were bought, and of its evidence that it calls what it is; whether its intent fits its answer, whether it
keeps its answer to itself, and whether that answer was bought next. A chain that is not whole has the mark 0.
The good chains have the best marks, among equal ones those that cite and mention more. The bad ones have the
worst marks, each for another gravest fault as long as there are such. No user is shown twice, ties go to the
user and then the chain that come first. The rule is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from gream.decoding.answer import Answer
from gream.decoding.readable import item_titles, readable_chain
from gream.evaluation.exam import Exam
from gream.evaluation.examples import Examples
from gream.evaluation.reasoning_quality import Facts
from gream.evaluation.reasoning_row import Judged

NUM_CHAINS = 3  # of each kind

_KEPT = (
    "groundedness", "groundedness_brands", "groundedness_categories", "evidence_kinds", "intent_agreement",
)  # fmt: skip
# What is not so in a chain, of one and of many.
_FAULTS = {
    "groundedness_evidence": ("the item that its evidence cites was", "items that its evidence cites were"),
    "groundedness_history": ("the item of its rewritten history was", "items of its rewritten history were"),
    "groundedness_brands": ("the brand that it mentions was", "brands that it mentions were"),
    "groundedness_categories": ("the category that it mentions was", "categories that it mentions were"),
}


def mark(one: Judged, *, hit: bool) -> float:
    """Return how good a chain is, 0 to 1; `hit` says whether its own first item was bought next."""
    if not one.reading.well_formed:
        return 0.0
    known = [share for name in _KEPT if (share := one.shares[name].value) is not None]
    betrayed = one.shares["betrays_answer"].value
    parts = [*known, float(hit), *([] if betrayed is None else [1.0 - betrayed])]
    return sum(parts) / len(parts)


def faults(one: Judged, answer: int, target: int, facts: Facts) -> dict[str, str]:
    """Return what is wrong with a chain, by kind, the gravest first, each in words.

    Args:
        one: the chain.
        answer: its own first item.
        target: the item that was bought next.
        facts: of the catalogue.
    """
    found = {}
    if not one.reading.well_formed:
        found["form"] = "its form is broken, the five steps do not all stand in order"
    if one.shares["betrays_answer"].part:
        found["betrayal"] = "it names its answer before it comes to recommend it"
    for name, (single, plural) in _FAULTS.items():
        share = one.shares[name]
        if share.part < share.whole:
            missed = f"{share.whole - share.part} of {share.whole} {plural}" if share.whole > 1 else single
            found[name] = f"{missed} not bought"
    if one.reading.well_formed and not one.shares["groundedness"].whole:
        found["nothing cited"] = "it cites no item"
    called = one.shares["evidence_kinds"]
    if called.part < called.whole:
        found["kinds"] = "its evidence calls a purchase what it is not"
    if one.reading.intent is not None and not one.shares["intent_agreement"].part:
        intent = facts.vocabulary.spell(one.reading.intent)
        path = " > ".join(facts.catalogue.categories[answer]) or "no category"
        found["intent"] = f"its intent names {intent}, but its answer is of {path}"
    if answer != target and one.shares["answer_in_history"].part:
        found["repeat"] = "its answer is in the history already"
    if not found and answer != target:
        found["miss"] = "only its answer, which was not bought next"
    return found


def choose_chains(
    exam: Exam, answers: Sequence[Answer], judged: Sequence[Judged], facts: Facts, user_ids: Sequence[str]
) -> Examples:
    """Return `good_chains` and `bad_chains` of `examples.json`.

    Args:
        exam: the questions.
        answers: of reasoning mode.
        judged: all of their chains.
        facts: of the catalogue.
        user_ids: raw ids of all users.

    Returns:
        For each chain `user_id`, `history`, `target` and `answer` (its own first item) as titles, `hit`,
        `chain` as in the customers of `examples.json`, `mark`, and `faults` in words.
    """
    tops = [answers[one.case].chain_tops[one.number] for one in judged]
    targets = [exam.cases[one.case].target for one in judged]
    marks = [mark(one, hit=top == t) for one, top, t in zip(judged, tops, targets, strict=True)]
    places = range(len(judged))  # of a chain among all; `sorted` keeps their order among equal ones
    best = sorted(places, key=lambda p: (-marks[p], -sum(judged[p].shares[name].whole for name in _KEPT)))
    good = _one_a_user(best, judged)[:NUM_CHAINS]
    taken = {judged[p].case for p in good}
    wrong = {p: faults(judged[p], tops[p], targets[p], facts) for p in sorted(places, key=marks.__getitem__)}
    left = [p for p, found in wrong.items() if found and judged[p].case not in taken]
    bad = _of_different_faults(left, wrong, judged)
    titles = item_titles(facts.names, facts.catalogue)

    def shown(p: int) -> dict[str, Any]:
        told = {"mark": round(marks[p], 4), "faults": list(wrong[p].values())}
        return _shown(judged[p], exam, answers, facts, titles, user_ids) | told

    return {"good_chains": [shown(p) for p in good], "bad_chains": [shown(p) for p in bad]}


def _one_a_user(places: Sequence[int], judged: Sequence[Judged]) -> list[int]:
    """Return the first chain of each user, in order."""
    firsts: dict[int, int] = {}
    for p in places:
        firsts.setdefault(judged[p].case, p)
    return list(firsts.values())


def _of_different_faults(
    places: Sequence[int], wrong: Mapping[int, Mapping[str, str]], judged: Sequence[Judged]
) -> list[int]:
    """Return the worst chain of each gravest fault, filled up with the worst that are left."""
    firsts: dict[str, int] = {}
    for p in places:
        if judged[p].case not in {judged[first].case for first in firsts.values()}:
            firsts.setdefault(next(iter(wrong[p])), p)
    return _one_a_user([*firsts.values(), *places], judged)[:NUM_CHAINS]


def _shown(
    one: Judged,
    exam: Exam,
    answers: Sequence[Answer],
    facts: Facts,
    titles: dict[str, str],
    user_ids: Sequence[str],
) -> dict[str, Any]:
    catalogue, case, answer = facts.catalogue, exam.cases[one.case], answers[one.case]
    top, text = answer.chain_tops[one.number], answer.chains[one.number]
    return {
        "user_id": user_ids[case.user],
        "history": [catalogue.titles[item] for item in case.history.tolist()[-facts.max_history :]],
        "chain": {**asdict(readable_chain(text, titles)), "text": text},
        "answer": catalogue.titles[top],
        "target": catalogue.titles[case.target],
        "hit": top == case.target,
    }
