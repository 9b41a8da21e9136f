"""The log of an SRPO run as series of figures, apart by mode.

One batch holds one mode, and its entry in the log says which by the reward that it has (`reward_direct` or
`reward_reasoning`); a further pass on the same batch logs no reward and belongs to the mode before it. Short
direct answers and long chains differ in nearly every figure, so that a mean over both says more about their
mixture than about training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

MODES = ("direct", "reasoning")
ALL = ""  # in place of a mode: the entries of every mode, and what has none, as measurements
REWARD = "reward"
WINDOW = 4  # steps that a figure is averaged over at the start and at the end of a run so far

Entry = Mapping[str, Any]  # of the trainer's log, with its `step`


class RunLog:
    """Series of (step, value) by key and mode, in the order of the log."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._points: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
        self._mode = ALL
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        """Add the entry of one step or one measurement."""
        found = [mode for mode in MODES if f"reward_{mode}" in entry]
        if found:
            self._mode = found[0] if len(found) == 1 else ALL
        step = int(entry["step"])
        for key, value in entry.items():
            if value is None or key == "step":  # the trainer's word for a figure without any value
                continue
            self._points[key, ALL].append((step, float(value)))
            if "loss" in entry and self._mode != ALL:
                self._points[key, self._mode].append((step, float(value)))

    @property
    def keys(self) -> list[str]:
        """Keys that have a value, sorted."""
        return sorted({key for key, _ in self._points})

    def modes(self, key: str) -> list[str]:
        """Modes whose entries have the key; `ALL` alone where no entry tells its mode."""
        return [mode for mode in MODES if self._points.get((key, mode))] or [ALL]

    def steps(self, key: str, mode: str = ALL) -> np.ndarray:
        """Return the steps at which the key was logged: (n,) int64."""
        return np.asarray([step for step, _ in self._points.get((key, mode), [])], dtype=np.int64)

    def values(self, key: str, mode: str = ALL) -> np.ndarray:
        """Return the values of the key: (n,) float64."""
        return np.asarray([value for _, value in self._points.get((key, mode), [])], dtype=np.float64)

    def recent(self, key: str, count: int, mode: str = ALL) -> np.ndarray:
        """Return the last `count` values, or all there are: (<= count,) float64."""
        return np.asarray([value for _, value in self._points.get((key, mode), [])[-count:]])

    def start_and_end(self, key: str, mode: str = ALL) -> tuple[float, float] | None:
        """Return the means of the first and the last `WINDOW` values; None while those overlap."""
        points = self._points.get((key, mode), [])
        if len(points) < 2 * WINDOW:
            return None
        ends = (points[:WINDOW], points[-WINDOW:])
        first, last = (float(np.mean([value for _, value in part])) for part in ends)
        return first, last
