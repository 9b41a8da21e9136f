"""The plots beside `sids_report.json`: use of the codes, error by level, bits by level."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gream.semantic_ids.layout import Names

USAGE_PLOT = "code_usage.png"
LEVELS_PLOT = "levels.png"


def write(folder: Path, report: dict[str, Any], names: Names) -> None:
    """Write both plots."""
    _plot_usage(folder / USAGE_PLOT, names)
    _plot_levels(folder / LEVELS_PLOT, report["levels"])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG without the version of matplotlib in it, so that the same figures are the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _plot_usage(path: Path, names: Names) -> None:
    levels = names.layout.num_codebooks
    figure = Figure(figsize=(6.4, 1.6 * levels + 0.8), layout="constrained")
    for level, axes in enumerate(figure.subplots(levels, 1, squeeze=False)[:, 0]):
        counts = np.bincount(names.codes[:, level], minlength=names.layout.codebook_sizes[level])
        axes.bar(np.arange(len(counts)), np.sort(counts)[::-1], width=1.0)
        axes.set_ylabel(f"items\nlevel {level}")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("codes of the level, most used first")
    figure.suptitle("How evenly the codes are used")
    save(figure, path)


def _plot_levels(path: Path, levels: Sequence[dict[str, Any]]) -> None:
    figure = Figure(figsize=(9.6, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    places = [level["level"] for level in levels]
    errors = [
        np.nan if level["reconstruction_error"] is None else level["reconstruction_error"] for level in levels
    ]
    _line(left, places, errors, "share of the variance left", "What the codes leave unsaid")
    _line(
        middle,
        places,
        [level["neighbours"]["kept"] for level in levels],
        "share in the group",
        "Neighbours kept",
    )
    _line(
        right,
        places,
        [level["next_item"]["bits_without_last"] for level in levels],
        "bits",
        "The next item's code",
    )
    right.plot(places, [level["next_item"]["bits"] for level in levels], marker="s")
    right.legend(["codes before it known", "and the last item"], frameon=False, fontsize="small")
    save(figure, path)


def _line(axes: Axes, places: Sequence[int], values: Sequence[float], label: str, title: str) -> None:
    axes.plot(places, values, marker="o")
    axes.set_xticks(places)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("level")
    axes.set_ylabel(label)
    axes.set_title(title, fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
