"""Drops paths whose codes contradict each other about the kind of item (REG4Rec's CORP).

Source: REG4Rec (arXiv 2508.15308), consistency-oriented self-reflection for pruning: part-way through a path,
before its last code, look at the categories that its codes stand for, and complete it only if they agree.
What could not be found in the paper and is decided here:

- The category of a code is the most frequent one among the items that carry it.
- A path's consistency is the share of pairs of its codes with the same category. The paper draws agreement of
  neighbours in the order of the path, `1 / (k - 1)` of `k - 1` pairs; searched paths are sets, which keep no
  order, and the share of all pairs is the mean of that number over all orders.
- Threshold and level are settings; paths come back by (consistency, log-probability) where the list would
  become shorter than what is asked for.

With ordered (residual) codes a path is a sub-tree and its codes cannot contradict each other; there the
consistency is 1 minus the entropy of the categories below the path, as a share of the largest one (ours).

Items without a category have no say; a path of which nothing is known counts as consistent.

Legend: B users, W beams, N items, L codebooks, C categories, P nodes of a trie, T tokens of the item block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gream.decoding.answer import Answer
from gream.decoding.beam import BeamResult
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import SidLayout
from gream.semantic_ids.paths import Constraint
from gream.semantic_ids.postings import PostingConstraint

UNKNOWN = -1  # category of an item without one


class CategoryPruner:
    """A `PathPruner` that drops the inconsistent paths of one level.

    Attributes:
        level: after which paths are dropped, from 0.
    """

    def __init__(
        self,
        constraint: Constraint,
        categories: np.ndarray,
        *,
        threshold: float,
        level: int | None = None,
        list_length: int = 10,
    ) -> None:
        """Count the categories of all codes (unordered names) or of all prefixes (ordered names).

        Args:
            constraint: the names that are searched.
            categories: (N,) int64 of `item_categories`, -1 for none.
            threshold: least consistency of a path that goes on, 0 to 1; 0 drops nothing.
            level: after which paths are dropped; None: before the last expansion. A disambiguation code says
                nothing of the item, so that the expansion before it counts as the last.
            list_length: items that must stay within reach, so that no list becomes shorter.

        Raises:
            InputError: a threshold or level that makes no sense, or categories of none or of other items.
        """
        layout = constraint.names.layout
        _check(categories, constraint, threshold, level)
        self.threshold = threshold
        self.level = num_meanings(layout) - 2 if level is None else level
        self.list_length = list_length
        self._constraint = constraint
        if isinstance(constraint, TrieConstraint):
            nodes = constraint.item_nodes.cpu().numpy()
            table = subtree_consistency(nodes, categories, constraint.num_nodes)
        else:
            tokens = constraint.names.codes + np.asarray(layout.offsets)
            table = code_categories(tokens, categories, layout.num_tokens)
        self._table = torch.from_numpy(table).to(constraint.device)
        self._offsets = torch.tensor(layout.offsets, device=constraint.device)

    def consistency(self, nodes: Tensor) -> Tensor:
        """Say how well the codes of real paths agree: (B, W) nodes to (B, W) float32, 0 to 1."""
        if not isinstance(self._constraint, PostingConstraint):
            return self._table[nodes]
        meanings = num_meanings(self._constraint.names.layout)
        codes = self._constraint.codes_of(nodes)[..., :meanings]  # (B, W, M)
        columns = (codes + self._offsets[:meanings]).clamp(min=0)
        return pair_agreement(self._table[columns].masked_fill(codes < 0, UNKNOWN))

    def keep(self, level: int, nodes: Tensor, logps: Tensor, reach: Tensor, wanted: int) -> Tensor:
        """Choose among the beams of one level: (B, W) bool, at least one for every user.

        Args:
            level: of the beams; at any but the pruner's own all stay.
            nodes: (B, W) paths.
            logps: (B, W) float32, -inf for padding.
            reach: (B, W) int64, allowed items below every path.
            wanted: most items that the search returns.
        """
        real = logps > -torch.inf
        if level != self.level:
            return real
        consistency = self.consistency(nodes)
        good = real & (consistency >= self.threshold)
        # First who is good, then (consistency, log-probability), padding last; ties to the left.
        order = logps.argsort(dim=1, descending=True, stable=True)
        for key in (consistency, good.float(), real.float()):
            order = order.gather(1, key.gather(1, order).argsort(dim=1, descending=True, stable=True))
        before = self._within_reach(nodes.gather(1, order), reach.gather(1, order))
        needed = torch.zeros_like(real).scatter(1, order, before < min(wanted, self.list_length))
        return (good | needed) & real

    def _within_reach(self, nodes: Tensor, reach: Tensor) -> Tensor:
        """Count the items that the beams to the left of every beam surely lead to: (B, W) int64.

        Prefixes of a trie share no items. Neither do paths of codes from the same codebooks; paths from other
        codebooks may, so there the largest sum over paths of the same codebooks is what is sure.
        """
        if not isinstance(self._constraint, PostingConstraint):
            return reach.cumsum(dim=1) - reach
        used = self._constraint.codes_of(nodes) >= 0
        kinds = (used * (1 << torch.arange(used.shape[-1], device=used.device))).sum(dim=-1)
        groups = torch.unique(kinds, return_inverse=True)[1]  # (B, W), few: the sets of used codebooks
        mine = torch.nn.functional.one_hot(groups) * reach.unsqueeze(-1)  # (B, W, groups)
        return (mine.cumsum(dim=1) - mine).amax(dim=-1)


def num_meanings(layout: SidLayout) -> int:
    """Number of codes that say something of an item: all but the disambiguation code."""
    return layout.num_codebooks - layout.disambiguation


def item_categories(paths: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Number the items' categories at the coarsest depth that tells items apart (ours).

    Args:
        paths: categories of every item, coarse to fine, as the catalogue has them.

    Returns:
        (N,) int64, categories in alphabetical order; -1 where an item has none at that depth.
    """
    for depth in range(1, max(map(len, paths), default=0) + 1):
        found = sorted({path[:depth] for path in paths if len(path) >= depth})
        if len(found) > 1:
            numbers = {path: number for number, path in enumerate(found)}
            return np.asarray([numbers.get(path[:depth], UNKNOWN) for path in paths], dtype=np.int64)
    return np.full(len(paths), UNKNOWN, dtype=np.int64)


