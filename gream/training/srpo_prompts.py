"""What `gream srpo` asks the model: prompts from training purchases, in training order.

At every training position with enough history the model is asked for the purchase that came next. One batch
holds one mode, see `srpo`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gream.data.store import Interactions
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.training.completions import Mode

if TYPE_CHECKING:
    from gream.training.srpo import SRPOConfig


@dataclass(frozen=True)
class Prompts:
    """Rows for the trainer, in training order, and how many targets there were to choose from."""

    rows: list[dict[str, Any]]  # prompt: str, target: the L codes, mode
    available: int


def training_prompts(interactions: Interactions, prompter: Prompter, config: SRPOConfig) -> Prompts:
    """Choose targets among the training purchases and write their prompts, one mode a batch.

    Every purchase marked as training, with at least `min_history` training purchases of its user before
    it, can be a target. Targets come in random order, all of them before any comes again.

    Raises:
        InputError: there is no such purchase.
    """
    sequences = interactions.training_sequences()
    targets = [(u, t) for u, items in enumerate(sequences) for t in range(config.min_history, len(items))]
    if not targets:
        raise InputError(
            f"No user has more than {config.min_history} training purchases; lower min_history, "
            "or give data with longer histories."
        )
    num_batches = -(-config.max_steps // config.num_iterations)
    order = _endless_order(len(targets), config.seed)
    rows = []
    for batch in range(num_batches):
        mode = _mode_of_batch(batch, config.reasoning_share)
        write = prompter.reasoning_text if mode == "reasoning" else prompter.direct_text
        for _ in range(config.prompts_per_batch):
            user, position = targets[next(order)]
            items = sequences[user]
            target = prompter.names.codes[items[position]].tolist()
            rows.append({"prompt": write(items[:position]), "target": target, "mode": mode})
    return Prompts(rows, len(targets))


def _endless_order(size: int, seed: int) -> Iterator[int]:
    generator = np.random.default_rng(seed)
    while True:
        yield from generator.permutation(size).tolist()


def _mode_of_batch(batch: int, reasoning_share: float) -> Mode:
    """Spread the reasoning batches evenly over the run."""
    share = reasoning_share + 1e-9  # 0.7 x 10 must count as 7 whole batches
    return "reasoning" if int((batch + 1) * share) > int(batch * share) else "direct"
