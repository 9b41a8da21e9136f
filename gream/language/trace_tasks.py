"""Rows made of what a teacher wrote: the five-step chain, and the alignment tasks about preference.

GREAM (arXiv 2510.20815, preference understanding) asks a large model for preferences and intents of their
own; ours are the steps of the traces, which are about training purchases too. Its history reconstruction
has no code and its fifth step copies the history; `denoise_history` teaches to leave purchases out.

A stage k of the reasoning curriculum teaches steps 1 to k. A row of stages 1 to 4 ends after its last step
without an end of the turn, so it is the beginning of the row of stage 5, and no shorter chain is ever shown
as a finished one (ours; in GREAM the steps are sections of one sample, and no row teaches fewer).
"""

from __future__ import annotations

import numpy as np

from gream.language.reasoning import reasoning_row
from gream.language.rows import Row, Source, ask, served_phrasing


def reasoning_rows(source: Source, rng: np.random.Generator, *, steps: int) -> list[Row]:
    """The reasoning prompt of serving, or another phrasing of it, to the first steps of the chain."""
    return [
        reasoning_row(trace, source.prompter, steps=steps, phrasing=served_phrasing("reasoning", rng))
        for trace in source.traces
    ]


def item_search_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """A preference or an intent, each with the history or alone, to the item that was bought next.

    Every trace gives one row; which of the four it asks is drawn evenly.
    """
    prompter = source.prompter
    rows = []
    for trace in source.traces:
        kind, wish = (("preference", trace.preference), ("intent", trace.intent))[int(rng.integers(2))]
        name = prompter.name_ids(trace.target)
        if rng.integers(2):
            rows.append(ask(prompter, rng, "search_alone", name, wish=wish))
        else:
            shown = {"history": prompter.names_of(trace.history), kind: wish}
            rows.append(ask(prompter, rng, f"search_by_{kind}", name, **shown))
    return rows


def preference_summary_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """A history to what the customer likes."""
    prompter = source.prompter
    return [
        ask(
            prompter,
            rng,
            "preference_summary",
            prompter.data(trace.preference),
            history=prompter.names_of(trace.history),
        )
        for trace in source.traces
    ]


def denoise_history_rows(source: Source, rng: np.random.Generator) -> list[Row]:
    """A history to its purchases that fit, of those that the prompt shows."""
    prompter = source.prompter
    rows = []
    for trace in source.traces:
        shown = trace.history[-prompter.max_history :]
        kept = [item for item in trace.rewritten if item in shown]
        answer = [token for item in kept for token in prompter.name_ids(item)]
        rows.append(ask(prompter, rng, "denoise_history", answer, history=prompter.names_of(shown)))
    return rows
