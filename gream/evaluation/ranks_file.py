"""The place of every next purchase in every row's list, kept beside a report: what runs are compared by.

Legend: B cases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.evaluation.exam import Exam

RANKS_FILE = "ranks.parquet"
_ROW = "rank: "  # before the name of a row, in the name of its column
KEYS = ("user_id", "position", "target")  # what makes two cases of different runs the same question


def save_ranks(
    folder: Path,
    exam: Exam,
    ranks: Mapping[str, np.ndarray],
    catalogue: Catalogue,
    interactions: Interactions,
) -> None:
    """Write a line for each case: user, position of the purchase, target, and its rank in each row."""
    columns: dict[str, object] = {
        "user_id": [interactions.user_ids[user] for user in exam.users],
        "position": [len(history) for history in exam.histories],
        "target": [catalogue.item_ids[target] for target in exam.targets],
    }
    for name, places in ranks.items():
        columns[_ROW + name] = pl.Series([int(p) if np.isfinite(p) else None for p in places], dtype=pl.Int32)
    pl.DataFrame(columns).write_parquet(folder / RANKS_FILE)


def load_ranks(folder: Path) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """Read the cases, and the (B,) ranks of every row: 1 is first, inf is absent.

    Raises:
        InputError: the folder holds none.
    """
    file = folder / RANKS_FILE
    if not file.is_file():
        raise InputError(f"{folder} holds no {RANKS_FILE}; run `gream evaluate` again with this gream.")
    frame = pl.read_parquet(file)
    rows = {
        name.removeprefix(_ROW): frame[name].cast(pl.Float64).fill_null(float("inf")).to_numpy()
        for name in frame.columns
        if name.startswith(_ROW)
    }
    return frame.select(KEYS), rows
