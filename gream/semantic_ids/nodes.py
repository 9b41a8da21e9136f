"""How the prefixes of all names are numbered and looked up: the arithmetic behind the trie.

Legend: B users, N items, L codebooks, K columns of a level, P nodes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def describe_nodes(codes: np.ndarray, order: np.ndarray, sizes: Sequence[int]) -> dict[str, Tensor]:
    """Number the nodes of codes (N, L) that `order` (N,) sorts, and describe each.

    Returns:
        What `TrieConstraint` is made of: `level_starts` (L + 2,) first node of depth 0 to L, and P;
        `item_nodes` (N, L); for each of P nodes `codes` (the last of its path), `keys`, `child_start`
        (P + 1,), `item_start` and `item_end` (its range of the sorted items); and `order`.
    """
    in_order = codes[order]
    num_items = len(in_order)
    nodes = _number(in_order)  # (N, L) node of every prefix, rows in sorted order
    level_starts = np.array([0, 1, *(nodes[-1] + 1).tolist()])
    num_nodes = int(level_starts[-1])
    parents = np.concatenate([np.zeros((num_items, 1), dtype=np.int64), nodes[:, :-1]], axis=1)
    keys, item_start = np.zeros(num_nodes, dtype=np.int64), np.zeros(num_nodes, dtype=np.int64)
    last_codes = np.zeros(num_nodes, dtype=np.int32)
    child_counts = np.zeros(num_nodes, dtype=np.int64)
    for level in range(len(sizes)):
        # The first item of every node tells its code, its parent and the start of its range.
        first = np.flatnonzero(np.diff(nodes[:, level], prepend=-1))
        node, above = nodes[first, level], parents[first, level]
        child_counts += np.bincount(above, minlength=num_nodes)
        last_codes[node] = in_order[first, level]
        keys[node] = (above - level_starts[level]) * sizes[level] + last_codes[node]
        item_start[node] = first
    item_end = np.append(item_start[1:], num_items)  # a node ends where the next of its level starts
    item_end[level_starts[1:] - 1] = num_items
    item_nodes = np.empty_like(nodes)
    item_nodes[order] = nodes
    # Four bytes a number where it fits: the nodes and items of a catalogue are fewer than 2^31.
    narrow = {
        "child_start": np.concatenate([[1], 1 + np.cumsum(child_counts)]),
        "item_start": item_start,
        "item_end": item_end,
        "order": order,
        "codes": last_codes,
    }
    wide = {"level_starts": level_starts, "keys": keys, "item_nodes": item_nodes}
    found = {name: torch.from_numpy(array.astype(np.int32)) for name, array in narrow.items()}
    return found | {name: torch.from_numpy(array) for name, array in wide.items()}


def written_rows(keys: Tensor, num_nodes: int, size: int, items: Tensor | None = None) -> Tensor:
    """Write the columns of every node of a level as a row: (nodes + 1, K), the last without any.

    Args:
        keys: of the children of all these nodes.
        num_nodes: nodes of the level.
        size: of its codebook, K.
        items: the item of each child, where a child is a whole name: a row then tells the item of a column,
            -1 where there is none. Without them it tells what is legal.
    """
    cells = (num_nodes + 1) * size
    if items is None:
        legal = torch.zeros(cells, dtype=torch.bool, device=keys.device)
        legal[keys] = True
        return legal.view(-1, size)
    found = torch.full((cells,), -1, dtype=torch.int32, device=keys.device)
    found[keys] = items
    return found.view(-1, size)


def prefix_counts(mask: Tensor, order: Tensor) -> Tensor:
    """Count what is allowed among the first n sorted items: (B, N) bool to (B, N + 1) int32."""
    # On a CPU this order of things takes a third of what cumsum of a bool, or index_select, take.
    counts = mask.new_empty(len(mask), mask.shape[1] + 1, dtype=torch.int32)
    counts[:, 0] = 0
    counts[:, 1:] = mask.gather(1, order.long().expand_as(mask))
    counts[:, 1:].cumsum_(dim=1)
    return counts


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
