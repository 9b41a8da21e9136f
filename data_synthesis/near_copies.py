"""Traces that say what an earlier trace says, found by MinHash (A. Broder 1997) in time linear in the traces.

A trace is the set of its items, cited and kept, and of all runs of three words of its text. Two traces are
near-copies when more than `_ALIKE` of what either holds is held by both. Short texts about other items, as
the rule-based teacher writes them, are none; the same long text under another history is one. MinHash only
finds whom to compare with: the share itself is counted. No random number differs between two runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from zlib import crc32

import numpy as np

from data_synthesis.words import words_of
from gream.language.reasoning import Trace

_ALIKE = 0.6
_RUN = 3  # words
# With 32 bands of 3 hashes a pair that shares .6 is compared with probability .9996.
_BANDS, _ROWS = 32, 3


def near_copies(traces: Sequence[Trace]) -> list[int | None]:
    """For each trace the place of the earlier trace that it is a near-copy of, or None.

    Only traces that are no copies themselves are compared with, so that the first of many alike is left.
    """
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    sets: list[np.ndarray] = []
    found: list[int | None] = []
    for place, trace in enumerate(traces):
        parts = _parts(trace)
        sets.append(parts)
        keys = list(enumerate(row.tobytes() for row in _signature(parts)))
        candidates = sorted({other for key in keys for other in buckets.get(key, ())})
        original = next((other for other in candidates if _shared(sets[other], parts) > _ALIKE), None)
        found.append(original)
        if original is None:
            for key in keys:
                buckets[key].append(place)
        else:
            sets[place] = parts[:0]  # never compared with again
    return found


def _parts(trace: Trace) -> np.ndarray:
    """Hashes of everything that a trace is made of, sorted, each once, uint32."""
    parts = {f"cited {item}" for item in trace.evidence} | {f"kept {item}" for item in trace.rewritten}
    for text in (*trace.kinds, trace.preference, trace.intent, trace.recommendation):
        words = words_of(text)
        parts.update(" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1)))
    return np.unique(np.asarray([crc32(part.encode()) for part in parts], dtype=np.uint32))


def _signature(parts: np.ndarray) -> np.ndarray:
    """(_BANDS, _ROWS) smallest hash of the parts under each of as many fixed hash functions."""
    with np.errstate(over="ignore"):
        hashed = (parts.astype(np.uint64)[:, None] * _FACTORS + _SHIFTS) >> np.uint64(32)
    smallest: np.ndarray = hashed.min(axis=0).astype(np.uint32).reshape(_BANDS, _ROWS)
    return smallest


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


_FACTORS, _SHIFTS = np.random.default_rng(1997).integers(
    2**64, size=(2, _BANDS * _ROWS), dtype=np.uint64
) | np.uint64(1)
