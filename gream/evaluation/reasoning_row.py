"""What a report says of reasoning mode beyond its lists: pass@k, cost, gain, and the quality of its chains.

Every figure of `reasoning_quality` and `agreement` is given twice where that means something: as it is, and
`_by_chance`, the same chains held against the history, items or chains of other users. `_of` says how many
citations, mentions or chains a share was counted over.

Legend: B users, G chains of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gream.decoding.answer import Answer
from gream.evaluation import agreement, metrics
from gream.evaluation.exam import Exam, Row
from gream.evaluation.leakage import telling_runs
from gream.evaluation.reasoning_quality import (
    Ends,
    Facts,
    Reading,
    Share,
    bought,
    formed,
    grounded,
    pointed,
    read_chain,
    title_run,
    total,
)
from gream.evaluation.resampling import paired_gain
from gream.evaluation.taste import Taste, stated_taste, taste_figures, with_another

_TRIES = (1, 5, 10)  # of pass@k, where there are as many chains


@dataclass(frozen=True)
class Judged:
    """One chain with all that was found of it."""

    case: int  # number of the user's case in the exam
    number: int  # of the chain among the user's
    reading: Reading
    shares: dict[str, Share]  # of the figures of `reasoning_quality`
    by_chance: dict[str, Share]


def judge_chains(exam: Exam, answers: Sequence[Answer], facts: Facts) -> list[Judged]:
    """Judge all chains of B users, user after user."""
    targets = exam.targets
    shown = [bought(history.tolist(), facts) for history in exam.histories]
    places = [(case, number) for case, a in enumerate(answers) for number in range(len(a.chains))]
    readings = [read_chain(answers[case].chains[number], facts.vocabulary) for case, number in places]
    others = [agreement.other_user(case, len(answers)) for case, _ in places]
    ends = [_ends(answers, targets, case, number) for case, number in places]
    other_ends = [
        _ends(answers, targets, other, place[1]) for other, place in zip(others, places, strict=True)
    ]
    runs = {
        title_run(reading, item, facts)
        for reading, own, another in zip(readings, ends, other_ends, strict=True)
        for item in (own.answer, own.target, another.answer, another.target)
    }
    telling = telling_runs(facts.catalogue.titles, runs - {()})
    judged = []
    for (case, number), other, reading, own, another in zip(
        places, others, readings, ends, other_ends, strict=True
    ):
        mine = shown[case]
        shares = formed(reading, mine, facts.vocabulary) | grounded(reading, mine)
        shares |= pointed(reading, mine, own, facts, telling)
        by_chance = grounded(reading, shown[other]) | pointed(reading, mine, another, facts, telling)
        judged.append(Judged(case, number, reading, shares, by_chance))
    return judged


def reasoning_figures(
    exam: Exam,
    answers: Sequence[Answer],
    judged: Sequence[Judged],
    direct: Sequence[Answer] | None,
    facts: Facts,
    tastes: Sequence[Taste] | None,
) -> Row:
    """Return what only reasoning mode has.

    Args:
        exam: the B questions.
        answers: of reasoning mode.
        judged: what `judge_chains` found of their chains.
        direct: the answers of direct mode, to compare with; None for none.
        facts: of the catalogue.
        tastes: the true taste of every user of the data, where they are simulated.
    """
    row = _cost_figures(exam, answers)
    if judged:
        row |= _text_figures(judged, len(answers))
    row |= _consistency_figures(answers, exam.k)
    if direct is not None:
        row |= _gain_figures(exam, answers, direct)
    whole = [one for one in judged if one.reading.well_formed]
    if tastes is not None and whole and len(answers) > 1:
        users = [case.user for case in exam.cases]
        true = with_another(users, [one.case for one in whole], tastes)
        row["taste"] = taste_figures([stated_taste(one.reading, facts.vocabulary) for one in whole], true)
    return row


def _ends(answers: Sequence[Answer], targets: Sequence[int], case: int, number: int) -> Ends:
    """Return where a chain of a user leads; the first one for a user who has fewer chains."""
    tops = answers[case].chain_tops
    return Ends(tops[number if number < len(tops) else 0], targets[case])


def _cost_figures(exam: Exam, answers: Sequence[Answer]) -> Row:
    num_chains = max(len(a.chains) for a in answers)
    num_written = sum(len(a.chains) for a in answers)
    tokens = sum(a.tokens for a in answers)
    lengths = [number for a in answers for number in a.chain_tokens]
    row: Row = {
        "num_chains": num_chains,
        **_pass_figures(exam, answers, num_chains),
        "chains_per_user": round(num_written / len(answers), 2),  # fewer than `num_chains` with early stop
        "tokens_per_user": round(tokens / len(answers), 2),
        "tokens_per_chain": round(tokens / max(num_written, 1), 2),  # no chain, no token
    }
    if lengths:
        row["tokens_per_chain_median"] = float(np.median(lengths))
        row["tokens_per_chain_95%"] = round(float(np.quantile(lengths, 0.95)), 2)
    return row


def _pass_figures(exam: Exam, answers: Sequence[Answer], num_chains: int) -> Row:
    """Return pass@k of whole completions, and of each chain's best item instead of a drawn one."""
    tops = [
        [float(top == target) for top in a.chain_tops]
        for a, target in zip(answers, exam.targets, strict=True)
    ]
    chances = [_chances(a, target) for a, target in zip(answers, exam.targets, strict=True)]
    tries = {str(k): k for k in _TRIES if k <= num_chains} | {"k": num_chains}
    figures = {f"pass@{name}": metrics.pass_at_k(chances, k=k) for name, k in tries.items()}
    figures |= {f"top_pass@{name}": metrics.pass_at_k(tops, k=k) for name, k in tries.items()}
    return {name: round(value, 6) for name, value in figures.items()}


