"""Evidence for a path: what the neighbours of the items of a history add up to below every prefix.

The affinity of path and user in the path scorer comes from vectors that few purchases have shaped. A
neighbourhood model that only counts knows better what follows a rare item, and texts know better what
resembles an item that nobody has bought yet. Here such neighbours (`neighbours`) are features of every
prefix, and the scorer learns how much they are worth.

Source: ours; PROMISE (arXiv 2601.04674) gives its scorer no such feature. The decay over the history is
learned, and an amount e becomes gain log(1 + e / floor), with one gain and one floor for each depth.

Counts are no weights: they are not stored with a scorer but counted anew, from all purchases that are known,
where one is loaded. Likeness of texts does not change with purchases, and is stored.

Legend: B users, S purchases, E = S M pairs of purchase and neighbour, M neighbours, W paths, L codebooks,
N items, V valid prefixes of a level, P nodes of the trie.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gream.decoding.neighbours import HeldOut, Neighbours
from gream.semantic_ids.constraint import TrieConstraint


@dataclass(frozen=True)
class Evidence:
    """What the neighbours of B users' purchases say, before it is added up below a prefix."""

    items: Tensor  # (B, E) int64
    amounts: Tensor  # (B, E) float32


class NeighbourEvidence(nn.Module):
    """Turns the neighbours of a history into a logit for every path.

    Args:
        constraint: the trie of the names.
        max_history: ages that have a weight of their own.
        most: neighbours of an item that count, M.
        stored: whether the table belongs to the weights; if not, it is looked up anew where they are loaded.
    """

    item_nodes: Tensor
    bounds: Tensor
    neighbours: Tensor
    strengths: Tensor

    def __init__(self, constraint: TrieConstraint, max_history: int, most: int, *, stored: bool) -> None:
        super().__init__()
        self.stored = stored
        self.starts = [constraint.level_nodes(level + 1).start for level in range(constraint.depth)]
        self.sizes = [len(constraint.level_nodes(level + 1)) for level in range(constraint.depth)]
        self.register_buffer("item_nodes", constraint.item_nodes.clone(), persistent=False)
        self.register_buffer("bounds", _leaf_bounds(constraint), persistent=False)
        size = len(constraint.item_nodes), most
        self.register_buffer("neighbours", torch.zeros(size, dtype=torch.int32), persistent=stored)
        self.register_buffer("strengths", torch.zeros(size), persistent=stored)
        self.ages = nn.Embedding(max_history, 1)  # logarithm of a purchase's weight by age, 0 is the newest
        self.gains = nn.Parameter(torch.ones(constraint.depth))
        self.floors = nn.Parameter(torch.full((constraint.depth,), -4.0))  # logarithms
        nn.init.zeros_(self.ages.weight)
        self.ages.weight.data[:, 0] -= np.log(2.0) * torch.arange(max_history)  # halved by every step back

    def fill(self, found: Neighbours) -> None:
        """Take the table that serving looks into, N rows."""
        self.neighbours = found.items.to(self.neighbours)
        self.strengths = found.strengths.to(self.strengths)

    def evidence(self, purchases: Tensor, ages: Tensor, held_out: HeldOut | None = None) -> Evidence:
        """Look the neighbours of purchases up.

        Args:
            purchases: (B, S) item ids.
            ages: (B, S) steps back from the newest purchase; negative where there is no purchase.
            held_out: tables for training; without it, and for a table that no purchase has entered, `fill`'s.
        """
        items, strengths, rows = self.neighbours, self.strengths, purchases
        if held_out is not None and not self.stored:
            items, strengths = held_out.tables.items, held_out.tables.strengths
            rows = purchases + held_out.folds[:, None] * len(self.item_nodes)
        weights = self.ages(ages.clamp(0, self.ages.num_embeddings - 1)).exp().squeeze(-1)
        weights = weights.masked_fill(ages < 0, 0.0)
        amounts = strengths[rows] * weights[..., None]  # (B, S, M)
        return Evidence(items[rows].flatten(1), amounts.flatten(1))

    def level(self, evidence: Evidence, level: int) -> Tensor:
        """Give the logits of all valid prefixes of a level, with a graph: (B, V)."""
        return self.logits(self.amounts(evidence, level), level)

    def amounts(self, evidence: Evidence, level: int) -> Tensor:
        """Add the evidence up below all valid prefixes of a level: (B, V)."""
        below = self.item_nodes[evidence.items, level] - self.starts[level]
        nothing = evidence.amounts.new_zeros(len(below), self.sizes[level])
        return nothing.scatter_add(1, below, evidence.amounts)

    def of_nodes(self, evidence: Evidence, level: int, nodes: Tensor) -> Tensor:
        """Give what `level` says of some paths: (B, W) nodes of that level to (B, W).

        The items below a node are neighbours among the leaves, so one sort and sums over ranges of it do
        whatever the size of the catalogue.
        """
        leaves, order = (self.item_nodes[evidence.items, -1] - self.starts[-1]).sort(dim=1)
        amounts = evidence.amounts.double().gather(1, order)  # a difference of sums keeps small amounts
        sums = F.pad(amounts.cumsum(dim=1), (1, 0))
        first, end = (
            torch.searchsorted(leaves, side.contiguous())
            for side in self.bounds[nodes.clamp_min(0)].unbind(-1)
        )
        return self.logits((sums.gather(1, end) - sums.gather(1, first)).clamp_min(0).float(), level)

    def logits(self, amounts: Tensor, level: int) -> Tensor:
        """Say what amounts below prefixes of a level are worth: the same shape."""
        return self.gains[level] * torch.log1p(amounts * (-self.floors[level]).exp())


def _leaf_bounds(constraint: TrieConstraint) -> Tensor:
    """Find the leaves below every node, numbered by their order: (P, 2) first and end; 0, 0 for the root."""
    leaves = constraint.item_nodes[:, -1] - constraint.level_nodes(constraint.depth).start  # (N,)
    first = torch.full((constraint.num_nodes,), len(leaves), device=leaves.device)
    end = torch.zeros_like(first)
    for nodes in constraint.item_nodes.unbind(1):
        first.scatter_reduce_(0, nodes, leaves, "amin")
        end.scatter_reduce_(0, nodes, leaves + 1, "amax")
    first[0] = 0
    return torch.stack([first, end], dim=1)
