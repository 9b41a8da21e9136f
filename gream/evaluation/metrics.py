"""Ranking metrics with one target for each user, over the whole catalogue, every user counted.

With a single target, recall@k is the hit rate and the ideal DCG is 1, so that NDCG@k is 1 / log2(rank + 1).
A user with an empty list is a miss, never left out; a place taken by something that is no item stays taken.

Legend: B users, N items, M metrics, G chains of a user, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gream.errors import InputError
from gream.evaluation.resampling import bootstrap_intervals

ItemLists = Sequence[np.ndarray] | Sequence[Sequence[int]]


def ranks_of_targets(lists: ItemLists, targets: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the place of each user's target in the user's list: (B,) float64, 1 is first, inf is absent.

    Args:
        lists: B lists of items, best first, of any length.
        targets: the B items that were bought next.

    Raises:
        ValueError: as many lists as targets are needed.
    """
    ranks = np.full(len(targets), np.inf)  # (B,)
    for user, (items, target) in enumerate(zip(lists, targets, strict=True)):
        places = np.flatnonzero(np.asarray(items) == target)
        if len(places):
            ranks[user] = places[0] + 1
    return ranks


def hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return 1 for each user whose target is among the first k, else 0: (B,) float64."""
    return (ranks <= k).astype(np.float64)


def gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return each user's NDCG@k, 1 / log2(rank + 1) within the first k, else 0: (B,) float64."""
    return np.where(ranks <= k, 1.0 / np.log2(ranks + 1.0), 0.0)  # rank >= 1, so the logarithm is >= 1


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / rank for each user, 0 where the target is absent from the list: (B,) float64."""
    return 1.0 / ranks  # rank >= 1, and 1 / inf is 0


def recall(ranks: np.ndarray, k: int) -> float:
    """Return the share of users whose target is among the first k."""
    return _mean(hits(ranks, k))


def ndcg(ranks: np.ndarray, k: int) -> float:
    """Return the mean NDCG@k."""
    return _mean(gains(ranks, k))


def mrr(ranks: np.ndarray) -> float:
    """Return the mean reciprocal rank within the lists as given."""
    return _mean(reciprocal_ranks(ranks))


def coverage(lists: ItemLists, *, num_items: int, k: int) -> float:
    """Return the share of the catalogue that is recommended to anybody in the first k places."""
    shown = _flat([np.asarray(items)[:k] for items in lists])
    real = shown[(shown >= 0) & (shown < num_items)]
    return len(np.unique(real)) / max(num_items, 1)  # an empty catalogue covers nothing


def gini(lists: ItemLists, *, num_items: int, k: int) -> float:
    """Return how unevenly the first k places fall on the items: 0 if all alike, near 1 if on one item.

    Items that nobody is offered count. Without any place there is nothing uneven, 0.
    """
    shown = _flat([np.asarray(items)[:k] for items in lists])
    counts = np.sort(np.bincount(shown[(shown >= 0) & (shown < num_items)], minlength=num_items))
    if not counts.sum():
        return 0.0
    ranks = np.arange(1, num_items + 1)
    return float(2 * (ranks * counts).sum() / (num_items * counts.sum()) - (num_items + 1) / num_items)


def novelty(lists: ItemLists, purchases: np.ndarray, *, k: int) -> float:
    """Return the mean surprise of the offered items in bits: -log2 of an item's share of purchases.

    Source: Zhou et al. 2010 (PNAS 107:10). Ours: one purchase more is counted for every item, so that an item
    that nobody bought has a share.

    Args:
        lists: B lists of items, best first.
        purchases: (N,) how often each item was bought in training.
        k: length that counts.
    """
    shown = _flat([np.asarray(items)[:k] for items in lists])
    real = shown[(shown >= 0) & (shown < len(purchases))]
    if not len(real):
        return 0.0  # nothing is offered
    return float(-np.log2((purchases[real] + 1) / (purchases.sum() + len(purchases))).mean())


def invalid_rate(lists: ItemLists, *, num_items: int, k: int) -> float:
    """Return the share of the first k places that do not hold a real item that is new in its list.

    Counted as invalid: an id that is no item, a repetition, and a place that a short list leaves empty.
    A catalogue of fewer than k items offers only that many places.
    """
    places = min(k, num_items) * len(lists)
    good = 0
    for items in lists:
        shown = np.asarray(items)[:k]
        good += len(np.unique(shown[(shown >= 0) & (shown < num_items)]))
    return 1.0 - good / places if places else 0.0  # no place, nothing invalid


def pass_at_k(chances: Sequence[Sequence[float]], *, k: int) -> float:
    """Return the chance that one of k of a user's G completions, drawn at random, is right; mean over users.

    One minus the mean, over all subsets of k completions, of the product of their chances to be wrong. With
    chances of 0 and 1 it is the unbiased estimator 1 - C(G - c, k) / C(G, k) for c right ones of G (Chen et
    al. 2021, arXiv 2107.03374, eq. 1); with k = G it is the share of users with a right one. A user with
    fewer than k completions counts all of them.

    Chances between 0 and 1 are ours: where a completion ends in a choice whose probabilities are known, they
    take its place, which gives the same mean over draws with less noise.

    Args:
        chances: for each user the probability of each completion to be right.
        k: number of completions drawn.
    """
    return _mean(np.asarray([1.0 - _all_wrong(of_user, k) for of_user in chances]))


def _all_wrong(chances: Sequence[float], k: int) -> float:
    """Return the mean product of 1 - chance over all subsets of k completions; of all of them, if fewer."""
    means = [1.0] + [0.0] * min(k, len(chances))  # means[j]: over the subsets of j of the first n ones
    for n, chance in enumerate(chances, start=1):
        for j in range(min(n, len(means) - 1), 0, -1):
            means[j] = (means[j] * (n - j) + means[j - 1] * (1.0 - chance) * j) / n
    return means[-1]


def summarise(
    lists: ItemLists,
    targets: Sequence[int] | np.ndarray,
    *,
    num_items: int,
    k: int,
    also_at: Sequence[int] = (),
    seed: int,
    users: Sequence[int] | None = None,
    purchases: np.ndarray | None = None,
) -> dict[str, object]:
    """Return one row of the report: recall and NDCG at 5 and k, MRR, their intervals, and what is offered.

    Keys are `recall@5`, `recall@5_interval` ([lower, upper]) and so on; for k below 5 only k is given.
    `also_at` are further lengths for recall and NDCG; all else is of the first k places. `users` are the
    users of the cases, where one may have several; `purchases` (N,) of the items in training give `novelty`.
    """
    ranks = ranks_of_targets(lists, targets)
    columns: dict[str, np.ndarray] = {}
    for cutoff in sorted({min(5, k), k, *also_at}):
        columns[f"recall@{cutoff}"] = hits(ranks, cutoff)
        columns[f"ndcg@{cutoff}"] = gains(ranks, cutoff)
    columns["mrr"] = np.where(ranks <= k, reciprocal_ranks(ranks), 0.0)
    intervals = bootstrap_intervals(np.stack(list(columns.values()), axis=1), seed=seed, users=users)
    row: dict[str, object] = {}
    for (name, values), bounds in zip(columns.items(), intervals, strict=True):
        row[name] = round(_mean(values), 6)
        row[f"{name}_interval"] = [round(float(bound), 6) for bound in bounds]
    row["invalid_rate"] = invalid_rate(lists, num_items=num_items, k=k)
    row["coverage"] = round(coverage(lists, num_items=num_items, k=k), 6)
    row["gini"] = round(gini(lists, num_items=num_items, k=k), 6)
    if purchases is not None:
        row["novelty"] = round(novelty(lists, purchases, k=k), 6)
    return row


def _mean(values: np.ndarray) -> float:
    if not len(values):
        raise InputError("No user to evaluate: the split is empty; check the data stage's counts.")
    return float(values.mean())


def _flat(lists: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(lists).astype(np.int64) if lists else np.zeros(0, dtype=np.int64)
