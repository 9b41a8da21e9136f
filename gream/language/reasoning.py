"""The five-step reasoning chain: how it is written, read back and turned into training rows.

The steps are GREAM's (abstract and section on the reasoning curriculum): behavioural evidence, latent
preference, intent, recommendation, denoised history. GREAM's code writes three steps inside the think
block, deletes the fourth and copies the history as the fifth; here all five stand inside the block and
the fifth really leaves out what does not fit. The name of the item appears in the answer alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from gream.artifacts import check_whole
from gream.errors import InputError
from gream.language.prompting import ANSWER_START, THINK_END, Prompter, render

TRACES_FILE = "traces.parquet"
STEPS = ("Evidence", "Preference", "Intent", "Recommendation", "History")
_PATTERN = re.compile(
    r"\s*" + r"\s*".join(rf"{step}:(?P<{step.lower()}>.*?)" for step in STEPS) + r"\s*$", re.DOTALL
)


@dataclass(frozen=True)
class Chain:
    """A chain split into its five steps; all text is in the first one when it is not well formed."""

    evidence: str
    preference: str
    intent: str
    recommendation: str
    rewritten_history: str
    well_formed: bool


@dataclass(frozen=True)
class Trace:
    """What a teacher wrote for one history; `target` is the item that was bought next."""

    user: int
    history: tuple[int, ...]
    target: int
    evidence: tuple[int, ...]  # items cited
    kinds: tuple[str, ...]  # what each cited item is, in words
    preference: str
    intent: str
    recommendation: str
    rewritten: tuple[int, ...]  # items of the history that fit


def split_chain(text: str) -> Chain:
    """Split a chain, with or without its closing tag, into the five steps."""
    body = text.split(THINK_END)[0]
    match = _PATTERN.match(body)
    if match is None:
        return Chain(body.strip(), "", "", "", "", well_formed=False)
    steps = [match[step.lower()].strip() for step in STEPS]
    evidence, preference, intent, recommendation, rewritten = steps
    return Chain(evidence, preference, intent, recommendation, rewritten, well_formed=all(steps))


def split_unfinished(text: str) -> Chain:
    """Split a chain that is still being written into the steps that it has reached; the others are empty.

    Never well formed: what is not finished yet cannot be.
    """
    rest = text.split(THINK_END)[0].strip()
    reached: list[str] = []
    for step in STEPS:
        before, found, after = rest.partition(f"{step}:")
        if not found or (step == STEPS[0] and before.strip()):
            break
        reached.append(before.strip())
        rest = after
    # What stands before a label belongs to the step before it; before the first label stands nothing.
    written = [*reached[1:], _without_label(rest, STEPS[len(reached) :]), *[""] * len(STEPS)]
    evidence, preference, intent, recommendation, rewritten = written[: len(STEPS)]
    return Chain(evidence, preference, intent, recommendation, rewritten, well_formed=False)


def _without_label(text: str, following: Sequence[str]) -> str:
    """Leave out the last line where it may become the label of the next step."""
    body, _, line = text.rpartition("\n")
    begins = bool(following) and bool(line.strip()) and following[0].startswith(line.strip())
    return (body if begins else text).strip()


def chain_ids(trace: Trace, prompter: Prompter, steps: int = len(STEPS)) -> list[int]:
    """Token ids of the first steps of a chain after the opened think block.

    Each step is tokenised by itself, so fewer steps are the beginning of more.
    """
    variables = {
        "evidence": [(kind, prompter.name(i)) for i, kind in zip(trace.evidence, trace.kinds, strict=True)],
        "preference": trace.preference,
        "intent": trace.intent,
        "recommendation": trace.recommendation,
        "rewritten": [prompter.name(i) for i in trace.rewritten],
    }
    lines = [render("chain", step, **variables) for step in range(steps)]
    return [token for i, line in enumerate(lines) for token in prompter.encode("\n" * (i > 0) + line)]


def reasoning_row(
    trace: Trace, prompter: Prompter, *, steps: int = len(STEPS), phrasing: int = 0
) -> tuple[list[int], list[int]]:
    """Prompt and answer ids that teach a chain and its answer, or only the first steps of the chain."""
    prompt, chain = prompter.reasoning(trace.history, phrasing), chain_ids(trace, prompter, steps)
    if steps < len(STEPS):
        return prompt, chain
    closing = prompter.encode(f"\n{THINK_END}\n{ANSWER_START}")
    name = prompter.name_ids(trace.target)
    return prompt, [*chain, *closing, *name, prompter.answer_end, prompter.end_of_turn]


def save_traces(folder: Path, traces: Iterable[Trace]) -> None:
    """Write `traces.parquet`."""
    rows = [vars(trace) for trace in traces]
    items = pl.List(pl.Int64)
    schema: dict[str, Any] = {"user": pl.Int64, "history": items, "target": pl.Int64, "evidence": items}
    schema |= {"kinds": pl.List(pl.String), "preference": pl.String, "intent": pl.String}
    schema |= {"recommendation": pl.String, "rewritten": items}
    pl.DataFrame(rows, schema=schema).write_parquet(folder / TRACES_FILE)


def load_traces(folder: Path) -> list[Trace]:
    """Read the traces that `gream synthesize` wrote.

    Raises:
        InputError: there are none in the folder.
    """
    path = folder / TRACES_FILE
    if not path.is_file():
        raise InputError(f"{path} does not exist; run `gream synthesize`, or correct the path.")
    check_whole(folder)
    return [Trace(**{k: _frozen(v) for k, v in row.items()}) for row in pl.read_parquet(path).to_dicts()]


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
