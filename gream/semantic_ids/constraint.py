"""Which codes may follow: a trie of all ordered names in compressed-sparse-row form.

Nodes are numbered breadth first, level by level, within a level in the order of their codes; the root is
0. So the children of a node are neighbours, sorted by code. A node's key is its parent's place in the level
above times the size of the codebook plus its code: the keys of a level ascend, and one binary search follows
a code. Where a level has few nodes for the size of its codebook, the legal columns of each are stored as a
row of their own, so that the cost of a step does not grow with the number of names. Items sorted by their
codes make every node one contiguous range of items; prefix sums over that order narrow the trie to any subset
of the items without building it again.

Legend: B users, W beams, N items, L codebooks, C widest fan-out of a level, K columns of a level, P nodes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gream.errors import InputError
from gream.semantic_ids import paths
from gream.semantic_ids.layout import Names, sort_by_codes
from gream.semantic_ids.nodes import describe_nodes, prefix_counts, written_rows
from gream.semantic_ids.paths import DeadPathError, Narrowing

ROW_BYTES = 32  # a level keeps a row of columns for each node where that takes no more bytes for each name


class TrieConstraint:
    """All names of a catalogue with ordered codes, as a trie; see `paths.Constraint` for the questions.

    Attributes:
        names: the names it was built from.
        depth: number of codes in a name, L.
        num_items: N.
        num_nodes: P, the root included.
        item_nodes: (N, L) int64, the node of every prefix of every item's name; the last is its leaf.
    """

    def __init__(
        self, names: Names, *, order: np.ndarray | None = None, stored: Mapping[str, Tensor] | None = None
    ) -> None:
        """Build the trie.

        Args:
            names: ordered names.
            order: (N,) items sorted by their codes, where that is known already.
            stored: `tensors` of a trie of the same names, where there is one already.

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
        self._sizes = names.layout.codebook_sizes
        if stored is None:
            order = sort_by_codes(names.codes, self._sizes) if order is None else order
            stored = describe_nodes(names.codes, order, self._sizes)
        self.item_nodes = stored["item_nodes"]
        self._keys = stored["keys"]  # (P,)
        self._codes = stored["codes"]  # (P,) last code of the node's path
        self._child_start = stored["child_start"]  # (P + 1,)
        self._item_start, self._item_end = stored["item_start"], stored["item_end"]  # (P,)
        self._order = stored["order"]  # (N,) items sorted by their codes
        self._standing: Tensor | None = None  # (1, N) bool; None: no item was taken out
        self._standing_counts: Tensor | None = None  # (1, N + 1) of them, as a narrowing counts
        # Known on the host, so that no step of a search waits for a device to tell it.
        self._level_starts: list[int] = stored["level_starts"].tolist()  # first node of depth 0..L, and P
        self.num_nodes = self._level_starts[-1]
        fan_outs = self._child_start.diff()
        self._fan_outs = [int(fan_outs[self._slice(depth)].max()) for depth in range(self.depth)]
        for level in range(self.depth):  # attributes of their own, so that `to` moves them
            setattr(self, f"_rows_{level}", self._level_rows(level))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is worth storing; `stored` takes it back."""
        return {
            "item_nodes": self.item_nodes,
            "keys": self._keys,
            "codes": self._codes,
            "child_start": self._child_start,
            "item_start": self._item_start,
            "item_end": self._item_end,
            "order": self._order,
            "level_starts": torch.tensor(self._level_starts),
        }

    def to(self, device: torch.device | str) -> TrieConstraint:
        """Return this trie with its tensors on another device."""
        return paths.moved(self, device)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._order.device

    def without(self, items: Sequence[int]) -> TrieConstraint:
        """Take items out for every user from now on, without building anything again.

        The nodes stay as they are, so that whatever is stored for a node goes on.
        """
        smaller = copy.copy(self)
        smaller._standing = paths.without_items(self, self._standing, items)
        smaller._standing_counts = prefix_counts(smaller._standing, self._order)
        return smaller

    def extended(self, names: Names) -> TrieConstraint:
        """Add the items that stand behind the known ones in `names`; what was sorted is not sorted again.

        Raises:
            ValueError: `names` does not begin with the names of this trie.
        """
        paths.check_extended(self.names, names)
        added = self.num_items + sort_by_codes(names.codes[self.num_items :], self._sizes)
        order = np.insert(self._order.cpu().numpy(), self._insertion(names.codes[added]), added)
        larger = TrieConstraint(names, order=order).to(self.device)
        if self._standing is None:
            return larger
        return larger.without(torch.nonzero(~self._standing[0]).flatten().tolist())

    def level_nodes(self, depth: int) -> range:
        """Nodes whose paths have `depth` codes: 0 gives the root, L the leaves, sorted by their codes."""
        return range(self._level_starts[depth], self._level_starts[depth + 1])

    def allowed(self, path: Sequence[int]) -> np.ndarray:
        """Return the codes that may follow a path, sorted; none after a complete name.

        Raises:
            DeadPathError: no item has this path.
        """
        node = self.node(path)
        if len(path) == self.depth:
            return np.zeros(0, dtype=np.int64)
        legal = self.legal(torch.tensor([[node]], device=self.device), len(path))
        return legal[0, 0].nonzero().flatten().cpu().numpy()

    def items(self, path: Sequence[int]) -> np.ndarray:
        """Return all items whose names start with a path, sorted.

        Raises:
            DeadPathError: no item has this path.
        """
        node = self.node(path)
        items = self._order[int(self._item_start[node]) : int(self._item_end[node])].long()
        if self._standing is not None:
            items = items[self._standing[0, items]]
        if not len(items):
            raise DeadPathError(f"Every item with the path {tuple(path)} was taken out.")
        return np.sort(items.cpu().numpy())

    def item(self, codes: Sequence[int]) -> int | None:
        """Give the item of a whole name, or None."""
        try:
            found = self.items(codes)
        except DeadPathError:
            return None
        return int(found[0]) if len(codes) == self.depth else None

    def node(self, path: Sequence[int]) -> int:
        """Return the node of a path; the empty path is the root, 0.

        Raises:
            DeadPathError: no item has this path.
        """
        node = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        for level, code in enumerate(path):
            known = level < self.depth and 0 <= int(code) < self._sizes[level]
            node = self.follow(node, torch.full_like(node, int(code)), level) if known else node - node - 1
            if int(node) < 0:
                raise DeadPathError(f"No item has the path {tuple(path)}.")
        return int(node)

    def legal(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Mark the columns that may follow every beam: (B, W) nodes to (B, W, K) bool; -1 has none."""
        found = self._rows_of(nodes, level, narrowing)
        if found is None:
            return self._first_items(nodes, level, narrowing) >= 0
        return found if found.dtype == torch.bool else found >= 0

    def finish(self, nodes: Tensor, narrowing: Narrowing | None = None) -> Tensor:
        """Say which item every column completes: (B, W) nodes of L - 1 codes to (B, W, K) int32, or -1."""
        found = self._rows_of(nodes, self.depth - 1, narrowing)
        return self._first_items(nodes, self.depth - 1, narrowing) if found is None else found

    def _rows_of(self, nodes: Tensor, level: int, narrowing: Narrowing | None) -> Tensor | None:
        """Look the stored rows of (B, W) nodes up, where there are any and every item is allowed."""
        rows: Tensor | None = getattr(self, f"_rows_{level}")
        if rows is None or narrowing is not None or self._standing is not None:
            return None
        # The last row has no legal column: that of a beam which is padding.
        place = torch.where(nodes < 0, len(rows) - 1, nodes - self._level_starts[level])
        return rows.index_select(0, place.flatten()).view(*nodes.shape, -1)

    def _first_items(self, nodes: Tensor, level: int, narrowing: Narrowing | None) -> Tensor:
        """Write an item behind every legal column of a level, -1 behind the others: (B, W, K) int32."""
        start = self._child_start[nodes.clamp(min=0)].unsqueeze(-1)  # (B, W, 1)
        end = torch.where(nodes >= 0, self._child_start[nodes.clamp(min=0) + 1], 0).unsqueeze(-1)
        slots = torch.arange(self._fan_outs[level], dtype=torch.int32, device=nodes.device)
        child = start + slots  # (B, W, C)
        illegal = child >= end
        child = child.masked_fill(illegal, 0)
        if narrowing is not None or self._standing is not None:
            illegal |= self._count(child, narrowing) == 0
        size = self._sizes[level]
        columns = self._codes[child].long().masked_fill_(illegal, size)  # one more column for what is illegal
        found = torch.full((*nodes.shape, size + 1), -1, dtype=torch.int32, device=nodes.device)
        return found.scatter_(2, columns, self._order[self._item_start[child]])[..., :size]

    def follow(self, nodes: Tensor, columns: Tensor, level: int) -> Tensor:
        """Add a code to every beam: (B, W) nodes and columns to (B, W) nodes; -1 where no name goes there."""
        first, stop = self._level_starts[level + 1], self._level_starts[level + 2]
        wanted = (nodes - self._level_starts[level]) * self._sizes[level] + columns
        place = torch.searchsorted(self._keys[first:stop], wanted).clamp(max=stop - first - 1) + first
        return torch.where((self._keys[place] == wanted) & (nodes >= 0), place, -1)

    def reach(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Count the (allowed) items below every beam: (B, W) int64; 0 for -1."""
        counts = self._count(nodes.clamp(min=0).unsqueeze(-1), narrowing).squeeze(-1).long()
        return counts.masked_fill(nodes < 0, 0)

    def holds(self, nodes: Tensor, level: int, items: Tensor) -> Tensor:
        """Say whether a user's item (B,) has each of its paths of `level` + 1 codes: (B, W) bool."""
        return nodes == self.item_nodes[items, level][:, None]

    def orders(self, level: int) -> int:
        """1: one beam leads to a path, because the codes of a name have one order."""
        return 1

    def narrow(self, mask: Tensor) -> Narrowing:
        """Allow each user a subset of the items: (B, N) bool.

        Raises:
            InputError: a user for whom no item is allowed.
        """
        mask = mask.to(self.device)
        if self._standing is not None:
            mask = mask & self._standing
        counts = prefix_counts(mask, self._order)
        paths.refuse_empty(counts[:, -1], self.num_items)
        return Narrowing(counts)

    def item_of(self, nodes: Tensor) -> Tensor:
        """Translate leaf nodes of any shape to items; -1 stays -1.

        Raises:
            ValueError: a node that is no leaf.
        """
        first = self._level_starts[self.depth]
        real = nodes >= 0
        if bool((real & (nodes < first)).any()):
            raise ValueError("A node of an unfinished path was given, but only a leaf is an item.")
        return torch.where(real, self._order[(nodes - first).clamp(min=0)].long(), -1)

    def _count(self, nodes: Tensor, narrowing: Narrowing | None) -> Tensor:
        """Count allowed items below (B, W, C) nodes."""
        start, end = self._item_start[nodes], self._item_end[nodes]
        table = self._standing_counts if narrowing is None else narrowing.table
        if table is None:
            return end - start
        table = table.expand(len(nodes), -1)
        start, end = (edge.flatten(1).long() for edge in (start, end))
        return (table.gather(1, end) - table.gather(1, start)).view(nodes.shape)

    def _insertion(self, codes: np.ndarray) -> np.ndarray:
        """Find where sorted new codes (M, L) belong among the sorted items: (M,) places."""
        nodes = torch.zeros(1, len(codes), dtype=torch.int64, device=self.device)
        places = np.full(len(codes), -1)
        for level in range(self.depth):
            below = self._slice(level + 1)
            columns = torch.from_numpy(codes[:, level].astype(np.int64)).to(self.device)[None]
            wanted = (nodes - self._level_starts[level]) * self._sizes[level] + columns
            place = torch.searchsorted(self._keys[below], wanted)
            starts = torch.nn.functional.pad(self._item_start[below], (0, 1), value=self.num_items)
            nodes = self.follow(nodes, columns, level)
            # The first unknown code decides; behind it the path is dead, and its place is known.
            leaves = ((nodes < 0)[0].cpu().numpy()) & (places < 0)
            places[leaves] = starts[place][0].cpu().numpy()[leaves]
        return places

    def _level_rows(self, level: int) -> Tensor | None:
        """Write a row of columns for every node of a level, where that pays."""
        size, num_nodes = self._sizes[level], len(self.level_nodes(level))
        items = self._order if level == self.depth - 1 else None
        if num_nodes * size * (1 if items is None else 4) > max(ROW_BYTES * self.num_items, size * 4):
            return None
        return written_rows(self._keys[self._slice(level + 1)], num_nodes, size, items)

    def _slice(self, depth: int) -> slice:
        return slice(self._level_starts[depth], self._level_starts[depth + 1])
