"""Reinforcement learning: how many of the groups that were written for are trained on.

GREAM's filter and gream's refilling see the same stream of groups, each live or dead by chance: no clock has
a part in it. GREAM's is written from its description (draw nine batches, keep the first live groups, throw
the surplus away, at most ten times); gream's is the real function on batches without a model.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch

from gream.training.groups import Batch, Group
from gream.training.refill import Calls, GroupBuffer, refill
from tests.benchmarks.figures import figure

PROMPTS = 64  # of a batch
BATCHES = 60  # that each trains on
LIVE_RATES = (0.05, 0.15, 0.5)
OVERSAMPLING, GENERATION_BATCHES = 9, 10  # of GREAM's filter
ROUNDS = 80  # of new prompts for one batch; enough to fill it where one group of twenty lives


def measure() -> dict[str, dict[str, Any]]:
    """Compare what becomes of the groups."""
    return refilling()


def refilling() -> dict[str, dict[str, Any]]:
    """Give the share of generated groups that reach the optimiser, by how many of them are live."""
    figures = {}
    for rate in LIVE_RATES:
        ours, theirs = our_share(stream(rate)), gream_share(stream(rate))
        about = f"{rate:.0%} of the groups live"
        figures |= {
            f"generated groups that reach the optimiser, {about}: refilled": figure(
                ours["used"] / ours["generated"], "of all"
            ),
            f"generated groups that reach the optimiser, {about}: GREAM's filter": figure(
                theirs["used"] / theirs["generated"], "of all"
            ),
            f"live groups that reach the optimiser, {about}: refilled": figure(
                ours["used"] / ours["live"], "of the live", ">= 0.98"
            ),
            f"live groups that reach the optimiser, {about}: GREAM's filter": figure(
                theirs["used"] / theirs["live"], "of the live"
            ),
            f"groups to write for one batch, {about}: GREAM's filter against refilled": figure(
                (theirs["generated"] / theirs["used"]) / (ours["generated"] / ours["used"]), "x", ">= 1.1"
            ),
        }
    return figures


def stream(rate: float) -> Iterator[bool]:
    """Say of one group after the other whether it is live."""
    generator = random.Random(0)
    while True:
        yield generator.random() < rate


def gream_share(flags: Iterator[bool]) -> dict[str, int]:
    """Count groups under GREAM's filter.

    Raises:
        RuntimeError: ten generation batches hold too few live groups, where the authors' run ends too.
    """
    counts = dict.fromkeys(("generated", "live", "used"), 0)
    for _ in range(BATCHES):
        kept = 0
        for _ in range(GENERATION_BATCHES):
            counts["generated"] += OVERSAMPLING * PROMPTS
            kept += sum(next(flags) for _ in range(OVERSAMPLING * PROMPTS))
            if kept >= PROMPTS:
                break
        else:
            raise RuntimeError("ten generation batches were not enough")
        counts["live"] += kept
        counts["used"] += PROMPTS
    return counts


def our_share(flags: Iterator[bool]) -> dict[str, int]:
    """Count groups where dead ones are refilled; a batch that is not full at the end counts as it is."""
    buffer, counts = GroupBuffer(), dict.fromkeys(("generated", "live", "used"), 0)

    def score() -> Batch:
        return _batch([next(flags) for _ in range(PROMPTS)])

    def share(groups: list[Group]) -> list[list[Group]]:
        return [groups]

    calls = Calls(
        rank=0,
        score=score,
        logps_of=lambda batch: torch.zeros(batch["completion_ids"].shape),
        gather=lambda numbers: [numbers],
        share=share,
    )
    for _ in range(BATCHES):
        _, took = refill(score(), buffer, calls, num_generations=1, pad_id=0, rounds=ROUNDS)
        counts["generated"] += took.generated_groups
        counts["live"] += took.live_groups
        counts["used"] += took.used_groups
    return counts


def _batch(live: list[bool]) -> Batch:
    """A batch of groups of one row of one token, where nothing but the advantage tells."""
    token = torch.ones(len(live), 1, dtype=torch.int64)
    return {
        "prompt_ids": token,
        "prompt_mask": token,
        "completion_ids": token,
        "completion_mask": token,
        "advantages": torch.tensor(live).float(),
        "num_items_in_batch": torch.tensor(len(live)),
    }