def code_categories(tokens: np.ndarray, categories: np.ndarray, num_tokens: int) -> np.ndarray:
    """Give every code the most frequent category of its items; ties to the lower category.

    Args:
        tokens: (N, L) place of every item's codes in the item block.
        categories: (N,) int64, -1 for none.
        num_tokens: size of the item block, T.

    Returns:
        (T,) int64, -1 for a code none of whose items has a category.
    """
    known = categories >= 0
    size = int(categories.max()) + 1
    pairs = (tokens[known].astype(np.int64) * size + categories[known, None]).ravel()
    counts = np.bincount(pairs, minlength=num_tokens * size).reshape(num_tokens, size)
    best: np.ndarray = np.where(counts.any(axis=1), counts.argmax(axis=1), UNKNOWN)
    return best


def pair_agreement(categories: Tensor) -> Tensor:
    """Share of pairs with the same category: (..., M) int64 with -1 for unknown to (...) float32.

    Pairs with an unknown one do not count; without any pair the agreement is 1.
    """
    size = categories.shape[-1]
    first, second = torch.triu_indices(size, size, offset=1, device=categories.device)
    one, other = categories[..., first], categories[..., second]
    counted = (one >= 0) & (other >= 0)
    number = counted.sum(dim=-1)
    share = (counted & (one == other)).sum(dim=-1).float() / number.clamp(min=1)
    return torch.where(number > 0, share, 1.0)