def _chances(answer: Answer, target: int) -> list[float]:
    """Return the probability that the name written after each chain is the target's: its share in the search.

    What the search did not hold counts as never written, so pass@k is never said too high.
    """
    return [
        float(np.exp(logps[items == target].astype(np.float64)).sum())
        for items, logps in zip(answer.chain_lists, answer.chain_logps, strict=True)
    ]


def _text_figures(judged: Sequence[Judged], num_users: int) -> Row:
    own, chance = total([one.shares for one in judged]), total([one.by_chance for one in judged])
    row: Row = {}
    for name, share in own.items():
        row[name], row[f"{name}_of"] = share.value, share.whole
        if name in chance:
            row[f"{name}_by_chance"] = chance[name].value if num_users > 1 else None
    return row


def _consistency_figures(answers: Sequence[Answer], k: int) -> Row:
    tops, lists = [a.chain_tops for a in answers], [a.chain_lists for a in answers]
    other_tops, other_lists = agreement.shuffled_chains(tops), agreement.shuffled_chains(lists)
    several = len(answers) > 1
    return {
        "majority_share": agreement.majority_share(tops),
        "majority_share_by_chance": agreement.majority_share(other_tops) if several else None,
        f"overlap_of_chains@{k}": agreement.overlap_of_chains(lists, k=k),
        f"overlap_of_chains@{k}_by_chance": (
            agreement.overlap_of_chains(other_lists, k=k) if several else None
        ),
    }


def _gain_figures(exam: Exam, answers: Sequence[Answer], direct: Sequence[Answer]) -> Row:
    """Compare with direct mode: agreement, overlap, and recall gained for the tokens spent."""
    ours, theirs = [a.items for a in answers], [a.items for a in direct]
    hits = [metrics.hits(metrics.ranks_of_targets(lists, exam.targets), exam.k) for lists in (ours, theirs)]
    gain, bounds = paired_gain(hits[0], hits[1], seed=exam.seed, users=exam.users)
    tokens, spent = (sum(a.tokens for a in found) / len(found) for found in (direct, answers))
    per_100 = round(gain / (spent - tokens) * 100, 6) if spent > tokens else None
    return {
        "agreement": agreement.top_agreement(ours, theirs),
        f"overlap@{exam.k}": agreement.overlap(ours, theirs, k=exam.k),
        f"gain@{exam.k}": gain,
        f"gain@{exam.k}_interval": bounds,
        f"gain@{exam.k}_per_100_tokens": per_100,
        "tokens_per_user_of_direct": round(tokens, 2),
    }
