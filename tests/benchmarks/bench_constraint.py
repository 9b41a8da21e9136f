"""The constraint: building it, its size, its growth, and a step against a Python dictionary of prefixes.

A step is what a search does with a thousand beams at one level: find what may follow, and mask a level's
log-probabilities with it. The growth counts the steps of all three levels, which differ in their fan-outs.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrefixConstrainedLogitsProcessor

from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import load_constraint, save_constraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from tests.benchmarks.figures import best_seconds, figure

SIZES = (256, 256, 256)
LARGEST, MANY, FEW, ROWS, VOCABULARY, REPEATS = 10_000_000, 1_000_000, 10_000, 1_000, 4_000, 9


def measure() -> dict[str, dict[str, Any]]:
    """Build a million names, change them, and mask the steps of a thousand beams."""
    few, many = TrieConstraint(_names(FEW)), TrieConstraint(_names(MANY))
    figures = _whole(many.names) | _dictionary(few)
    postings = PostingConstraint(Names(SidLayout(SIZES, ordered=False), few.names.codes))
    figures["posting lists of 10 k unordered names, a step against the trie's"] = figure(
        _steps(postings) / _steps(few), "x", ""
    )
    smallest, middle = _steps(few), _steps(many)
    del many
    largest = _steps(TrieConstraint(_names(LARGEST)))
    return figures | {
        "trie step at 1,000 rows, growth from 10^4 to 10^6 names": figure(middle / smallest, "x", "<= 1.5"),
        "trie step at 1,000 rows, growth from 10^4 to 10^7 names": figure(largest / smallest, "x", "<= 1.5"),
    }


def _whole(names: Names) -> dict[str, dict[str, Any]]:
    """Build, store and extend the trie of a million names."""
    build = best_seconds(lambda: TrieConstraint(names), 2)
    trie = TrieConstraint(names)
    tensors = [value for value in vars(trie).values() if isinstance(value, torch.Tensor)]
    known = TrieConstraint(Names(names.layout, names.codes[:-1000]))
    with tempfile.TemporaryDirectory() as folder:
        save_constraint(Path(folder), names)
        load = best_seconds(lambda: load_constraint(Path(folder), names), 2)
    unordered = Names(SidLayout(SIZES, ordered=False), names.codes)
    return {
        "trie of 1 M names, build": figure(build, "s", "<= 5"),
        "trie of 1 M names, size": figure(sum(t.nbytes for t in tensors) / MANY, "bytes a name", "<= 100"),
        "trie of 1 M names, read from its file against building": figure(load / build, "x", ""),
        "trie of 1 M names, adding 1,000 against building": figure(
            best_seconds(lambda: known.extended(names), 2) / build, "x", ""
        ),
        "trie of 1 M names, taking 1,000 out against building": figure(
            best_seconds(lambda: trie.without(range(1000)), 2) / build, "x", ""
        ),
        "posting lists of 1 M names, build": figure(
            best_seconds(lambda: PostingConstraint(unordered), 2), "s", "<= 5"
        ),
    }


def _dictionary(trie: TrieConstraint) -> dict[str, dict[str, Any]]:
    """Compare one masked step after one code with transformers' processor over a Python dictionary."""
    names = trie.names
    first = np.unique(names.codes[:, 0])
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
    ours = best_seconds(lambda: block.masked_fill(~trie.legal(nodes, 1), -torch.inf), REPEATS)
    theirs = best_seconds(lambda: processor(tokens, logps), REPEATS)
    return {"trie step at 1,000 rows, times cheaper than a dictionary": figure(theirs / ours, "x", ">= 50")}


def _steps(constraint: TrieConstraint | PostingConstraint) -> float:
    """Seconds of the masked steps of all levels, for a thousand beams that lead to drawn items."""
    items = np.random.default_rng(1).choice(constraint.num_items, ROWS)
    layout = constraint.names.layout
    offsets = np.zeros(len(SIZES), dtype=np.int64) if layout.ordered else np.asarray(layout.offsets)
    columns = torch.from_numpy(constraint.names.codes[items] + offsets)
    logps = torch.randn(1, ROWS, max(SIZES) if layout.ordered else layout.num_tokens)
    nodes = torch.zeros(1, ROWS, dtype=torch.int64)
    total = 0.0
    for level in range(constraint.depth):
        total += best_seconds(functools.partial(_step, constraint, nodes, level, logps), REPEATS)
        nodes = constraint.follow(nodes, columns[None, :, level], level)
    return total


def _step(
    constraint: TrieConstraint | PostingConstraint, nodes: torch.Tensor, level: int, logps: torch.Tensor
) -> torch.Tensor:
    last = level == constraint.depth - 1
    legal = constraint.finish(nodes) >= 0 if last else constraint.legal(nodes, level)
    return logps.masked_fill(~legal, -torch.inf)


def _names(count: int) -> Names:
    chosen = np.random.default_rng(0).choice(int(np.prod(SIZES)), count, replace=False)
    return Names(SidLayout(SIZES), np.stack(np.unravel_index(chosen, SIZES), axis=1).astype(np.int32))
