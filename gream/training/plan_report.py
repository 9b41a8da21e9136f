"""What `gream sft` is about to train on: a table, a picture and `plan.json` in the model's folder.

All three show the order of training itself, after rows of like length were put together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from gream.evaluation.rendering import save_figure
from gream.language.curriculum import Curriculum, digest
from gream.terminal import text_table

PLAN_FILE = "plan.json"
PLAN_PLOT = "plan.png"

PARTS = 10  # of the order, in the table
_SLICES = 50  # of the order, in the picture; more would draw single batches of one task


def write_plan(folder: Path, plan: Curriculum, schedule: str) -> None:
    """Write `plan.json` (counts, schedule, rows in every tenth, a digest of all rows) and `plan.png`."""
    report: dict[str, Any] = {
        "rows": len(plan.rows),
        "schedule": schedule,
        "tasks": plan.counts,
        "tenths": plan.parts(PARTS),
        "digest": digest(plan.rows),
    }
    (folder / PLAN_FILE).write_text(json.dumps(report, indent=2) + "\n")
    save_figure(plan_figure(plan, schedule), folder / PLAN_PLOT)


def plan_table(plan: Curriculum, schedule: str) -> str:
    """Return the rows of every task in each tenth of the order, and under them its share there."""
    tenths = plan.parts(PARTS)
    totals = np.maximum(np.sum(list(tenths.values()), axis=0), 1)  # guard: fewer rows than tenths
    lines = []
    for task, numbers in tenths.items():
        shares = np.asarray(numbers) / totals
        lines.append([task, *map(_short, numbers)])
        whole = f"{plan.counts[task]:,} of all, {plan.counts[task] / len(plan.rows):.0%}"
        lines.append([whole, *(f"{share:.0%}" for share in shares)])
    header = ["rows and share in tenth", *(f"{tenth + 1}" for tenth in range(PARTS))]
    return text_table(f"{len(plan.rows):,} rows in training order, schedule `{schedule}`", header, lines)


def plan_figure(plan: Curriculum, schedule: str) -> Figure:
    """Draw the share of every task over the progress of training, one on top of the other."""
    slices = min(_SLICES, len(plan.rows))
    rows = np.asarray(list(plan.parts(slices).values()), dtype=float)  # (tasks, slices)
    edges = np.arange(slices + 1) / slices
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    below = np.zeros(slices)
    colours = colormaps["viridis"](np.linspace(0, 1, len(rows)))
    for task, shares, colour in zip(plan.counts, rows / rows.sum(axis=0), colours, strict=True):
        axes.stairs(below + shares, edges, baseline=below, fill=True, label=task, color=colour)
        below = below + shares
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right center", frameon=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("progress of training")
    axes.set_ylabel("share of the rows")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{len(plan.rows):,} rows, schedule {schedule}")
    return figure


def _short(number: int) -> str:
    return f"{number}" if number < 10_000 else f"{number / 1000:.0f}k"
