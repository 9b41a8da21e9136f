"""For whom a row works: cases by the length of their history, and by how popular the next purchase is.

The groups and their bounds are ours; they are counted on training purchases alone.

Legend: B cases, N items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gream.evaluation import metrics
from gream.evaluation.differences import all_differences
from gream.evaluation.exam import Exam

LENGTHS = {"1-4": 1, "5-9": 5, "10-19": 10, "20 and more": 20}  # purchases of the history, by the least
HEAD, MIDDLE, TAIL, UNSEEN = "head", "middle", "tail", "unseen"
POPULARITIES = {
    HEAD: "the items bought most, half of all purchases",
    MIDDLE: "the next items, three tenths of purchases",
    TAIL: "all other items that were bought",
    UNSEEN: "items that nobody bought in training",
}
_HEAD_SHARE, _MIDDLE_SHARE = 0.5, 0.8

Strata = dict[str, dict[str, Any]]


def history_groups(lengths: Sequence[int]) -> np.ndarray:
    """Name the group of each case by the length of its history: (B,) keys of `LENGTHS`."""
    places = np.searchsorted(list(LENGTHS.values()), np.asarray(lengths), side="right") - 1
    return np.asarray(list(LENGTHS))[places]


def popularity_groups(purchases: np.ndarray) -> np.ndarray:
    """Name the group of each item: (N,) keys of `POPULARITIES`.

    Items are taken from the most bought to the least, equal ones by lower id, until their purchases reach
    half of all, then eight tenths; the item that reaches a bound still belongs to the group before it.
    """
    order = np.argsort(-purchases, kind="stable")
    before = np.cumsum(purchases[order]) - purchases[order]  # purchases of the items ahead of each
    total = max(int(purchases.sum()), 1)
    groups = np.empty(len(purchases), dtype="<U6")
    groups[order] = np.where(
        before < _HEAD_SHARE * total, HEAD, np.where(before < _MIDDLE_SHARE * total, MIDDLE, TAIL)
    )
    groups[purchases == 0] = UNSEEN
    return groups


def stratified(ranks: Mapping[str, np.ndarray], groups: np.ndarray, names: Sequence[str], k: int) -> Strata:
    """Return the number of cases of each group, and recall@k and NDCG@k of every row; no empty groups.

    Args:
        ranks: (B,) places of the targets in each row's lists, by the row's name.
        groups: (B,) the group of each case.
        names: the groups, in the order of the report.
        k: length of the lists.
    """
    found: Strata = {}
    for name in names:
        chosen = groups == name
        if chosen.any():
            rows = {
                row: {
                    f"recall@{k}": round(metrics.recall(places[chosen], k), 6),
                    f"ndcg@{k}": round(metrics.ndcg(places[chosen], k), 6),
                }
                for row, places in ranks.items()
            }
            found[name] = {"cases": int(chosen.sum()), "rows": rows}
    return found


def close_figures(exam: Exam, ranks: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return for whom the rows work, and which differences between them are more than chance."""
    assert exam.purchases is not None
    lengths = history_groups([len(history) for history in exam.histories])
    popularities = popularity_groups(exam.purchases)[exam.targets]
    return {
        "by_history": stratified(ranks, lengths, list(LENGTHS), exam.k),
        "by_popularity": stratified(ranks, popularities, list(POPULARITIES), exam.k),
        "differences": all_differences(ranks, k=exam.k, seed=exam.seed, users=exam.users),
    }
