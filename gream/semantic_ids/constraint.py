"""Which codes may follow: a trie of all names in compressed-sparse-row form, without any state per request.

Nodes are numbered breadth first, level by level, within a level in the order of their codes; the root is
0. So the children of a node are neighbours, sorted by code, and one number for each node (`child_start`)
is all that has to be stored. Items sorted by their codes make every node one contiguous range of items;
prefix sums over that order narrow the trie to any subset of the items without building it again.

Legend: B users, W beams, N items, L codebooks, C widest fan-out of a level, P nodes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gream.errors import InputError
from gream.semantic_ids.layout import Names


class DeadPathError(ValueError):
    """A path of codes that leads to no item; raised, because an empty choice must never go unnoticed."""


@dataclass(frozen=True)
class Children:
    """What may follow each beam, sorted by code; where `legal` is false, code is 0 and node is -1."""

    codes: torch.Tensor  # (B, W, C) int64
    nodes: torch.Tensor  # (B, W, C) int64
    legal: torch.Tensor  # (B, W, C) bool


class TrieConstraint:
    """All names of a catalogue with ordered codes, as a trie.

    Attributes:
        names: the names it was built from.
        depth: number of codes in a name, L.
        num_items: N.
        num_nodes: P, the root included.
        item_nodes: (N, L) int64, the node of every prefix of every item's name; the last is its leaf.
        node_codes: (P,) int64, last code of the node's path; 0 for the root.
    """

    def __init__(self, names: Names) -> None:
        """Build the trie.

        Raises:
            InputError: names with unordered codes, or no names at all.
        """
        if not names.layout.ordered:
            raise InputError(
                "Names with unordered (parallel) codes were given, but a trie needs ordered ones; "
                "run `gream sids` with residual codes."
            )
        if len(names) == 0:
            raise InputError("Names of 0 items were given, but a trie needs at least one; run `gream sids`.")
        self.names = names
        self.depth = names.layout.num_codebooks
        self.num_items = len(names)
        order = np.lexsort(names.codes.T[::-1])  # level 0 is the first key
        in_order = names.codes[order]
        nodes = _number(in_order)  # (N, L) node of every prefix, rows in sorted order
        self._level_starts = [0, 1, *(nodes[-1] + 1).tolist()]  # first node of depth 0, 1, ..., L, and P
        self.num_nodes = self._level_starts[-1]

        child_counts = np.zeros(self.num_nodes, dtype=np.int64)
        parents = np.concatenate([np.zeros((self.num_items, 1), dtype=np.int64), nodes[:, :-1]], axis=1)
        node_codes = np.zeros(self.num_nodes, dtype=np.int64)
        item_start = np.zeros(self.num_nodes, dtype=np.int64)
        for level in range(self.depth):
            # The first item of every node tells its code, its parent and the start of its range.
            first = np.flatnonzero(np.diff(nodes[:, level], prepend=-1))
            child_counts += np.bincount(parents[first, level], minlength=self.num_nodes)
            node_codes[nodes[first, level]] = in_order[first, level]
            item_start[nodes[first, level]] = first
        item_counts = np.bincount(nodes.ravel(), minlength=self.num_nodes)
        item_counts[0] = self.num_items
        child_start = np.concatenate([[1], 1 + np.cumsum(child_counts)])
        # Known on the host, so that no step of a search waits for a device to tell it.
        self._fan_outs = [int(child_counts[self._slice(depth)].max()) for depth in range(self.depth + 1)]
        item_nodes = np.empty_like(nodes)
        item_nodes[order] = nodes

        # Four bytes a number where none is an index itself: the nodes of a catalogue are fewer than 2^31.
        start, below = item_start.astype(np.int32), child_start.astype(np.int32)
        end = (item_start + item_counts).astype(np.int32)
        self.node_codes = torch.from_numpy(node_codes)
        self.item_nodes = torch.from_numpy(item_nodes)
        self._child_start = torch.from_numpy(below)  # (P + 1,)
        self._item_start = torch.from_numpy(start)  # (P,)
        self._item_end = torch.from_numpy(end)  # (P,)
        self._order = torch.from_numpy(order)  # (N,) items sorted by their codes
        # The same numbers for paths that come one by one, where a tensor on a device would be slow.
        self._host = (node_codes, below, start, end, order)

    def to(self, device: torch.device | str) -> TrieConstraint:
        """Return this trie with its tensors on another device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(moved, name, value.to(device))
        return moved

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._order.device

    def level_nodes(self, depth: int) -> range:
        """Nodes whose paths have `depth` codes: 0 gives the root, L the leaves, sorted by their codes."""
        return range(self._level_starts[depth], self._level_starts[depth + 1])

    def allowed(self, path: Sequence[int], alive: torch.Tensor | None = None) -> np.ndarray:
        """Return the codes that may follow a path, sorted; none after a complete name.

        Args:
            path: codes chosen so far, one for each level from the first.
            alive: (P,) bool, one user's row of `alive`.

        Raises:
            DeadPathError: no item (of the user's subset) has this path.
        """
        node = self.node(path)
        codes, child_start, *_ = self._host
        children = np.arange(child_start[node], child_start[node + 1])
        if alive is not None:
            mask = alive.cpu().numpy()
            if not mask[node]:
                raise DeadPathError(f"No allowed item has the path {tuple(path)}.")
            children = children[mask[children]]
        return codes[children]

    def items(self, path: Sequence[int]) -> np.ndarray:
        """Return all items whose names start with a path, sorted.

        Raises:
            DeadPathError: no item has this path.
        """
        node = self.node(path)
        _, _, item_start, item_end, order = self._host
        return np.sort(order[item_start[node] : item_end[node]])

    def node(self, path: Sequence[int]) -> int:
        """Return the node of a path; the empty path is the root, 0.

        Raises:
            DeadPathError: no item has this path.
        """
        codes, child_start, *_ = self._host
        node = 0
        for code in path:
            start, end = child_start[node], child_start[node + 1]
            child = start + np.searchsorted(codes[start:end], code)
            if child == end or codes[child] != code:
                raise DeadPathError(f"No item has the path {tuple(path)}.")
            node = int(child)
        return node

    def children(self, nodes: torch.Tensor, depth: int, alive: torch.Tensor | None = None) -> Children:
        """Return what may follow every beam of every user.

        C is the largest number of children that any node of this depth has, so it does not depend on the
        beams; 0 after complete names.

        Args:
            nodes: (B, W) int64, nodes whose paths have `depth` codes; -1 is a padding beam, without a legal
                child.
            depth: number of codes of the beams' paths, 0 to L.
            alive: (B, P) bool of `alive`; everything is allowed without it.
        """
        safe = nodes.clamp(min=0)
        start = self._child_start[safe].unsqueeze(-1)  # (B, W, 1)
        end = torch.where(nodes >= 0, self._child_start[safe + 1], 0).unsqueeze(-1)
        child = start + torch.arange(self._fan_outs[depth], device=nodes.device)  # (B, W, C)
        illegal = child >= end
        child.masked_fill_(illegal, 0)  # the root, whose code is 0
        if alive is not None:
            illegal |= ~alive.gather(1, child.flatten(1)).view_as(child)
            child.masked_fill_(illegal, 0)
        codes = self.node_codes.index_select(0, child.flatten()).view_as(child)
        return Children(codes, child.masked_fill_(illegal, -1), ~illegal)

    def alive(self, mask: torch.Tensor) -> torch.Tensor:
        """Mark the nodes that still lead to an allowed item: (B, N) bool to (B, P) bool.

        Raises:
            InputError: a user for whom no item is allowed.
        """
        empty = torch.nonzero(~mask.any(dim=1)).flatten()
        if len(empty):
            raise InputError(
                f"The filter of user {int(empty[0])} of this request leaves none of {self.num_items:,} "
                "items; allow at least one."
            )
        counts = mask[:, self._order].cumsum(dim=1)  # (B, N) allowed among the first n sorted items
        counts = torch.nn.functional.pad(counts, (1, 0))
        return counts[:, self._item_end] > counts[:, self._item_start]

    def item_of(self, leaves: torch.Tensor) -> torch.Tensor:
        """Translate leaf nodes of any shape to items; -1 stays -1.

        Raises:
            ValueError: a node that is no leaf.
        """
        first = self._level_starts[self.depth]
        real = leaves >= 0
        if bool((real & (leaves < first)).any()):
            raise ValueError("A node of an unfinished path was given, but only a leaf is an item.")
        return torch.where(real, self._order[(leaves - first).clamp(min=0)], -1)

    def _slice(self, depth: int) -> slice:
        return slice(self._level_starts[depth], self._level_starts[depth + 1])


def _number(in_order: np.ndarray) -> np.ndarray:
    """Number the prefixes of sorted codes (N, L) breadth first; the root has number 0."""
    nodes = np.empty(in_order.shape, dtype=np.int64)
    new = np.zeros(len(in_order), dtype=bool)
    new[0] = True
    following = 1
    for level in range(in_order.shape[1]):
        # A prefix is new where any of its codes differs from the row before.
        new[1:] |= in_order[1:, level] != in_order[:-1, level]
        nodes[:, level] = following + np.cumsum(new) - 1
        following = int(nodes[-1, level]) + 1
    return nodes
