"""Which codes may follow when a name may be written in any order: posting lists of parallel codes.

Every codebook keeps the items of each of its codes as one list. The items of a path are found in the shortest
list among its codes, by comparing their other codes with the path; the codes of those items in the codebooks
that are not used yet are what may follow. A disambiguation level means nothing before the other codes are
known, so it comes last.

A node is the set of used codebooks (one bit each) times the number of items plus the lowest item that has the
path's codes. So two beams that chose the same codes in another order have the same node, the node of a whole
name tells its item, and no table of paths is needed: L codebooks have 2^L sets of them.

Source: the free order is REG4Rec's (arXiv 2508.15308), which says nothing of how its paths are held to real
items; the posting lists and the numbering are ours.

Legend: B users, W beams, N items, L codebooks, M longest posting list, K columns: the whole item block.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from gream.errors import InputError
from gream.semantic_ids.layout import Names
from gream.semantic_ids.paths import Narrowing, check_extended, moved, refuse_empty, without_items

ROOT_CELLS = 2**22  # users times items that are looked at together for the first code: 32 MiB of columns


class PostingConstraint:
    """All names of a catalogue with unordered codes; see `paths.Constraint` for the questions.

    Attributes:
        names: the names it was built from.
        depth: number of codes in a name, L.
        num_items: N.
    """

    def __init__(self, names: Names, *, stored: Mapping[str, Tensor] | None = None) -> None:
        """Sort the items of every codebook by their code.

        Args:
            names: unordered names.
            stored: `tensors` of a constraint of the same names, where there is one already.

        Raises:
            InputError: names with ordered codes, or no names at all.
        """
        if names.layout.ordered:
            raise InputError("Names with ordered codes were given, but posting lists need unordered ones.")
        if len(names) == 0:
            raise InputError("Names of 0 items were given, but a search needs one; run `gream sids`.")
        self.names = names
        self.depth = names.layout.num_codebooks
        self.num_items = len(names)
        self._num_columns = names.layout.num_tokens
        self._listed = self.depth - (names.layout.disambiguation and self.depth > 1)  # codebooks with lists
        self._full = (1 << self.depth) - 1
        self._offsets = torch.tensor(names.layout.offsets)  # (L,)
        self._bits = 1 << torch.arange(self.depth)  # (L,)
        self._codes = torch.from_numpy(names.codes.astype(np.int32))  # (N, L)
        if stored is None:
            orders = [np.argsort(names.codes[:, book], kind="stable") for book in range(self._listed)]
            stored = {"postings": torch.from_numpy(np.stack(orders).astype(np.int32))}
        self._postings = stored["postings"]  # (listed, N) items by their code in every codebook
        columns = names.codes[:, : self._listed] + np.asarray(names.layout.offsets[: self._listed])
        counts = np.bincount(columns.ravel(), minlength=self._num_columns)
        starts = np.cumsum(counts) - counts  # the lists of a codebook follow those of the one before
        self._counts = torch.from_numpy(counts)  # (K,)
        self._starts = torch.from_numpy(starts)  # (K,) places in the flattened postings
        self._longest = int(counts.max())  # known on the host, so that no step waits for a device
        self._standing: Tensor | None = None  # (1, N) bool; None: no item was taken out

    def to(self, device: torch.device | str) -> PostingConstraint:
        """Return this constraint with its tensors on another device."""
        return moved(self, device)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is worth storing; `stored` takes it back."""
        return {"postings": self._postings}

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._codes.device

    def without(self, items: Sequence[int]) -> PostingConstraint:
        """Take items out for every user from now on, without building anything again."""
        smaller = copy.copy(self)
        smaller._standing = without_items(self, self._standing, items)
        return smaller

    def extended(self, names: Names) -> PostingConstraint:
        """Add the items that stand behind the known ones in `names`.

        Raises:
            ValueError: `names` does not begin with the names of this constraint.
        """
        check_extended(self.names, names)
        larger = PostingConstraint(names).to(self.device)  # a stable sort by code of a codebook is one pass
        if self._standing is not None:
            added = len(names) - self.num_items
            larger._standing = torch.nn.functional.pad(self._standing, (0, added), value=True)
        return larger

    def item(self, codes: Sequence[int]) -> int | None:
        """Give the item of a whole name, codes in the order of the codebooks, or None."""
        node = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
        sizes = self.names.layout.codebook_sizes
        if len(codes) != self.depth or any(not 0 <= int(c) < s for c, s in zip(codes, sizes, strict=True)):
            return None
        for level, (offset, code) in enumerate(zip(self.names.layout.offsets, codes, strict=True)):
            node = self.follow(node, torch.full_like(node, offset + int(code)), level)
        item = int(self.item_of(node))
        taken_out = item >= 0 and self._standing is not None and not bool(self._standing[0, item])
        return None if item < 0 or taken_out else item

    def codes_of(self, nodes: Tensor) -> Tensor:
        """Give the chosen codes of every path: (B, W) nodes to (B, W, L) int64, -1 where none is chosen."""
        codes, used = self._decoded(nodes)
        return codes.masked_fill(~used, -1)

    def legal(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Mark the columns that may follow every beam: (B, W) nodes to (B, W, K) bool; -1 has none."""
        return self._next_items(nodes, level, narrowing) >= 0

    def finish(self, nodes: Tensor, narrowing: Narrowing | None = None) -> Tensor:
        """Say which item every column completes: (B, W) nodes of L - 1 codes to (B, W, K) int64, or -1."""
        return self._next_items(nodes, self.depth - 1, narrowing)

    def follow(self, nodes: Tensor, columns: Tensor, level: int) -> Tensor:
        """Add a code to every beam: (B, W) nodes and columns to (B, W) nodes; -1 where no name goes there."""
        codes, used = self._decoded(nodes)
        book = torch.searchsorted(self._offsets, columns.contiguous(), right=True) - 1
        reused = used.gather(2, book.unsqueeze(-1)).squeeze(-1)
        codes = codes.scatter(2, book.unsqueeze(-1), (columns - self._offsets[book]).unsqueeze(-1))
        used = used.scatter(2, book.unsqueeze(-1), True)
        items, kept = self._candidates(codes, used)
        lowest = items.masked_fill(~kept, self.num_items).amin(dim=2)  # (B, W)
        alive = (lowest < self.num_items) & (nodes >= 0) & ~reused
        return torch.where(alive, (used * self._bits).sum(-1) * self.num_items + lowest, -1)

    def reach(self, nodes: Tensor, level: int, narrowing: Narrowing | None = None) -> Tensor:
        """Count the (allowed) items that have every path: (B, W) int64; 0 for -1."""
        items, kept = self._candidates(*self._decoded(nodes))
        return self._allowed(items, kept, narrowing).sum(-1).masked_fill(nodes < 0, 0)

    def holds(self, nodes: Tensor, level: int, items: Tensor) -> Tensor:
        """Say whether a user's item (B,) has each of its paths: (B, W) bool."""
        codes, used = self._decoded(nodes)
        return ((codes == self._codes[items][:, None]) | ~used).all(-1) & (nodes >= 0)

    def orders(self, level: int) -> int:
        """As many as a path has codes: each of them may be the one that came last."""
        return level + 1

    def narrow(self, mask: Tensor) -> Narrowing:
        """Allow each user a subset of the items: (B, N) bool.

        Raises:
            InputError: a user for whom no item is allowed.
        """
        mask = mask.to(self.device)
        if self._standing is not None:
            mask = mask & self._standing
        refuse_empty(mask.any(dim=1), self.num_items)
        return Narrowing(mask)

    def item_of(self, nodes: Tensor) -> Tensor:
        """Translate nodes of whole names, of any shape, to items; -1 stays -1.

        Raises:
            ValueError: a node of a path that is not whole.
        """
        real = nodes >= 0
        if bool((real & (nodes < self._full * self.num_items)).any()):
            raise ValueError("A node of an unfinished path was given, but only a whole name is an item.")
        return torch.where(real, nodes - self._full * self.num_items, -1)

    def _decoded(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Read (B, W) nodes: (B, W, L) codes of the lowest item, and (B, W, L) which codebooks are used."""
        safe = nodes.clamp(min=0)
        books = torch.div(safe, self.num_items, rounding_mode="floor")
        codes = self._codes[safe - books * self.num_items].long()
        return codes, (books.unsqueeze(-1) & self._bits) != 0

    def _candidates(self, codes: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """Look paths up in their shortest lists: (B, W, M) items, and which of them have all used codes."""
        columns = (codes + self._offsets)[..., : self._listed]
        lengths = self._counts[columns].masked_fill(~used[..., : self._listed], self.num_items + 1)
        shortest = lengths.argmin(dim=-1, keepdim=True)
        column = columns.gather(2, shortest)  # (B, W, 1); of codebook 0 for the root, which has no list
        places = torch.arange(self._longest, device=codes.device)
        inside = places < self._counts[column]
        items = self._postings.view(-1)[(self._starts[column] + places).masked_fill(~inside, 0)].long()
        same = (self._codes[items] == codes.unsqueeze(2)) | ~used.unsqueeze(2)  # (B, W, M, L)
        return items, inside & same.all(-1)

    def _next_items(self, nodes: Tensor, level: int, narrowing: Narrowing | None) -> Tensor:
        """Find an item behind every column: (B, W, K) int64, -1 where there is none.

        The last level has one item for each legal column; before it any of them may be told.
        """
        if level == 0:
            return self._first_items(nodes, narrowing)
        codes, used = self._decoded(nodes)
        items, kept = self._candidates(codes, used)
        kept = self._allowed(items, kept, narrowing) & (nodes >= 0).unsqueeze(-1)
        is_open = ~used
        if self._listed < self.depth and level < self.depth - 1:
            is_open[..., self._listed :] = False  # the disambiguation level comes last
        columns = self._codes[items] + self._offsets  # (B, W, M, L)
        columns = columns.masked_fill(~(kept.unsqueeze(-1) & is_open.unsqueeze(2)), self._num_columns)
        found = torch.full((*nodes.shape, self._num_columns + 1), -1, dtype=torch.int64, device=nodes.device)
        values = items.unsqueeze(-1).expand_as(columns)
        found.scatter_reduce_(2, columns.flatten(2), values.flatten(2), "amax")  # the same on every device
        return found[..., : self._num_columns]

    def _first_items(self, nodes: Tensor, narrowing: Narrowing | None) -> Tensor:
        """Find an item behind every column of the root, from (1, N) or (B, N) allowed items."""
        table = self._standing if narrowing is None else narrowing.table
        if table is None:
            table = torch.ones(1, self.num_items, dtype=torch.bool, device=self.device)
        found = torch.full((len(table), self._num_columns + 1), -1, dtype=torch.int64, device=self.device)
        items, users = torch.arange(self.num_items, device=self.device), max(1, ROOT_CELLS // self.num_items)
        for book in range(self._listed):
            columns = self._codes[:, book] + self._offsets[book]  # (N,)
            for first in range(0, len(table), users):
                # One column more takes what is not allowed; any item of a list may be the one that is told.
                behind = torch.where(table[first : first + users], columns, self._num_columns)
                found[first : first + users].scatter_(1, behind, items.expand_as(behind))
        found = found[:, : self._num_columns]
        return found.unsqueeze(1).expand(*nodes.shape, -1).masked_fill((nodes < 0).unsqueeze(-1), -1)

    def _allowed(self, items: Tensor, kept: Tensor, narrowing: Narrowing | None) -> Tensor:
        """Leave out of (B, W, M) candidates what a user may not get."""
        table = self._standing if narrowing is None else narrowing.table
        if table is None:
            return kept
        table = table.expand(len(items), -1)
        return kept & table.gather(1, items.flatten(1)).view_as(items)
