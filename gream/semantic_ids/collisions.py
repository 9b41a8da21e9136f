"""One name for each item and one item for each name: collisions resolved, and items that come later named.

GREAM (arXiv 2510.20815) appends a fifth code to the names that collide, so that names differ in length.
Ours: all names have the same length. Items that share all codes but the last are spread over the last
codebook at least cost; only where a group has more items than that codebook has codes, every name gets a
disambiguation code.

Legend: N items, M new items, D embedding, L codebooks, K codes.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from scipy.optimize import linear_sum_assignment

from gream.errors import InputError
from gream.semantic_ids.embed import require_finite
from gream.semantic_ids.kmeans import balanced_assignment
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.quantiser import Quantiser

HEADROOM = 2  # disambiguation codes for each one in use, so that new items find a name; ours


def unique_names(vectors: np.ndarray, codes: np.ndarray, quantiser: Quantiser) -> Names:
    """Resolve collisions so that every item has a name of its own.

    Where items share a whole name, all items with the same first L - 1 codes are assigned to different
    last codes, at the least sum of squared distances to the codewords. A group with more items than last
    codes is spread over them evenly, and a disambiguation level numbers the items that share all codes, by
    item id.

    Args:
        vectors: (N, D) what was quantised.
        codes: (N, L) codes that may collide.
        quantiser: what gave the codes.
    """
    codes = codes.copy()
    sizes = tuple(map(len, quantiser.codebooks))
    last = len(sizes) - 1
    for group in _groups(codes[:, :last]):
        if len(np.unique(codes[group, last])) == len(group):
            continue
        costs = quantiser.costs(quantiser.project(vectors[group]), codes[group], last)
        if len(group) <= sizes[last]:
            codes[group, last] = linear_sum_assignment(costs)[1]  # rows come back in order
        else:
            codes[group, last] = balanced_assignment(costs)[0]
    ranks = _ranks(codes)
    if not ranks.any():
        return Names(SidLayout(sizes, ordered=quantiser.ordered), codes)
    layout = SidLayout(
        (*sizes, HEADROOM * (int(ranks.max()) + 1)), ordered=quantiser.ordered, disambiguation=True
    )
    return Names(layout, np.concatenate([codes, ranks[:, None]], axis=1))


def name_new_items(vectors: np.ndarray, quantiser: Quantiser, names: Names) -> Names:
    """Name items that came later with the stored codebooks; the names of all others stay.

    Level by level, each item takes the nearest code under which a name is still free; at a disambiguation
    level the lowest free one. Items are named in order, so an earlier one goes first.

    Args:
        vectors: (M, D) embeddings of the new items, made as those of the others were.
        quantiser: what gave the names.
        names: of the N items so far.

    Returns:
        Names of all N + M items, the new ones last, in the same layout.

    Raises:
        InputError: every name is taken, or a vector holds NaN or infinity.
    """
    require_finite(vectors, [str(item) for item in range(len(vectors))], "new items")
    sizes = names.layout.codebook_sizes
    room = [math.prod(sizes[level + 1 :]) for level in range(len(sizes))]
    if len(names) + len(vectors) > room[0] * sizes[0]:
        raise InputError(
            f"{len(vectors):,} new items were given, but only {room[0] * sizes[0] - len(names):,} names are "
            "free; run `gream sids` again with larger codebooks."
        )
    taken = Counter(tuple(row[: end + 1]) for row in names.codes.tolist() for end in range(len(sizes)))
    new = np.zeros((len(vectors), len(sizes)), dtype=names.codes.dtype)
    latents = quantiser.project(vectors)
    for item in range(len(vectors)):
        path: tuple[int, ...] = ()
        for level, size in enumerate(sizes):
            order = _by_cost(quantiser, latents[item : item + 1], new[item : item + 1], level, size)
            # Fewer names taken than there is room: one below is free, so the walk never has to turn back.
            path = (*path, next(code for code in order if taken[(*path, code)] < room[level]))
            taken[path] += 1
            new[item, level] = path[-1]
    trained = len(names) if names.num_trained is None else names.num_trained
    return Names(names.layout, np.concatenate([names.codes, new]), trained)


def _by_cost(
    quantiser: Quantiser, latents: np.ndarray, codes: np.ndarray, level: int, size: int
) -> list[int]:
    """Codes of a level for one item, nearest first; in numerical order where there are no codewords."""
    if level >= len(quantiser.codebooks):
        return list(range(size))
    nearest: list[int] = np.argsort(quantiser.costs(latents, codes, level)[0], kind="stable").tolist()
    return nearest


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Group the items whose rows (N, any width, even 0) are equal; items of a group in rising order."""
    order, starts = _sorted(codes)
    return np.split(order, starts[1:])


def _ranks(codes: np.ndarray) -> np.ndarray:
    """Number the items whose rows (N, L) are equal 0, 1, ... in rising order: (N,)."""
    order, starts = _sorted(codes)
    ranks = np.zeros(len(codes), dtype=codes.dtype)
    sizes = np.diff(starts, append=len(order))
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks


def _sorted(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items sorted by their rows, equal rows by item, and where each different row starts."""
    keys = np.concatenate([np.zeros((len(codes), 1), dtype=codes.dtype), codes], axis=1)
    order = np.lexsort(keys.T[::-1])  # stable
    new = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    return order, np.concatenate([[0], np.flatnonzero(new) + 1])[: max(len(codes), 1)]
