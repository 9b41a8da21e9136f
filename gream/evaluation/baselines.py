"""Two recommenders without a model, which every model has to beat: popularity and item neighbourhood.

The neighbourhood model counts which items are bought within a few purchases of each other. It is fitted in
a second and beats most published generative rows on the same data, so no result counts without it.

Both are fitted from whatever sequences they are given. For a test purchase that is everything bought
before it, validation purchases included, as the literature's kNN figures do; models learn from training
purchases only, so this favours the baselines.

The model is standard item kNN; its settings are ours, chosen on the validation split of Amazon Beauty and
Amazon Industrial & Scientific.

Legend: B users, N items.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from gream.data.copurchases import Sequences, flat, similarity

_USERS_AT_ONCE = 1000  # bounds memory of the (B, N) scores


class Popularity:
    """Recommend to everybody the items bought most often, ties by lower item id."""

    def __init__(self, sequences: Sequences, num_items: int) -> None:
        counts = np.bincount(flat(sequences), minlength=num_items)  # (N,)
        self.order = np.argsort(-counts, kind="stable")  # (N,) item ids, best first

    def recommend(self, histories: Sequences, k: int, *, exclude_seen: bool = False) -> list[np.ndarray]:
        """Return min(k, N) items for each history, best first; fewer where `exclude_seen` leaves fewer."""
        seen = histories if exclude_seen else [[]] * len(histories)
        nothing = np.zeros(0, dtype=np.int64)
        return [self.fill(nothing, np.asarray(items, dtype=np.int64), k) for items in seen]

    def fill(self, chosen: np.ndarray, banned: np.ndarray, k: int) -> np.ndarray:
        """Return `chosen` without `banned`, cut to k, or filled up with the most popular of the others."""
        head = chosen[~np.isin(chosen, banned)][:k] if len(banned) else chosen[:k]
        if len(head) == k:
            return head
        taken = np.concatenate([head, banned])
        nearest = self.order[: k + len(taken)]  # enough of them, whatever is taken
        rest = nearest[~np.isin(nearest, taken)]
        return np.concatenate([head, rest[: k - len(head)]])


class ItemKNN:
    """Recommend what is bought near the items of the history, the newest counting most.

    The score of j is the sum of decay^age similarity(i, j) over the newest `memory` items i of the history,
    the newest having age 0. A list with fewer than k scored items is filled by popularity.

    Args:
        sequences: purchases of each user, oldest first.
        num_items: N, size of the catalogue.
        window, backward, shrinkage: see `similarity`.
        decay: weight of each step back in the history.
        memory: number of newest purchases that count.
    """

    def __init__(
        self,
        sequences: Sequences,
        num_items: int,
        *,
        window: int = 5,
        backward: float = 0.3,
        shrinkage: float = 20.0,
        decay: float = 0.5,
        memory: int = 10,
    ) -> None:
        self.num_items, self.decay, self.memory = num_items, decay, memory
        self.popularity = Popularity(sequences, num_items)
        self.similarity = similarity(
            sequences, num_items, window=window, backward=backward, shrinkage=shrinkage
        )  # (N, N)

    def recommend(self, histories: Sequences, k: int, *, exclude_seen: bool = False) -> list[np.ndarray]:
        """Return min(k, N) items for each history, best first; fewer where `exclude_seen` leaves fewer."""
        answers: list[np.ndarray] = []
        for start in range(0, len(histories), _USERS_AT_ONCE):
            block = histories[start : start + _USERS_AT_ONCE]
            scores = sparse.csr_array(self._recency_weights(block) @ self.similarity)  # (B, N)
            for row, history in enumerate(block):
                banned = np.asarray(history if exclude_seen else [], dtype=np.int64)
                cells = slice(scores.indptr[row], scores.indptr[row + 1])
                best = best_items(scores.indices[cells], scores.data[cells], k + len(banned))
                answers.append(self.popularity.fill(best, banned, k))
        return answers

    def _recency_weights(self, histories: Sequences) -> sparse.csr_array:
        """Lay histories out as (B, N) weights, decay^age for each of the newest purchases."""
        newest = [np.asarray(h, dtype=np.int64)[::-1][: self.memory] for h in histories]
        ages = np.concatenate([np.arange(len(h)) for h in newest])
        rows = np.repeat(np.arange(len(newest)), [len(h) for h in newest])
        cells = (rows, flat(newest))
        return sparse.csr_array((self.decay**ages, cells), shape=(len(newest), self.num_items))


def best_items(items: np.ndarray, scores: np.ndarray, k: int) -> np.ndarray:
    """Return the k items with the best scores, best first, ties by lower item id."""
    if len(items) > k:
        last = np.partition(scores, len(scores) - k)[len(scores) - k]
        items, scores = items[scores >= last], scores[scores >= last]
    return items[np.lexsort((items, -scores))][:k].astype(np.int64)
