"""Which items are neighbours of an item: what is bought near it, and what reads like it.

Two tables, which `gream.decoding.evidence` turns into evidence for a path:
- co-purchases, counted as item kNN counts them (`gream.data.copurchases`). In training a purchase must not
  find itself among them: users are dealt into folds, and each looks into counts of the other folds alone;
- lookalikes, by the cosine of the items' text vectors. No purchase enters them, so nothing is held out.

Source: ours; PROMISE (arXiv 2601.04674) gives its scorer neither.

Legend: B users, N items, M neighbours, F folds, D width of a text vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from gream.data.copurchases import similarity
from gream.semantic_ids.vectors import normalised

FOLDS = 10  # the counts that a training purchase looks into lack a tenth of the users
SHARPNESS = 3  # power of the cosine of two texts, so that the nearest few count most; chosen on validation
_ITEMS_AT_ONCE = 1024  # bounds memory of the (N, N) cosines


@dataclass(frozen=True)
class Neighbours:
    """The strongest neighbours of items: a table of N rows, or F of them, one below the other."""

    items: Tensor  # (N, M) or (F N, M) int64
    strengths: Tensor  # of the same shape, float32, 0 where an item has fewer


@dataclass(frozen=True)
class HeldOut:
    """What training looks into: for every user the table that was counted without the users of its fold."""

    tables: Neighbours
    folds: Tensor  # (B,) int64


def copurchased(sequences: Sequence[np.ndarray], num_items: int, most: int) -> Neighbours:
    """Count co-purchases, and keep of every item the `most` strongest neighbours, ties by lower item id."""
    items, strengths = _strongest(similarity(sequences, num_items), most)
    return Neighbours(torch.from_numpy(items), torch.from_numpy(strengths))


def held_out_copurchased(sequences: Sequence[np.ndarray], num_items: int, most: int) -> Neighbours:
    """Count F times, each time without the users of one fold; user u is in fold u % F."""
    parts = [
        copurchased([s for user, s in enumerate(sequences) if user % FOLDS != fold], num_items, most)
        for fold in range(FOLDS)
    ]
    return Neighbours(
        torch.cat([part.items for part in parts]), torch.cat([part.strengths for part in parts])
    )


def lookalikes(vectors: np.ndarray, most: int) -> Neighbours:
    """Find of every item the `most` others with the nearest texts; the strength is the cosine cubed.

    Texts at a right angle or farther are no neighbours, and an item without a text has none.

    Args:
        vectors: (N, D) text vectors, of any length.
        most: neighbours M.
    """
    directions = torch.from_numpy(normalised(vectors))  # (N, D)
    items = torch.zeros(len(vectors), most, dtype=torch.int64)
    strengths = torch.zeros(len(vectors), most)
    found = min(most, len(vectors))
    for start in range(0, len(vectors), _ITEMS_AT_ONCE):
        part = torch.arange(start, min(start + _ITEMS_AT_ONCE, len(vectors)))
        cosines = directions[part] @ directions.T
        cosines[torch.arange(len(part)), part] = -torch.inf
        nearest = cosines.topk(found, dim=1).indices.sort(dim=1).values
        best, order = cosines.gather(1, nearest).sort(dim=1, descending=True, stable=True)
        items[part, :found] = nearest.gather(1, order)  # ties by lower item id
        strengths[part, :found] = best.clamp_min(0) ** SHARPNESS
    return Neighbours(items.masked_fill(strengths == 0, 0), strengths)


def _strongest(table: sparse.csr_array, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a sparse (N, N) table to (N, M) columns and values, strongest first; 0 where a row has fewer."""
    table.sort_indices()
    rows = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((table.indices, -table.data, rows))
    places = np.arange(len(rows)) - table.indptr[rows]
    kept = places < most
    items = np.zeros((table.shape[0], most), dtype=np.int64)
    strengths = np.zeros((table.shape[0], most), dtype=np.float32)
    items[rows[kept], places[kept]] = table.indices[order][kept]
    strengths[rows[kept], places[kept]] = table.data[order][kept]
    return items, strengths
