"""How a search reached its list: the prefixes that it kept at every level, as a tree for people.

Legend: P nodes of one level, N items, L codebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gream.decoding.answer import Answer
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.paths import Constraint


@dataclass(frozen=True)
class Prefix:
    """One path of codes that the search held at a level."""

    codes: str  # the tokens of its codes, in the order of the codebooks
    kept: bool  # False: a pruner dropped it
    items: tuple[int, ...]  # ranks, from 1, of the recommended items that it leads to; of a pruned one none


def search_tree(answer: Answer, constraint: Constraint) -> list[list[Prefix]]:
    """Return for each level the prefixes that were kept or pruned, those of the best items first.

    Reasoning mode searches after each chain: its tree holds what any of these searches kept, and of what was
    pruned that which none kept.
    """
    searches = list(zip(answer.chain_kept, answer.chain_pruned, strict=True)) or [
        (answer.kept, answer.pruned)
    ]
    levels = []
    for level in range(len(searches[0][0])):
        kept = _united([of_search[level] for of_search, _ in searches])
        # After the last level nothing is pruned: there is no further step to save.
        pruned = np.setdiff1d(_united([p[level] for _, p in searches if level < len(p)]), kept)
        found = [
            _prefix(constraint, level, int(node), answer.items, there)
            for nodes, there in ((kept, True), (pruned, False))
            for node in nodes
        ]
        last = len(answer.items) + 1
        levels.append(sorted(found, key=lambda prefix: (not prefix.kept, min(prefix.items, default=last))))
    return levels


def _united(nodes: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *nodes]))


def _prefix(constraint: Constraint, level: int, node: int, items: np.ndarray, kept: bool) -> Prefix:
    codes = _path(constraint, level, node)
    of_items = constraint.names.codes[items]
    # What a pruned set of unordered codes is part of was found another way.
    leads = kept & np.all([of_items[:, book] == code for book, code in codes.items()], axis=0)
    token = constraint.names.layout.token
    spelled = "".join(token(book, code) for book, code in codes.items())
    return Prefix(spelled, kept, tuple(int(rank) + 1 for rank in np.flatnonzero(leads)))


def _path(constraint: Constraint, level: int, node: int) -> dict[int, int]:
    """Return the code of each codebook that a node's path has chosen, read off one item that has the path."""
    if isinstance(constraint, TrieConstraint):
        at_level = constraint.item_nodes[:, level].cpu().numpy()
        item, books = int(np.argmax(at_level == node)), range(level + 1)
    else:  # a node is the set of its codebooks, one bit each, and the lowest item that has its codes
        chosen, item = divmod(node, constraint.num_items)
        books = [book for book in range(constraint.depth) if chosen >> book & 1]  # type: ignore[assignment]
    return {book: int(constraint.names.codes[item, book]) for book in books}
