"""Rows from traces: searches, summaries, histories without noise, and the stages of the curriculum."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from gream.data.store import Catalogue, Interactions
from gream.language.prompting import Prompter, num_phrasings
from gream.language.rows import Source
from gream.language.trace_tasks import (
    denoise_history_rows,
    item_search_rows,
    preference_summary_rows,
    reasoning_rows,
)
from tests.language.test_alignment import names_in, spelled, told
from tests.language.test_reasoning import TRACE


@pytest.fixture
def source(catalogue: Catalogue, interactions: Interactions, prompter: Prompter) -> Source:
    """A trace of the history 4, 9, 1 that leaves 9 out, 400 times."""
    return Source(catalogue, interactions, prompter, [TRACE] * 400)


def test_a_search_shows_a_preference_or_an_intent_with_the_history_or_alone(source: Source) -> None:
    """400 rows, 100 of each kind; five deviations are 43."""
    prompter = source.prompter
    kinds: Counter[tuple[bool, bool, bool]] = Counter()
    for row in item_search_rows(source, np.random.default_rng(0)):
        question, _ = told(row, prompter)
        assert names_in(row[1], prompter) == spelled([6], prompter) and len(row[1]) == 4
        history = names_in(row[0], prompter)
        assert history in ([], spelled([4, 9, 1], prompter))
        kinds[bool(history), TRACE.preference in question, TRACE.intent in question] += 1
    assert set(kinds) == {(h, p, not p) for h in (True, False) for p in (True, False)}
    assert all(abs(number - 100) < 43 for number in kinds.values())


def test_a_summary_asks_for_the_preference_of_a_history(source: Source) -> None:
    for row in preference_summary_rows(source, np.random.default_rng(0)):
        assert names_in(row[0], source.prompter) == spelled([4, 9, 1], source.prompter)
        assert told(row, source.prompter)[1] == TRACE.preference


def test_a_denoised_history_leaves_out_what_does_not_fit_and_what_is_not_shown(source: Source) -> None:
    prompter = source.prompter
    [row] = denoise_history_rows(replace(source, traces=[TRACE]), np.random.default_rng(0))
    assert names_in(row[0], prompter) == spelled([4, 9, 1], prompter)
    assert names_in(row[1], prompter) == spelled([4, 1], prompter)
    long = replace(TRACE, history=(4, 9, 2, 3, 5, 1), rewritten=(4, 2, 1))  # prompts show five
    [row] = denoise_history_rows(replace(source, traces=[long]), np.random.default_rng(0))
    assert names_in(row[0], prompter) == spelled([9, 2, 3, 5, 1], prompter)
    assert names_in(row[1], prompter) == spelled([2, 1], prompter)


def test_half_of_the_reasoning_rows_ask_in_the_words_of_serving(source: Source) -> None:
    """400 rows: 200 served, five deviations are 50."""
    prompter = source.prompter
    prompts = [prompt for prompt, _ in reasoning_rows(source, np.random.default_rng(0), steps=5)]
    asked = [prompts.count(prompter.reasoning(TRACE.history, k)) for k in range(num_phrasings("reasoning"))]
    assert sum(asked) == 400 and abs(asked[0] - 200) < 50 and min(asked) > 20
