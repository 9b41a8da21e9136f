"""How well the simulated shop can be predicted by one who knows all but which purchases were noise.

The oracle ranks all items by the true probability of the next purchase given the customer's tastes and
the history. What the history leaves open is which purchase was the last one made on purpose; a forward
filter over that (exact, as for a hidden Markov model) gives the mixture. Ours.

Legend: U customers, N items, C categories; state C stands for "nothing bought on purpose yet".
"""

from __future__ import annotations

import numpy as np

from gream.data.simulate import FOLLOW, Shop


def next_purchase(shop: Shop, position: int) -> np.ndarray:
    """Return the true probability of every item as purchase `position`, (U, N); rows sum to 1.

    Rows of customers with fewer purchases than `position` mean nothing.
    """
    belief, left = _start(shop)
    for earlier in range(position):
        belief, left = _observe(shop, belief, left, shop.bought[:, earlier])
    return _predict(shop, belief, left)


def best_reachable(
    shop: Shop, customers: np.ndarray, positions: np.ndarray, *, kept: np.ndarray, k: int = 10
) -> dict[str, float]:
    """Return the oracle's recall and NDCG at k for the given purchases, whole catalogue ranked.

    Ties go to the lower item id. With one target, NDCG is 1 / log2(rank + 1), ranks from 1.

    Args:
        shop: the shop and its purchases.
        customers: (n,) customer of each purchase asked for; at least one.
        positions: (n,) its position in that customer's sequence.
        kept: (N,) which items the catalogue still has; the others are not ranked.
        k: length of the list.
    """
    ranks = np.zeros(len(customers), dtype=np.int64)
    belief, left = _start(shop)
    for position in range(int(positions.max()) + 1):
        asked = np.flatnonzero(positions == position)
        rows = customers[asked]
        scores = np.where(kept, _predict(shop, belief, left)[rows], -np.inf)  # (asked, N)
        target = shop.bought[rows, position]
        own = np.take_along_axis(scores, target[:, None], axis=1)
        lower = np.arange(scores.shape[1]) < target[:, None]
        ranks[asked] = 1 + (scores > own).sum(axis=1) + ((scores == own) & lower).sum(axis=1)
        belief, left = _observe(shop, belief, left, shop.bought[:, position])
    hit = ranks <= k
    return {f"recall@{k}": float(hit.mean()), f"ndcg@{k}": float((hit / np.log2(ranks + 1)).mean())}


def _start(shop: Shop) -> tuple[np.ndarray, np.ndarray]:
    """Belief over the last category bought on purpose (U, C + 1), and what is left to buy (U, N)."""
    belief = np.zeros((len(shop.bought), shop.start.shape[1] + 1))
    belief[:, -1] = 1
    return belief, np.ones(shop.affinity.shape, dtype=bool)


def _pull(shop: Shop, belief: np.ndarray, left: np.ndarray) -> np.ndarray:
    """(U, C): times an item's affinity, the probability of that item as a purchase made on purpose.

    The process draws among what is left, so every state's intents are divided by the share of them that
    is left; that share is above 0, because nobody can buy all that a taste leads to (see simulate.py).
    """
    shelves = np.eye(shop.start.shape[1])[shop.category_of]  # (N, C)
    remaining = (shop.affinity * left) @ shelves  # (U, C) share of each category not bought yet
    anew = (shop.start * remaining).sum(axis=1, keepdims=True)  # (U, 1)
    following = belief[:, :-1] / (FOLLOW * (remaining @ shop.follows.T) + (1 - FOLLOW) * anew)  # (U, C)
    starting = (1 - FOLLOW) * following.sum(axis=1, keepdims=True) + belief[:, -1:] / anew  # (U, 1)
    pull: np.ndarray = FOLLOW * (following @ shop.follows) + starting * shop.start
    return pull


def _predict(shop: Shop, belief: np.ndarray, left: np.ndarray) -> np.ndarray:
    wanted = _pull(shop, belief, left)[:, shop.category_of] * shop.affinity * left
    stray = shop.popularity * left
    scores: np.ndarray = (1 - shop.noise) * wanted + shop.noise * stray / stray.sum(axis=1, keepdims=True)
    return scores


def _observe(
    shop: Shop, belief: np.ndarray, left: np.ndarray, items: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take in one purchase of every customer; customers whose sequence has ended (-1) stay as they are."""
    running = np.flatnonzero(items >= 0)
    bought = items[running]
    category = shop.category_of[bought]
    pull = _pull(shop, belief, left)[running, category]
    stray = shop.popularity[bought] / (left[running] @ shop.popularity)
    updated = belief[running] * (shop.noise * stray)[:, None]
    updated[np.arange(len(running)), category] += (1 - shop.noise) * pull * shop.affinity[running, bought]
    belief, left = belief.copy(), left.copy()
    belief[running] = updated / updated.sum(axis=1, keepdims=True)  # above 0: the purchase did happen
    left[running, bought] = False
    return belief, left
