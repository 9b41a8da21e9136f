"""Plot of the evidence for the weight of the collaborative part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gream.semantic_ids.evidence import CUTOFF


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw recall against the weight; the recipe's weight and the best one are marked."""
    weights = [row["weight"] for row in report["rows"]]
    recalls = [row[f"recall@{CUTOFF}"] for row in report["rows"]]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(weights, recalls, marker="o")
    for name, weight, style in (
        ("this recipe", report["weight"], "--"),
        ("best", report["best_weight"], ":"),
    ):
        if weight is not None:
            axes.axvline(weight, linestyle=style, color="0.4", label=f"{name}: {weight:.3g}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    axes.set_xlim(-0.05, 1.05)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("weight of the collaborative part (0: text only)")
    axes.set_ylabel(f"recall@{CUTOFF} on validation")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("How well nearest neighbours predict the next item")
    # Without the version of matplotlib, so that the same figures are the same bytes.
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
