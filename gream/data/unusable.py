"""Rows that could not be used: how many of them for each reason, and the first three to look at.

A reader never drops a row in silence and never stops at the first bad one either: real files hold a few. A
file of which many rows cannot be used was probably misread, so that is an error, unless the recipe allows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gream.errors import InputError

NUM_SHOWN = 3


@dataclass
class Unusable:
    """What a reader could not use; `rows` counts every row that it looked at, good and bad."""

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)  # reason -> rows
    shown: dict[str, list[str]] = field(default_factory=dict)  # reason -> first places, "file, line 7: ..."

    def add(self, reason: str, places: Sequence[str], count: int | None = None) -> None:
        """Count rows that cannot be used.

        Args:
            reason: what is wrong with them, in few words and the same for all: "no item id".
            places: where they are, at least the first three of them.
            count: how many they are, if more than `places`.
        """
        if count is None:
            count = len(places)
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            shown = self.shown.setdefault(reason, [])
            shown += places[: NUM_SHOWN - len(shown)]

    @property
    def total(self) -> int:
        """Rows that could not be used."""
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """Tell every reason with its count and the first places, one line a reason."""
        return [
            f"{count:,} of {self.rows:,} rows left out, {reason}: {'; '.join(self.shown[reason])}"
            for reason, count in self.counts.items()
        ]

    def check(self, limit: float, setting: str) -> None:
        """Refuse a source with too many bad rows.

        Args:
            limit: largest share of rows that may be unusable.
            setting: name of the setting that holds the limit, for the message.

        Raises:
            InputError: the share is larger.
        """
        if self.total > limit * self.rows:
            raise InputError(
                f"{self.total:,} of {self.rows:,} rows cannot be used, but at most {limit:.0%} may be "
                f"({'; '.join(self.lines())}); correct the files or the recipe, or raise `{setting}`."
            )
