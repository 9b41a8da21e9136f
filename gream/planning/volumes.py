"""How many rows a stage makes, and how many tokens they have.

Rows of a few hundred users, items and traces are made by the stages' own code and counted up to all of them,
so a count of rows is as exact as the share of users and items that give one, and a length as the mean of some
hundreds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gream.data.store import TEST, VALIDATION
from gream.errors import InputError
from gream.language.alignment import NEED_TRACES, ONE_A_USER, TASKS
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace
from gream.language.rows import Row, Source
from gream.planning.corpus import Corpus

Traces = tuple[list[Trace], float]  # some, and how many there are


@dataclass(frozen=True)
class Volume:
    """Rows of one kind: how many, and the tokens of a mean one and of the longest seen."""

    rows: float
    prompt: float
    answer: float
    longest: int
    longest_answer: int

    @property
    def tokens(self) -> float:
        """Tokens of all rows."""
        return self.rows * (self.prompt + self.answer)


def of_rows(made: Sequence[Row], ratio: float) -> Volume:
    """Count rows up: each stands for `ratio` of them."""
    if not made:
        return Volume(0.0, 0.0, 0.0, 0, 0)
    prompts, answers = ([len(row[side]) for row in made] for side in (0, 1))
    longest = max(map(sum, zip(prompts, answers, strict=True)))
    return Volume(len(made) * ratio, float(np.mean(prompts)), float(np.mean(answers)), longest, max(answers))


def together(volumes: Sequence[Volume]) -> Volume:
    """Add volumes up."""
    rows = sum(v.rows for v in volumes)
    if not rows:
        return of_rows([], 1.0)
    prompt, answer = (sum(v.rows * getattr(v, side) for v in volumes) / rows for side in ("prompt", "answer"))
    return Volume(
        rows, prompt, answer, max(v.longest for v in volumes), max(v.longest_answer for v in volumes)
    )


def of_tasks(
    corpus: Corpus, tasks: Mapping[str, float], prompter: Prompter, traces: Traces
) -> dict[str, Volume]:
    """Count the rows that each task gives in one epoch.

    Args:
        corpus: what rows are made of.
        tasks: passes over the rows of each task.
        prompter: writes the rows.
        traces: what the tasks about preference and reasoning teach.

    Raises:
        InputError: an unknown task, or one that needs traces without any.
    """
    users, items = corpus.some_users(), corpus.some_items()
    found = {}
    for task, passes in tasks.items():
        if task not in TASKS:
            raise InputError(f"Unknown task {task!r} in `tasks`; known tasks: {', '.join(TASKS)}.")
        if task in NEED_TRACES:
            if passes and not traces[0]:
                raise InputError(f"Task {task!r} needs traces, and the recipe gives none; name their folder.")
            source = Source(corpus.catalogue, users, prompter, traces[0])
            ratio = traces[1] / max(1, len(traces[0]))
        elif task in ONE_A_USER or task == "sequence":
            source, ratio = (
                Source(corpus.catalogue, users, prompter),
                corpus.counts.users / len(users.sequences),
            )
        else:
            source, ratio = Source(items, users, prompter), corpus.counts.items / len(items)
        made = TASKS[task](source, np.random.default_rng(0)) if passes else []
        found[task] = of_rows(made, ratio * passes)
    return found


def of_prompts(corpus: Corpus, prompter: Prompter, split: str, *, reasoning: bool) -> Volume:
    """Count the prompts of an evaluation: one for each case of the split, without an answer."""
    users = corpus.some_users()
    cases = users.cases(TEST if split == "test" else VALIDATION)
    write = prompter.reasoning if reasoning else prompter.direct
    rows: list[Row] = [(write(case.history), []) for case in cases]
    return of_rows(rows, corpus.counts.users / len(users.sequences))


def of_targets(corpus: Corpus, prompter: Prompter, min_history: int, *, reasoning: bool) -> Volume:
    """Count the training purchases that reinforcement learning can ask for, and the prompts that do.

    Raises:
        InputError: no user has so many purchases.
    """
    users = corpus.some_users()
    write = prompter.reasoning if reasoning else prompter.direct
    rows: list[Row] = [
        (write(bought[:place]), [])
        for bought in users.training_sequences()
        for place in range(min_history, len(bought))
    ]
    if not rows:
        raise InputError(f"No user has more than {min_history} training purchases; lower min_history.")
    return of_rows(rows, corpus.counts.users / len(users.sequences))


def of_cuts(corpus: Corpus, prompter: Prompter, per_sequence: int) -> Volume:
    """Count an epoch of prompts that are cut at a training purchase, each with the name of that purchase.

    A user gives `per_sequence` of them, drawn at random, or as many as there are; the lengths are means over
    all that can be drawn.
    """
    users = corpus.some_users()
    sequences = [bought for bought in users.training_sequences() if len(bought) > 1]
    rows: list[Row] = [
        (prompter.direct(bought[:place]), prompter.name_ids(int(bought[place])))
        for bought in sequences
        for place in range(1, len(bought))
    ]
    drawn = sum(min(per_sequence, len(bought) - 1) for bought in sequences)
    found = of_rows(rows, 1.0)
    return replace(found, rows=drawn * corpus.counts.users / len(users.sequences))


def of_texts(corpus: Corpus, prompter: Prompter, max_tokens: int) -> Volume:
    """Count the texts that an encoder reads, in the tokens of the model that learns."""
    texts = [corpus.texts[item] for item in np.linspace(0, len(corpus.texts) - 1, 300).astype(int)]
    rows: list[Row] = [(prompter.data(text)[:max_tokens], []) for text in texts]
    return of_rows(rows, corpus.counts.items / len(rows))
