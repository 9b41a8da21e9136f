"""`gream evaluate --compare RUN RUN ...`: the rows of several evaluations in one table and one plot.

Where two evaluations asked the same questions, the difference of any two rows is given with its interval by
paired bootstrap over users. Where they did not (another split, other users, ties of a day in another order)
the rows stand beside each other and no difference is told. Runs of several seeds get a table of means.

Legend: B cases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from gream.errors import InputError
from gream.evaluation.baseline_rows import BASELINES
from gream.evaluation.differences import difference, shown
from gream.evaluation.ranks_file import load_ranks
from gream.evaluation.rendering import escape_markdown, markdown_table, save_figure
from gream.evaluation.report import FIGURES_FILE, LABELS
from gream.evaluation.seed_means import seed_cells, seed_means
from gream.terminal import text_table

TABLE_FILE, PLOT_FILE, FIGURES = "comparison.md", "comparison.png", "comparison.json"


@dataclass(frozen=True, eq=False)
class _Entry:
    """One row of one evaluation."""

    title: str
    name: str  # of evaluation and row, the same in runs of several seeds
    seed: int
    row: str
    figures: Mapping[str, Any]
    cases: pl.DataFrame
    ranks: np.ndarray  # (B,)


def compare_runs(places: Sequence[Path], folder: Path) -> str:
    """Compare evaluations, write table, figures and plot into `folder`, return the table for a terminal.

    Args:
        places: folders of runs with one evaluation each, or of evaluations.
        folder: where to write; made if it is not there.

    Raises:
        InputError: fewer than two places, one without an evaluation, or lists of different lengths.
    """
    if len(places) < 2:
        raise InputError("`gream evaluate --compare` needs two or more folders of runs or evaluations.")
    evaluations = [evaluation_of(place) for place in places]
    reports = [json.loads((place / FIGURES_FILE).read_text(encoding="utf-8")) for place in evaluations]
    lengths = sorted({report["k"] for report in reports})
    if len(lengths) > 1:
        raise InputError(
            f"These evaluations have lists of {' and '.join(map(str, lengths))} items; evaluate with one `k`."
        )
    k, seed = lengths[0], reports[0]["seed"]
    entries = _entries(evaluations, reports)
    against = strongest(entries, k)
    found = [_line(entry, against, k, seed) for entry in entries]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES).write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _plot(folder / PLOT_FILE, found, k)
    header, cells = _cells(found, against, k)
    note = _note(entries, against)
    short = [0, header.index(f"recall@{k}"), header.index(f"ndcg@{k}"), len(header) - 1]  # of 100 columns
    told = text_table("Comparison", [header[i] for i in short], [[row[i] for i in short] for row in cells])
    escaped = [[escape_markdown(first), *rest] for first, *rest in cells]
    parts = ["# Comparison", markdown_table(header, escaped), note]
    if means := seed_means(found, k):
        of_seeds, rows = seed_cells(means, k)
        note += "\n\n" + text_table("Seeds", of_seeds, rows)
        parts.append(markdown_table(of_seeds, [[escape_markdown(row[0]), *row[1:]] for row in rows]))
    text = "\n\n".join([*parts, f"![]({PLOT_FILE})"])
    (folder / TABLE_FILE).write_text(text + "\n", encoding="utf-8")
    return f"{told}{note}\nTable and plot: {folder / TABLE_FILE}"


def evaluation_of(place: Path) -> Path:
    """Return the one folder with an evaluation: the place itself, or one inside it.

    Raises:
        InputError: there is none, or more than one.
    """
    if (place / FIGURES_FILE).is_file():
        return place
    inside = sorted(file.parent for file in place.glob(f"*/{FIGURES_FILE}"))
    if len(inside) != 1:
        names = ", ".join(folder.name for folder in inside) or "none"
        raise InputError(
            f"{place} should hold one evaluation and holds {len(inside)} ({names}); give the folder of one, "
            "which `gream evaluate` wrote."
        )
    return inside[0]


def strongest(entries: Sequence[_Entry], k: int) -> _Entry:
    """Return the baseline with the best NDCG@k, which the rest is compared with; else the first row."""
    baselines = [entry for entry in entries if entry.row in BASELINES]
    return max(baselines or entries[:1], key=lambda entry: entry.figures[f"ndcg@{k}"])


def _entries(evaluations: Sequence[Path], reports: Sequence[Mapping[str, Any]]) -> list[_Entry]:
    """Return all rows of all evaluations; a baseline that gave the same ranks before stands there once."""
    entries: list[_Entry] = []
    for title, place, report in zip(_titles(evaluations), evaluations, reports, strict=True):
        cases, of_rows = load_ranks(place)
        for row, ranks in of_rows.items():
            name = f"{place.resolve().name}: {LABELS[row]}"
            told = f"{title}: {LABELS[row]}"
            entry = _Entry(told, name, report["seed"], row, report[row], cases, ranks)
            if row in BASELINES and any(_same(entry, before) for before in entries):
                continue
            entries.append(entry)
    return entries


def _same(one: _Entry, other: _Entry) -> bool:
    return one.row == other.row and _paired(one, other) and np.array_equal(one.ranks, other.ranks)


def _paired(one: _Entry, other: _Entry) -> bool:
    """Whether both rows answered the same questions in the same order."""
    return one.cases.equals(other.cases)


def _line(entry: _Entry, against: _Entry, k: int, seed: int) -> dict[str, Any]:
    names = [f"{metric}@{cutoff}" for cutoff in sorted({min(5, k), k}) for metric in ("recall", "ndcg")]
    figures = {name: entry.figures[name] for name in names}
    figures |= {f"{name}_interval": entry.figures[f"{name}_interval"] for name in names}
    line: dict[str, Any] = {"title": entry.title, "name": entry.name, "seed": entry.seed, "row": entry.row}
    line |= {"cases": len(entry.ranks), "seconds_per_user": entry.figures["seconds_per_user"], **figures}
    if entry is not against and _paired(entry, against):
        users = entry.cases["user_id"].to_list()
        line["difference"] = difference(entry.ranks, against.ranks, k=k, seed=seed, users=users)
    return line


def _cells(found: Sequence[Mapping[str, Any]], against: _Entry, k: int) -> tuple[list[str], list[list[str]]]:
    names = [name for name in found[0] if name.startswith(("recall@", "ndcg@")) and "_" not in name]
    header = ["", *names, "ms a user", f"recall@{k} less strongest", f"ndcg@{k} less strongest"]
    rows = []
    for line in found:
        told = [
            shown(line["difference"], f"{m}@{k}") if "difference" in line else "" for m in ("recall", "ndcg")
        ]
        cost = f"{1000 * line['seconds_per_user']:.3g}"
        rows.append([line["title"], *(f"{line[name]:.4f}" for name in names), cost, *told])
    return header, rows


def _note(entries: Sequence[_Entry], against: _Entry) -> str:
    text = (
        f"Differences are to {against.title}, with 95 % intervals by paired bootstrap over users; a star "
        "where the interval does not hold zero."
    )
    if all(_paired(entry, against) for entry in entries):
        return text
    return text + " Rows without one were asked about other purchases, so that no user can be compared."


def _titles(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that tell the evaluations apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        titles = ["/".join(part[-length:]) for part in parts]
        if len(set(titles)) == len(titles):
            return titles
    raise InputError("Two of the folders are the same; give each evaluation once.")


def _plot(path: Path, found: Sequence[Mapping[str, Any]], k: int) -> None:
    """Draw recall@k and NDCG@k of every row with 95 % intervals."""
    figure = Figure(figsize=(10, 0.4 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = [line["title"].replace("$", r"\$") for line in found]  # a dollar would begin mathematics
    colours = ["#999999" if line["row"] in BASELINES else "#1f77b4" for line in found]
    for axis, name in zip(axes, (f"recall@{k}", f"ndcg@{k}"), strict=True):
        values = np.array([line[name] for line in found])
        bounds = np.array([line[f"{name}_interval"] for line in found])
        errors = np.maximum([values - bounds[:, 0], bounds[:, 1] - values], 0.0)
        axis.barh(labels, values, xerr=errors, color=colours, capsize=3, height=0.6)
        axis.set_xlabel(f"{name}, 95 % interval over users")
    axes[0].invert_yaxis()
    save_figure(figure, path)
