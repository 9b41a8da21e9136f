"""A batch of completions as the trainer hands it to reward functions, for the tests of `reward_terms`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training.reward_terms import RewardTerms

ITEM, OTHER = 7, 11  # the target, and another item of the toy shop


class Batch:
    """Columns as the trainer hands them over, and what was logged of them."""

    def __init__(self, completions: list[list[int]], names: Names, mode: str = "direct") -> None:
        size = len(completions)
        self.logged: dict[str, float] = {}
        self.columns: dict[str, Any] = {
            "prompts": ["?"] * size,
            "completions": ["!"] * size,
            "completion_ids": completions,
            "target": [names.codes[ITEM].tolist()] * size,
            "mode": [mode] * size,
            "history": [[1, 2]] * size,
            "item": [ITEM] * size,
            "future": [[ITEM, OTHER, 2]] * size,
            "trainer_state": None,
            "log_extra": None,
            "log_metric": lambda name, value: self.logged.update({name: value}),
        }

    def graded(self, terms: RewardTerms) -> dict[str, list[float]]:
        return {function.__name__: function(**self.columns) for function in terms.functions}


def answer(prompter: Prompter, item: int) -> list[int]:
    return [*prompter.name_ids(item), prompter.end_of_turn]


def reasoned(prompter: Prompter, name: list[int]) -> list[int]:
    before = prompter.encode("Evidence: ink\n</think>\n<answer>")
    return [*before, *name, prompter.answer_end, prompter.end_of_turn]


def absent_ids(prompter: Prompter, names: Names) -> list[int]:
    """An invented item that shares its first code with ITEM."""
    taken, first = {tuple(row) for row in names.codes.tolist()}, int(names.codes[ITEM, 0])
    path = next((first, b, c) for b in range(4) for c in range(5) if (first, b, c) not in taken)
    return [prompter.level_block(level)[code] for level, code in enumerate(path)]


def steps_of(item: int, names: Names, categories: np.ndarray) -> list[int]:
    """Majority categories below the prefixes of an item, counted in the slow way."""
    codes = names.codes
    below = [(codes[:, :n] == codes[item, :n]).all(axis=1) for n in (1, 2, 3)]
    return [int(np.bincount(categories[mask]).argmax()) for mask in below]