def subtree_consistency(item_nodes: np.ndarray, categories: np.ndarray, num_nodes: int) -> np.ndarray:
    """Say how much of one category the items below every prefix are: 1 - entropy / log C.

    Args:
        item_nodes: (N, L) nodes of every item's prefixes.
        categories: (N,) int64, -1 for none.
        num_nodes: P, the root included; its items are all.

    Returns:
        (P,) float32, 1 where all known categories below are the same, 0 where all C are equally frequent.
    """
    size = int(categories.max()) + 1
    known = categories >= 0
    below = np.pad(item_nodes, ((0, 0), (1, 0)))[known]  # (known items, L + 1), the root first
    pairs, counts = np.unique(below * size + categories[known, None], return_counts=True)
    nodes = pairs // size
    totals = np.bincount(nodes, weights=counts, minlength=num_nodes)
    shares = counts / totals[nodes]
    entropy = np.bincount(nodes, weights=-shares * np.log(shares), minlength=num_nodes)
    consistency: np.ndarray = (1 - entropy / np.log(max(size, 2))).clip(0, 1).astype(np.float32)
    return consistency


@dataclass(frozen=True)
class PruningQuality:
    """How right the drops of one level were, counted over users whose target is known."""

    users: int
    targets_held: int  # users with a path of their target among the beams before the drop
    targets_dropped: int  # of these, users of whose target no path was left
    beams: int
    drops: int
    right_drops: int  # dropped beams that did not lead to the target

    @property
    def false_prune_rate(self) -> float:
        """Share of the held targets that were lost; 0 if none was held."""
        return self.targets_dropped / max(1, self.targets_held)

    @property
    def drop_precision(self) -> float:
        """Share of the drops that were right; 1 if nothing was dropped. Most beams are wrong anyway."""
        return self.right_drops / self.drops if self.drops else 1.0


def pruning_quality(
    results: Sequence[BeamResult | Answer], targets: Sequence[int], constraint: Constraint, level: int
) -> PruningQuality:
    """Compare the beams that a search dropped after a level with the purchases that came next.

    Args:
        results: one search for each user, with a pruner.
        targets: the item that each user bought.
        constraint: the names that were searched.
        level: at which beams were dropped, from 0.
    """
    kept = _held([result.kept[level] for result in results], targets, constraint, level)
    dropped = _held([result.pruned[level] for result in results], targets, constraint, level)
    held, left = kept.any(axis=1) | dropped.any(axis=1), kept.any(axis=1)
    drops = sum(len(result.pruned[level]) for result in results)
    return PruningQuality(
        users=len(results),
        targets_held=int(held.sum()),
        targets_dropped=int((held & ~left).sum()),
        beams=drops + sum(len(result.kept[level]) for result in results),
        drops=drops,
        right_drops=drops - int(dropped.sum()),
    )


def check_pruning(threshold: float, level: int | None, depth: int) -> None:
    """Refuse a threshold that is no consistency, and a level after which no path of `depth` codes is dropped.

    Raises:
        InputError: one of them.
    """
    if not 0.0 <= threshold <= 1.0:
        raise InputError(f"The threshold of pruning is {threshold}; give a consistency between 0 and 1.")
    if level is not None and not 0 <= level < depth - 1:
        raise InputError(
            f"The level of pruning is {level}, but paths of {depth} codes can be dropped after "
            f"levels 0 to {depth - 2} only; choose one of these."
        )


def _held(
    nodes: Sequence[np.ndarray], targets: Sequence[int], constraint: Constraint, level: int
) -> np.ndarray:
    """Mark the paths that lead to the users' targets: lists of unequal length to (B, W) bool."""
    rows = np.full((len(nodes), max(map(len, nodes), default=0)), -1, dtype=np.int64)
    for row, found in zip(rows, nodes, strict=True):
        row[: len(found)] = found
    table = torch.from_numpy(rows).to(constraint.device)
    items = torch.tensor(targets, dtype=torch.int64, device=constraint.device)
    held = constraint.holds(table.clamp(min=0), level, items) & (table >= 0)
    marked: np.ndarray = held.cpu().numpy()
    return marked


def _check(categories: np.ndarray, constraint: Constraint, threshold: float, level: int | None) -> None:
    check_pruning(threshold, level, constraint.depth)
    if len(categories) != constraint.num_items:
        raise ValueError(f"{len(categories)} categories were given for {constraint.num_items} items")
    if not (categories >= 0).any():
        raise InputError("Pruning needs categories, and no item of this catalogue has one; set no threshold.")
