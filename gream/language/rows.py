"""What a training row is, what rows are made of, and how a row draws its phrasing.

Every row is a prompt and an answer; the loss is on the answer alone. Half of the rows that ask what serving
asks (next item, reasoning) ask it in the words of serving, so that the model is trained most on the prompt
that it will get; every other phrasing is as likely as the others. The shares are ours; GREAM's reference
implementation draws every template evenly and serves one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gream.data.store import Catalogue, Interactions
from gream.language.prompting import Prompter, num_phrasings
from gream.language.reasoning import Trace

Row = tuple[list[int], list[int]]  # token ids of the prompt, of the answer

SERVED_SHARE = 0.5  # of the rows that ask what serving asks


@dataclass(frozen=True)
class Source:
    """What rows are made of; of the interactions the training part alone is used."""

    catalogue: Catalogue
    interactions: Interactions
    prompter: Prompter
    traces: Sequence[Trace] = ()


def ask(
    prompter: Prompter, rng: np.random.Generator, template: str, answer: Sequence[int], **variables: Any
) -> Row:
    """Make a row: a question in a phrasing drawn at random, and its answer with the end of the turn."""
    phrasing = int(rng.integers(num_phrasings(template)))
    return prompter.question(template, phrasing, **variables), [*answer, prompter.end_of_turn]


def served_phrasing(template: str, rng: np.random.Generator) -> int:
    """Draw a phrasing of a prompt that is also served: the served one, number 0, half of the time."""
    return 0 if rng.random() < SERVED_SHARE else int(rng.integers(1, num_phrasings(template)))
