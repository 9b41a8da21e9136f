"""How good the names are: figures and plots of the stage `sids`.

Legend: N items, D embedding, L codebooks (the disambiguation level included), K codes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gream.semantic_ids.layout import Names
from gream.semantic_ids.residual import residuals_after

REPORT_FILE = "sids_report.json"
USAGE_PLOT = "code_usage.png"
ERROR_PLOT = "reconstruction_error.png"


def figures(
    vectors: np.ndarray,
    first_codes: np.ndarray,
    names: Names,
    codebooks: Sequence[np.ndarray],
    categories: Sequence[tuple[str, ...]],
) -> dict[str, Any]:
    """Measure names.

    Args:
        vectors: (N, D) what was quantised.
        first_codes: (N, quantised levels) codes before collisions were resolved.
        names: the final names.
        codebooks: (K, D) centroids of the quantised levels.
        categories: path of every item, coarse to fine; () where unknown.

    Returns:
        What `sids_report.json` holds. The reconstruction error is the mean squared distance after a level,
        as a share of the mean squared distance to the centre of all vectors; null if there is none.
    """
    quantised = names.codes[:, : len(codebooks)]
    before = _sharing(first_codes)
    levels = [
        {
            "level": level,
            **_use(names.codes[:, level], size),
            **_prefixes(names.codes[:, : level + 1]),
            "category_purity": category_purity(names.codes[:, : level + 1], categories),
            "reconstruction_error": (
                reconstruction_error(vectors, quantised, codebooks[: level + 1])
                if level < len(codebooks)
                else None
            ),
        }
        for level, size in enumerate(names.layout.codebook_sizes)
    ]
    return {
        "items": len(names),
        "codebook_sizes": list(names.layout.codebook_sizes),
        "disambiguation": names.layout.disambiguation,
        "collisions": {
            "items_before": before,
            "rate_before": before / max(len(names), 1),
            "items_renamed": int((quantised != first_codes).any(axis=1).sum()),
            "rate_after_renaming": _sharing(quantised) / max(len(names), 1),
            "rate_after": _sharing(names.codes) / max(len(names), 1),
        },
        "category_purity_without_names": category_purity(names.codes[:, :0], categories),
        "levels": levels,
    }


def write(folder: Path, report: dict[str, Any], names: Names) -> None:
    """Write the report and its two plots."""
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
    _plot_usage(folder / USAGE_PLOT, names)
    errors = [level["reconstruction_error"] for level in report["levels"]]
    _plot_error(folder / ERROR_PLOT, [error for error in errors if error is not None])


def category_purity(prefixes: np.ndarray, categories: Sequence[tuple[str, ...]]) -> float | None:
    """Share of items whose finest category is the most frequent one among the items with their prefix.

    Items without a category do not count; None if there is no other. With a prefix of no codes it is the
    share of the largest category, which says what chance reaches.

    Args:
        prefixes: (N, any number of codes).
        categories: path of every item.
    """
    groups: dict[tuple[int, ...], Counter[tuple[str, ...]]] = {}
    for prefix, path in zip(prefixes.tolist(), categories, strict=True):
        if path:
            groups.setdefault(tuple(prefix), Counter())[path] += 1
    total = sum(count.total() for count in groups.values())
    if total == 0:
        return None
    return sum(max(count.values()) for count in groups.values()) / total


def reconstruction_error(
    vectors: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]
) -> float | None:
    """Mean squared distance of vectors to the sum of their centroids, as a share of their variance."""
    variance = float(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1).mean(dtype=np.float64))
    if variance == 0:  # all items are the same; there is nothing to reconstruct
        return None
    left = residuals_after(vectors, codes, codebooks)
    return float((left**2).sum(axis=1).mean(dtype=np.float64)) / variance


def _use(codes: np.ndarray, size: int) -> dict[str, Any]:
    """Say how many codes of a codebook are in use, and how evenly: entropy in bits, and its largest value."""
    counts = np.bincount(codes, minlength=size)
    shares = counts[counts > 0] / max(len(codes), 1)
    return {
        "codes": size,
        "codes_used": int((counts > 0).sum()),
        "largest_code": int(counts.max()),
        "entropy_bits": float(-(shares * np.log2(shares)).sum()),
        "entropy_bits_at_most": float(np.log2(size)),
    }


def _prefixes(codes: np.ndarray) -> dict[str, Any]:
    """Say how many prefixes there are, and how many items they hold."""
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    return {
        "prefixes": len(counts),
        "items_per_prefix_mean": float(counts.mean()),
        "items_per_prefix_median": float(np.median(counts)),
        "items_per_prefix_max": int(counts.max()),
    }


def _sharing(codes: np.ndarray) -> int:
    """Count the items whose row of codes is another item's too."""
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    return int(counts[counts > 1].sum())


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
    _save(figure, path)


def _plot_error(path: Path, errors: Sequence[float]) -> None:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(errors) + 1), errors, marker="o")
    axes.set_xticks(range(1, len(errors) + 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("codes read")
    axes.set_ylabel("share of the variance left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("What a name leaves unsaid of the embedding")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG without the version of matplotlib in it, so that the same figures are the same bytes."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110, metadata={"Software": None})
