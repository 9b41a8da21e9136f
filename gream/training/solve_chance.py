"""The policy's own probability of a target, without writing a completion.

The direct prompt is prefilled once, the target's codes are fed one by one, and at every level the chances are
taken among the codes that the catalogue allows: the chance that a constrained answer is the target. It stands
in for reasoning prompts too, whose chance would cost a chain.

Names with unordered codes may be answered in any order. At every step the chances of all codes of the target
that may come next are added up, and the likeliest of them is followed. That is an estimate of the chance over
all orders, on the high side, since the likeliest order stands for the others; to follow them all costs a path
each (ours).

Legend: C rows, K columns of a level's block, L codebooks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gream.decoding.backend import Backend
from gream.language.prompting import Prompter
from gream.semantic_ids.paths import Constraint

AT_ONCE = 256  # rows of one session, whose caches are held together


class NameChance:
    """Scores the target of every row under the policy as it is now; a `SolveChance` of the prompt pool."""

    def __init__(self, backend: Backend, prompter: Prompter, constraint: Constraint) -> None:
        self._backend = backend
        self._prompter = prompter
        self._constraint = constraint

    def __call__(self, rows: list[dict[str, Any]]) -> np.ndarray:
        """Give the chance of each row's `target` after the direct prompt of its `history`: (C,) float32."""
        parts = [self._chances(rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)

    @torch.inference_mode()
    def _chances(self, rows: list[dict[str, Any]]) -> np.ndarray:
        constraint, device = self._constraint, self._constraint.device
        session = self._backend.start([self._prompter.direct(row["history"]) for row in rows])
        wanted = self._wanted(rows).to(device)  # (C, item tokens)
        first = self._prompter.item_block.start
        nodes = torch.zeros(len(rows), 1, dtype=torch.int64, device=device)
        parents = torch.zeros_like(nodes)  # the prompt, then the one path
        tokens = torch.empty_like(nodes)
        total = torch.zeros(len(rows), device=device)
        for level, block in enumerate(self._prompter.search_blocks()):
            logps = session.step(parents, tokens, block) if level else session.first(block)[:, None]
            legal = constraint.legal(nodes, level)  # (C, 1, K)
            logps = logps.to(device).masked_fill(~legal, -torch.inf)
            right = logps.masked_fill(~wanted[:, None, block.start - first : block.stop - first], -torch.inf)
            total += (right.logsumexp(dim=-1) - logps.logsumexp(dim=-1))[:, 0]
            columns = right.argmax(dim=-1)  # (C, 1)
            nodes = constraint.follow(nodes, columns, level)
            tokens = columns + block.start
        return total.exp().cpu().numpy()

    def _wanted(self, rows: list[dict[str, Any]]) -> Tensor:
        """Mark the item tokens of each row's target: (C, item tokens) bool."""
        layout = self._prompter.names.layout
        codes = torch.tensor([row["target"] for row in rows]) + torch.tensor(layout.offsets)  # (C, L)
        return torch.zeros(len(rows), layout.num_tokens, dtype=torch.bool).scatter_(1, codes, True)
