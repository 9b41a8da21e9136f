"""Show people what the reasoning of a report is worth: tables, three good chains and three bad ones.

Text from data and models is escaped as `gream.evaluation.rendering` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gream.evaluation.examples import Examples
from gream.evaluation.rendering import escape_markdown, markdown_table, shown_title
from gream.evaluation.taste import PARTS

_STEPS = {
    "evidence": "Evidence",
    "preference": "Preference",
    "intent": "Intent",
    "recommendation": "Recommendation",
    "rewritten_history": "History without noise",
}
# Every table: the name of a figure in report.json, and what it means. `{k}` is the length of the lists.
_GAIN = {
    "pass@1": "a sampled completion, chain and name, gives the item bought next",
    "pass@5": "one of 5 completions does",
    "pass@10": "one of 10 does",
    "pass@k": "one of {num_chains} does, as many as were written",
    "top_pass@1": "the first item of a chain's list was bought next",
    "top_pass@5": "that of one of 5 chains was",
    "top_pass@10": "that of one of 10 was",
    "top_pass@k": "that of one of all {num_chains} was",
    "gain@{k}": "recall@{k} above that of direct mode for the same users",
    "gain@{k}_per_100_tokens": "the same for each 100 tokens spent beyond those of direct mode",
    "agreement": "users for whom direct mode puts the same item first",
    "overlap@{k}": "items of the list that direct mode lists too",
    "tokens_per_user": "tokens per user",
    "tokens_per_user_of_direct": "tokens per user of direct mode",
    "seconds_per_user": "seconds per user",
    "seconds_per_user_of_direct": "seconds per user of direct mode",
    "chains_per_user": "chains per user",
    "tokens_per_chain": "tokens per chain, mean",
    "tokens_per_chain_median": "tokens per chain, median",
    "tokens_per_chain_95%": "tokens per chain that 95 % of chains do not exceed",
}
_WORTH = {
    "well_formed": "chains with all five steps in order",
    "groundedness": "cited items that are in the history shown to the model",
    "groundedness_evidence": "of these, items that the evidence cites",
    "groundedness_history": "of these, items of the rewritten history",
    "groundedness_brands": "brands mentioned in evidence and preference that are in the history",
    "groundedness_categories": "categories mentioned there that are in the history",
    "evidence_kinds": "items of the history that the evidence calls what they are",
    "answer_in_history": "chains that lead back to an item of the history",
    "betrays_answer": "chains whose first three steps hold the name, or a telling part of the title, of the "
    "item that they lead to",
    "betrays_target": "the same of the item that was bought next",
    "intent_named": "chains whose intent names a category",
    "intent_agreement": "intents whose category is that of the item that the chain leads to",
    "intent_right": "intents whose category is that of the item bought next",
    "majority_share": "a user's chains that agree on the user's most frequent first item",
    "overlap_of_chains@{k}": "items that the lists of two chains of a user have in common",
}
_TASTE_PARTS = {"areas": "areas", "brands": "brands", "prices": "price tier"}
_KINDS = {"good_chains": "Good chains", "bad_chains": "Bad chains"}


def chain_steps(chain: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return label and text of every step; a chain that is not well formed comes as one text."""
    if chain is None:
        return []
    if not chain["well_formed"]:
        return [("Chain, not well formed", chain["text"])]
    return [(label, chain[step]) for step, label in _STEPS.items()]


def reasoning_lines(report: Mapping[str, Any]) -> list[str]:
    """Return at most one line for a terminal: form, groundedness, intent and gain."""
    row = report.get("reasoning", {})
    named = {
        "well_formed": "whole chains",
        "groundedness": "cited items bought",
        "intent_agreement": "intents that fit the answer",
    }
    parts = [f"{label} {row[name]:.1%}" for name, label in named.items() if row.get(name) is not None]
    gain, k = row.get(f"gain@{report['k']}"), report["k"]
    if gain is not None:
        low, high = row[f"gain@{k}_interval"]
        parts.append(f"recall@{k} {gain:+.4f} ({low:+.4f} to {high:+.4f}) on direct")
    return [f"Reasoning: {', '.join(parts)}.\n"] if parts else []


def reasoning_markdown(report: Mapping[str, Any], examples: Examples) -> list[str]:
    """Return the section of report.md, paragraph by paragraph; nothing without reasoning mode."""
    row = report.get("reasoning")
    if row is None:
        return []
    rows = _figures(row, _GAIN, report["k"])
    parts = ["## Reasoning", "What it gains, and at which cost:"]
    parts.append(markdown_table(["figure", "meaning", "value"], rows, texts=2))
    parts += _worth(row, report["k"]) + _taste(row.get("taste"))
    for kind, heading in _KINDS.items():
        chains = examples.get(kind, [])
        if chains:
            parts.append(f"### {heading}")
            parts += [part for number, one in enumerate(chains, start=1) for part in _chain(number, one)]
    return parts


def _worth(row: Mapping[str, Any], k: int) -> list[str]:
    lines = []
    for name, meaning, value in _figures(row, _WORTH, k):
        by_chance, counted = row.get(f"{name}_by_chance"), row.get(f"{name}_of")
        lines.append([
            name, meaning, value, "" if by_chance is None else f"{by_chance:.4g}",
            "" if counted is None else f"{counted:,}",
        ])  # fmt: skip
    if not lines:
        return []
    return [
        "What the chains are worth. By chance: the same chains beside the history, the items or the chains "
        "of other users. What is said of single steps is of chains with all five.",
        markdown_table(["figure", "meaning", "value", "by chance", "counted"], lines, texts=2),
    ]


def _taste(taste: Mapping[str, Mapping[str, Any]] | None) -> list[str]:
    """Return the table of stated against true preference, which only a simulated shop has."""
    if taste is None:
        return []
    header = ["", "stated"]
    keys = ["stated"]
    for measure in ("precision", "recall"):
        header += [measure, "by chance", "commonest"]
        keys += [measure, f"{measure}_by_chance", f"{measure}_of_the_commonest"]
    rows = [[_TASTE_PARTS[part], *(_number(taste[part][key]) for key in keys)] for part in PARTS]
    return [
        "The stated preference against the customer's true taste. Stated: whole chains that state it; by "
        "chance: the same statements about another customer; commonest: the most frequent statement about "
        "everybody.",
        markdown_table(header, rows),
    ]


def _figures(row: Mapping[str, Any], meanings: Mapping[str, str], k: int) -> list[list[str]]:
    """Return name, meaning and value of the figures that a row has."""
    lines = []
    for pattern, meaning in meanings.items():
        name = pattern.format(k=k)
        value = row.get(name)
        if value is not None:
            bounds = row.get(f"{name}_interval")
            shown = _number(value) + (f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else "")
            lines.append([name, meaning.format(num_chains=row["num_chains"], k=k), shown])
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _chain(number: int, one: Mapping[str, Any]) -> list[str]:
    parts = [f"#### {number}. Customer {escape_markdown(one['user_id'])}, mark {one['mark']:.2f}"]
    parts.append(f"Bought, oldest first: {_listed(shown_title(title) for title in one['history'])}")
    parts += [f"**{label}.** {escape_markdown(text)}" for label, text in chain_steps(one["chain"])]
    verdict = "the same" if one["hit"] else f"**{shown_title(one['target'])}**"
    parts.append(f"Leads to: **{shown_title(one['answer'])}**. Bought next: {verdict}.")
    if one["faults"]:
        parts.append(f"What is wrong: {_listed(escape_markdown(fault) for fault in one['faults'])}.")
    return parts


def _listed(texts: Iterable[str] | Sequence[str]) -> str:
    return "; ".join(texts)
