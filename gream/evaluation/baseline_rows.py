"""The rows of a report that need no model: popularity, item kNN, and SASRec where it was tuned.

Legend: B cases, N items.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from gream.data.store import TEST, TRAIN, VALIDATION, Interactions
from gream.evaluation.baseline_file import Tuned
from gream.evaluation.baselines import ItemKNN, Popularity
from gream.evaluation.exam import Exam, Row

BASELINES = ("popularity", "item_knn", "sasrec")  # names of the rows


def purchases_before(interactions: Interactions, split: int) -> list[np.ndarray]:
    """Return what the baselines count: of every user all purchases that come before those of `split`.

    For the test split that includes validation purchases, which no model has learnt from; it is what the
    literature's kNN figures use and favours the baselines.
    """
    earlier = {VALIDATION: [TRAIN], TEST: [TRAIN, VALIDATION]}[split]
    pairs = zip(interactions.sequences, interactions.splits, strict=True)
    return [items[np.isin(marks, earlier)] for items, marks in pairs]


def purchases_of(interactions: Interactions, num_items: int) -> np.ndarray:
    """Return how often each item was bought in training: (N,) int64."""
    return np.bincount(np.concatenate(interactions.training_sequences()), minlength=num_items)


def baseline_rows(
    exam: Exam, sequences: list[np.ndarray], tuned: Tuned | None = None
) -> tuple[dict[str, Row], dict[str, list[np.ndarray]]]:
    """Return the row and the B lists of every baseline.

    Args:
        exam: the questions.
        sequences: what popularity and item kNN count.
        tuned: the settings of item kNN, and SASRec; None takes kNN's defaults and leaves SASRec out.
    """
    baselines: dict[str, Any] = {
        "popularity": Popularity(sequences, exam.num_items),
        "item_knn": ItemKNN(sequences, exam.num_items, **(tuned.knn if tuned else {})),
    }
    if tuned:
        baselines["sasrec"] = tuned.sasrec
    rows, lists = {}, {}
    for name, fitted in baselines.items():
        started = time.perf_counter()
        lists[name] = fitted.recommend(exam.histories, exam.depth, exclude_seen=exam.exclude_seen)
        rows[name] = exam.row(lists[name], time.perf_counter() - started)
    return rows, lists
