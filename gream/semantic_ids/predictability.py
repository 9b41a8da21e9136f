"""How well each code of the next item can be told from the codes of the last one.

Training transitions are counted in contexts from short to long, whose frequencies are mixed by deleted
interpolation (Jelinek and Mercer 1980): each transition is predicted from all others, which gives the
weights. The validation purchase of every user tests them. Summed over the levels the bits are those that it
takes to name the next item, so names of different shapes compare. Measuring names so is ours; no paper
prescribes it.

Legend: N items, L codebooks, K codes, T transitions, C contexts.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from gream.data.store import VALIDATION, Interactions
from gream.semantic_ids.layout import Names

MAX_TRANSITIONS = 200_000  # training transitions that are counted, spread evenly over the users; ours
EM_STEPS = 30  # iterations that find the weights of the contexts; ours
NUM_WITHOUT_LAST = 3  # the first contexts do not know the last item: chance, any item, the codes before

_Pair = tuple[tuple[int, ...], tuple[int, ...]]  # codes of the last item, codes of the next


def predictability(names: Names, interactions: Interactions) -> list[dict[str, Any]]:
    """Predict every level of the next item's name.

    Returns:
        For each level `bits` (mean surprise when the codes before it and the last item's codes are known)
        and `bits_without_last` (only the codes before it are known), log2 K by chance; and `cases`. Zeros
        where there is nothing to test on.
    """
    codes = [tuple(row) for row in names.codes.tolist()]
    learnt = [(codes[last], codes[following]) for last, following in _transitions(interactions)]
    cases = [(int(c.history[-1]), c.target) for c in interactions.cases(VALIDATION) if len(c.history)]
    tested = [(codes[last], codes[following]) for last, following in cases]
    return [_level(learnt, tested, level, size) for level, size in enumerate(names.layout.codebook_sizes)]


def _level(learnt: list[_Pair], tested: list[_Pair], level: int, size: int) -> dict[str, Any]:
    seen: Counter[tuple[Any, ...]] = Counter()  # transitions of a context, and of a context and a code
    for last, following in learnt:
        for context in _contexts(last, following, level):
            seen[context] += 1
            seen[*context, following[level]] += 1
    known = _frequencies(seen, learnt, level, size, left_out=1)
    asked = _frequencies(seen, tested, level, size, left_out=0)
    bits = {
        name: _surprise(asked[:, :count], _mixture(known[:, :count]))
        for name, count in (("bits", known.shape[1]), ("bits_without_last", NUM_WITHOUT_LAST))
    }
    return {**bits, "cases": len(tested)}


def _contexts(last: tuple[int, ...], following: tuple[int, ...], level: int) -> list[tuple[Any, ...]]:
    """What is known of a code, from little to much: the codes before it, and codes of the last item."""
    before = following[:level]
    return [
        ("any",),
        ("before", before),
        ("first code", before, last[0]),
        ("same depth", before, last[: level + 1]),
        ("item", before, last),
    ]


def _frequencies(
    seen: Counter[tuple[Any, ...]], pairs: list[_Pair], level: int, size: int, *, left_out: int
) -> np.ndarray:
    """How often the code followed each context: (T, C) with chance first, NaN where the context is new.

    Args:
        seen: counts of all learnt transitions.
        pairs: T transitions to predict.
        level: the level of the code.
        size: K of the level.
        left_out: 1 if the transition itself was counted and must not predict itself.
    """
    rows = []
    for last, following in pairs:
        row = [1 / size]
        for context in _contexts(last, following, level):
            times, total = seen[*context, following[level]] - left_out, seen[context] - left_out
            row.append(times / total if total > 0 else np.nan)
        rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(rows), 6)


def _mixture(frequencies: np.ndarray) -> np.ndarray:
    """Weights (C,) of the contexts that make learnt transitions likeliest, by expectation maximisation."""
    weights = np.full(frequencies.shape[1], 1 / frequencies.shape[1])
    for _ in range(EM_STEPS if len(frequencies) else 0):
        parts = _parts(frequencies, weights)
        weights = (parts / parts.sum(axis=1, keepdims=True)).mean(axis=0)  # chance keeps every sum above 0
    return weights


def _parts(frequencies: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted frequencies (T, C); the weights of contexts that are new go to the others."""
    shares = np.where(np.isnan(frequencies), 0.0, weights)
    shares /= shares.sum(axis=1, keepdims=True)
    parts: np.ndarray = shares * np.nan_to_num(frequencies)
    return parts


def _surprise(frequencies: np.ndarray, weights: np.ndarray) -> float:
    """Mean bits of the transitions (T, C)."""
    if not len(frequencies):
        return 0.0
    # Chance has at least a little weight, so that nothing is impossible.
    weights = np.maximum(weights, 1e-6)
    return float(-np.log2(_parts(frequencies, weights).sum(axis=1)).mean())


def _transitions(interactions: Interactions) -> list[tuple[int, int]]:
    """Pairs of neighbouring training purchases, spread evenly over the users if there are too many."""
    sequences = [sequence for sequence in interactions.training_sequences() if len(sequence) > 1]
    if not sequences:
        return []
    last = np.concatenate([sequence[:-1] for sequence in sequences])
    following = np.concatenate([sequence[1:] for sequence in sequences])
    step = -(-len(last) // MAX_TRANSITIONS)
    return list(zip(last[::step].tolist(), following[::step].tolist(), strict=True))
