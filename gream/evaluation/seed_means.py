"""Means over seeds: the same row of the same evaluation, from runs that differ in their seed alone.

A difference between two rows that is smaller than what the seed alone moves is not a difference, and no
interval over users tells that: it holds one training of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def seed_means(lines: Sequence[Mapping[str, Any]], k: int) -> list[dict[str, Any]]:
    """Return mean, lowest and highest figure of every row that stands there with two seeds or more.

    Args:
        lines: rows of a comparison with `name` (evaluation and row, without the run), `seed` and figures.
        k: length of the lists.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(line["name"], []).append(line)
    means = []
    for name, group in groups.items():
        seeds = [line["seed"] for line in group]
        if len(group) < 2 or len(set(seeds)) != len(seeds):
            continue  # two runs of one seed differ in something else
        found: dict[str, Any] = {"name": name, "seeds": seeds}
        for metric in (f"recall@{k}", f"ndcg@{k}"):
            values = np.array([line[metric] for line in group])
            found[metric] = {"mean": float(values.mean()), "low": values.min(), "high": values.max()}
        means.append(found)
    return means


def seed_cells(means: Sequence[Mapping[str, Any]], k: int) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table of means."""
    header = ["mean over seeds (lowest to highest)", "seeds", f"recall@{k}", f"ndcg@{k}"]
    rows = []
    for mean in means:
        told = [mean[metric] for metric in (f"recall@{k}", f"ndcg@{k}")]
        figures = [f"{one['mean']:.4f} ({one['low']:.4f} to {one['high']:.4f})" for one in told]
        rows.append([mean["name"], ", ".join(map(str, mean["seeds"])), *figures])
    return header, rows
