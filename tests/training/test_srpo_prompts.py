"""The prompts of SRPO: training purchases only, each once before any again, one mode a batch."""

from __future__ import annotations

from typing import Any

import pytest

from gream.data.store import TRAIN, Interactions
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training.srpo import SRPOConfig
from gream.training.srpo_prompts import training_prompts

P = 2  # prompts of a batch


def settings(**changed: Any) -> SRPOConfig:
    return SRPOConfig(**{"prompts_per_batch": P, "min_history": 2, **changed})


def test_prompts_come_from_training_purchases_only(
    interactions: Interactions, prompter: Prompter, names: Names
) -> None:
    """Validation and test purchases are never a target and never in a history."""
    prompts = training_prompts(interactions, prompter, settings(max_steps=60, reasoning_share=0.5))
    allowed = set()
    for items, marks in zip(interactions.sequences, interactions.splits, strict=True):
        train = items[marks == TRAIN]
        for t in range(2, len(train)):
            target = tuple(names.codes[train[t]].tolist())
            for mode, write in [("direct", prompter.direct_text), ("reasoning", prompter.reasoning_text)]:
                allowed.add((write(train[:t]), target, mode))
    asked = {(row["prompt"], tuple(row["target"]), row["mode"]) for row in prompts.rows}
    assert asked <= allowed
    # 120 rows over both modes ask every one of the targets at least once.
    assert {row[1] for row in asked} == {row[1] for row in allowed}
    assert prompts.available == len(allowed) // 2


def test_every_target_is_asked_before_any_is_asked_again(
    interactions: Interactions, prompter: Prompter
) -> None:
    prompts = training_prompts(interactions, prompter, settings(max_steps=60, reasoning_share=0.0))
    first_round = [row["prompt"] for row in prompts.rows[: prompts.available]]
    assert len(set(first_round)) == prompts.available


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.3, 3), (0.5, 5), (0.7, 7), (1.0, 10)])
def test_one_batch_has_one_mode_and_the_run_has_the_share(
    interactions: Interactions, prompter: Prompter, share: float, expected: int
) -> None:
    prompts = training_prompts(interactions, prompter, settings(max_steps=10, reasoning_share=share))
    batches = [{row["mode"] for row in prompts.rows[i : i + P]} for i in range(0, 10 * P, P)]
    assert all(len(batch) == 1 for batch in batches)
    assert sum(batch == {"reasoning"} for batch in batches) == expected


def test_reused_batches_need_fewer_prompts(interactions: Interactions, prompter: Prompter) -> None:
    prompts = training_prompts(interactions, prompter, settings(max_steps=5, num_iterations=2))
    assert len(prompts.rows) == 3 * P
