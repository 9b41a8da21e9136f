"""The trie of names: building it, its size, and a step against a Python dictionary of prefixes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from transformers import PrefixConstrainedLogitsProcessor

from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from tests.benchmarks.figures import best_seconds, figure

SIZES = (256, 256, 256)
MANY, FEW, ROWS, VOCABULARY, REPEATS = 1_000_000, 10_000, 1_000, 4_000, 5


def measure() -> dict[str, dict[str, Any]]:
    """Build a million names, and mask one step of a thousand beams both ways."""
    names = _names(MANY)
    started = time.perf_counter()
    trie = TrieConstraint(names)
    seconds = time.perf_counter() - started
    tensors = [value for value in vars(trie).values() if isinstance(value, torch.Tensor)]
    size = sum(tensor.nbytes for tensor in tensors) / MANY
    ours, theirs = _steps(_names(FEW))
    return {
        "trie of 1 M names, build": figure(seconds, "s", "<= 5"),
        "trie of 1 M names, size": figure(size, "bytes a name", "<= 100"),
        "trie step at 1,000 rows, times cheaper than a dictionary": figure(theirs / ours, "x", ">= 50"),
    }


def _steps(names: Names) -> tuple[float, float]:
    """Seconds of one masked step after one code: the trie's children, and transformers' processor."""
    trie, first = TrieConstraint(names), np.unique(names.codes[:, 0])
    rows = np.random.default_rng(1).choice(first, ROWS)
    children: dict[tuple[int, ...], set[int]] = {}
    for codes in names.codes.tolist():
        children.setdefault((codes[0],), set()).add(VOCABULARY + SIZES[0] + codes[1])
    allowed = {path: sorted(tokens) for path, tokens in children.items()}
    logps = torch.randn(ROWS, VOCABULARY + sum(SIZES))
    tokens = torch.from_numpy(rows)[:, None]
    processor = PrefixConstrainedLogitsProcessor(lambda _, row: allowed[tuple(row.tolist())], num_beams=1)
    nodes = torch.tensor([[trie.node((int(code),)) for code in rows]])
    block = logps[None, :, VOCABULARY + SIZES[0] : VOCABULARY + 2 * SIZES[0]]

    def step() -> None:
        found = trie.children(nodes, 1)
        block.gather(2, found.codes).masked_fill(~found.legal, -torch.inf)

    return best_seconds(step, REPEATS), best_seconds(lambda: processor(tokens, logps), REPEATS)


def _names(count: int) -> Names:
    chosen = np.sort(np.random.default_rng(0).choice(int(np.prod(SIZES)), count, replace=False))
    return Names(SidLayout(SIZES), np.stack(np.unravel_index(chosen, SIZES), axis=1).astype(np.int32))
