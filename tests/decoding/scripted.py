"""An engine and a scorer with numbers from a table, and the search over Python lists."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch

from gream.decoding.backend import Session
from gream.decoding.beam import BeamResult
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout

SIZES = (4, 3, 5)
FIRST_TOKEN = 10
BLOCKS = [range(10, 14), range(14, 17), range(17, 22)]


def random_names(num_items: int, seed: int) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in SIZES], indexing="ij"), -1).reshape(-1, len(SIZES))
    chosen = np.random.default_rng(seed).permutation(len(every))[:num_items]
    return Names(SidLayout(SIZES), every[chosen].astype(np.int32))


class ScriptedBackend:
    """Log-probabilities as a table of (prompt, path). Coarse ones, so that sums often tie."""

    def __init__(self, seed: int, coarse: bool = True) -> None:
        self.seed, self.coarse = seed, coarse
        self.rows = 0  # beams that went through the "model"
        self.numbers = functools.cache(self.draw)

    def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *prompt, 99, *path])
        if self.coarse:
            return -0.5 * rng.integers(1, 4, len(block)).astype(np.float32)
        return -rng.random(len(block)).astype(np.float32)

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> ScriptedSession:
        return ScriptedSession(self, prompts)


class ScriptedSession:
    def __init__(self, backend: ScriptedBackend, prompts: list[list[int]]) -> None:
        self.backend, self.prompts = backend, [tuple(prompt) for prompt in prompts]
        self.paths: list[list[tuple[int, ...]]] = [[()] for _ in prompts]

    def first(self, block: range) -> torch.Tensor:
        return torch.tensor(np.stack([self.backend.numbers(p, (), block) for p in self.prompts]))

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        self.backend.rows += tokens.numel()
        self.paths = [
            [paths[parent] + (token,) for parent, token in zip(of_user, added, strict=True)]
            for paths, of_user, added in zip(self.paths, parents, tokens.tolist(), strict=True)
        ]
        rows = [
            np.stack([self.backend.numbers(prompt, path, block) for path in paths])
            for prompt, paths in zip(self.prompts, self.paths, strict=True)
        ]
        return torch.tensor(np.stack(rows))


def tokens_of(codes: Sequence[int]) -> tuple[int, ...]:
    return tuple(block[int(code)] for block, code in zip(BLOCKS, codes, strict=False))  # a prefix is shorter


def obvious_logp(backend: ScriptedBackend, prompt: list[int], codes: Sequence[int]) -> np.float32:
    total = np.float32(0)
    for level, code in enumerate(codes):
        total += backend.numbers(tuple(prompt), tokens_of(codes[:level]), BLOCKS[level])[int(code)]
    return total


def obvious_beam(
    backend: ScriptedBackend, prompt: list[int], names: Names, num_beams: int
) -> tuple[list[int], list[list[tuple[int, ...]]]]:
    """Beam search over sorted Python lists: the items, best first, and the prefixes kept at each level."""
    item_of = {tuple(map(int, codes)): item for item, codes in enumerate(names.codes)}
    kept: list[list[tuple[int, ...]]] = []
    beams: list[tuple[int, ...]] = [()]
    for level in range(len(SIZES)):
        prefixes = sorted({codes[: level + 1] for codes in item_of if codes[:level] in beams})
        last = level == len(SIZES) - 1
        prefixes.sort(key=lambda p: (-obvious_logp(backend, prompt, p), item_of[p] if last else p))
        beams = prefixes[:num_beams]
        kept.append(sorted(beams))
    return [item_of[codes] for codes in beams], kept


def nodes_to_prefixes(constraint: TrieConstraint, names: Names, level: int) -> dict[int, tuple[int, ...]]:
    nodes = constraint.item_nodes[:, level].tolist()
    return {node: tuple(map(int, codes[: level + 1])) for node, codes in zip(nodes, names.codes, strict=True)}


class TableScorer:
    """A score for every (user, node); it remembers what it was asked."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table  # (B, num_nodes)
        self.asked: list[torch.Tensor] = []
        self.reads_states = False

    def context(self, histories: list[Sequence[int]], session: Session) -> object:
        return None

    def score(self, context: object, level: int, nodes: torch.Tensor) -> torch.Tensor:
        self.asked.append(nodes.clone())
        return self.table.gather(1, nodes)


def assert_same(left: BeamResult, right: BeamResult) -> None:
    np.testing.assert_array_equal(left.items, right.items)
    np.testing.assert_array_equal(left.logps, right.logps)
    for a, b in zip(left.kept, right.kept, strict=True):
        np.testing.assert_array_equal(a, b)
