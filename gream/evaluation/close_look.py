"""The parts of report.md behind the main table: what is offered, for whom it works, what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gream.evaluation.baseline_rows import BASELINES
from gream.evaluation.differences import shown
from gream.evaluation.rendering import markdown_table
from gream.evaluation.strata import LENGTHS, POPULARITIES

_OFFERED = {
    "coverage": "share of the catalogue that is offered to somebody",
    "gini": "how unevenly offers fall on the items, 0 to 1",
    "novelty": "bits of surprise of an offered item",
}


def close_look(report: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return the parts of report.md.

    Args:
        report: what report.json holds.
        labels: the rows that it has, and what people call each of them.
    """
    k = report["k"]
    told = ", ".join(f"{name}: {what}" for name, what in _OFFERED.items())
    offered = [[label, *(f"{report[row][name]:.4g}" for name in _OFFERED)] for row, label in labels.items()]
    parts = ["## What is offered", markdown_table(["", *_OFFERED], offered), told[0].upper() + told[1:] + "."]
    lengths = {name: f"{name} purchases" for name in LENGTHS}
    parts += _groups(report["by_history"], lengths, labels, k, "By length of the history")
    told_of = {name: f"{name} ({what})" for name, what in POPULARITIES.items()}
    parts += _groups(report["by_popularity"], told_of, labels, k, "By popularity of what was bought next")
    parts += _differences(report, labels, k)
    return parts


def _groups(
    found: Mapping[str, Any], told: Mapping[str, str], labels: Mapping[str, str], k: int, title: str
) -> list[str]:
    """Return one table: a line for each group, recall@k / NDCG@k of every row."""
    lines = [
        [
            told[name],
            f"{group['cases']:,}",
            *(f"{group['rows'][r][f'recall@{k}']:.4f} / {group['rows'][r][f'ndcg@{k}']:.4f}" for r in labels),
        ]
        for name, group in found.items()
    ]
    header = ["", "cases", *labels.values()]
    return [f"## {title}", f"recall@{k} / NDCG@{k}:", markdown_table(header, lines)]


def _differences(report: Mapping[str, Any], labels: Mapping[str, str], k: int) -> list[str]:
    """Return every row of a model less every other row, popularity left out: nobody doubts that one."""
    lines = [
        [
            f"{labels[one['row']]} - {labels[one['against']]}",
            shown(one, f"recall@{k}"),
            shown(one, f"ndcg@{k}"),
        ]
        for one in report["differences"]
        if one["row"] not in BASELINES and one["against"] != "popularity"
    ]
    return [
        "## Differences",
        f"Differences with their 95 % intervals by paired bootstrap over {report['users']:,} users; a star "
        "where the interval does not hold zero.",
        markdown_table(["", f"recall@{k}", f"ndcg@{k}"], lines),
    ]
