"""Show a report to people: report.md with plots and examples, and the same as text for a terminal.

Text from data and models is escaped as `gream.evaluation.rendering` and `gream.terminal` say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.text import Text

from gream.evaluation.close_look import close_look
from gream.evaluation.examples import Examples
from gream.evaluation.reasoning_report import chain_steps, reasoning_lines, reasoning_markdown
from gream.evaluation.rendering import (
    escape_markdown,
    markdown_table,
    save_figure,
    shown_title,
)
from gream.terminal import plain_line, rendered, text_table

FIGURES_FILE, EXAMPLES_FILE, REPORT_FILE = "report.json", "examples.json", "report.md"
RECALL_PLOT, COST_PLOT = "recall.png", "cost.png"
LABELS = {
    "popularity": "popularity",
    "item_knn": "item kNN",
    "sasrec": "SASRec",
    "direct_before_srpo": "direct, after alignment",
    "direct": "direct",
    "prm": "direct with the scorer",
    "reasoning": "reasoning",
}
_COLOURS = {"popularity": "#999999", "item_knn": "#666666", "sasrec": "#333333", "reasoning": "#d95f02"}
_MODEL_COLOUR = "#1f77b4"
_MARKERS = "osPv^D*"  # one for each of the labels


def write_report(folder: Path, report: Mapping[str, Any], examples: Examples) -> None:
    """Write report.json, examples.json, report.md and its two plots into `folder`."""
    for name, content in ((FIGURES_FILE, report), (EXAMPLES_FILE, examples)):
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    _plot_recall(folder / RECALL_PLOT, report)
    _plot_cost(folder / COST_PLOT, report)
    (folder / REPORT_FILE).write_text(_markdown(report, examples), encoding="utf-8")


def format_evaluation(folder: Path) -> str:
    """Return what a finished evaluation shows in the terminal: table, examples, and where the report is."""
    report, examples = (json.loads((folder / f).read_text("utf-8")) for f in (FIGURES_FILE, EXAMPLES_FILE))
    told = format_examples(examples["customers"])
    parts = [format_table(report), *reasoning_lines(report), told]
    return "\n".join([*parts, f"Report with plots: {folder / REPORT_FILE}"])


def format_table(report: Mapping[str, Any]) -> str:
    """Return the main figures of all rows as text for a terminal of 100 columns; report.md has the rest."""
    k = report["k"]
    left_out = {f"ndcg@{min(5, k)}", "mrr", "coverage"} - {f"ndcg@{k}"}
    left_out |= {f"{metric}@{also}" for also in _also_at(report) for metric in ("recall", "ndcg")}
    header, rows = _cells(report)
    shown = [position for position, name in enumerate(header) if name not in left_out]
    cells = [[row[position] for position in shown] for row in rows]
    return text_table(_summary(report), [header[position] for position in shown], cells)


def format_examples(examples: Sequence[Mapping[str, Any]], *, length: int = 5) -> str:
    """Return example customers as text for a terminal: history, chain, list, and what was bought next.

    Args:
        examples: the customers of `examples.json`.
        length: number of recommendations to show of each list.
    """
    return "\n".join(rendered(Text("\n".join(_example_lines(e, length)))) for e in examples)


def _summary(report: Mapping[str, Any]) -> str:
    users = f"{report['users']:,} of {report['users_in_split']:,} users"
    text = f"{report['split']} split, {users}, {report['items']:,} items ranked, seed {report['seed']}"
    if report["exclude_seen"]:
        text += ", bought items left out"
    best = _best_recall(report)
    return text if best is None else f"{text}, best reachable recall@{report['k']} {best:.4f}"


def _best_recall(report: Mapping[str, Any]) -> float | None:
    """Return the best recall@k that anyone can reach; known for a simulated shop only."""
    best: float | None = report.get("best_reachable", {}).get(f"recall@{report['k']}")
    return best


def _labels(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the label of every row of the report; `direct` says after what where it can be confused."""
    labels = dict(LABELS)
    if "direct_before_srpo" in report:
        labels["direct"] = "direct, after SRPO"
    return {name: label for name, label in labels.items() if name in report}


def _rows(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the rows that the report has, by label."""
    return {label: report[name] for name, label in _labels(report).items()}


def _cells(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells of the main table."""
    k = report["k"]
    cutoffs = sorted({min(5, k), k, *_also_at(report)})
    shown = [f"{metric}@{cutoff}" for cutoff in cutoffs for metric in ("recall", "ndcg")]
    shown += ["mrr", "coverage", "invalid_rate"]
    header = ["", *shown, f"95 % of @{k}", "users/s"]
    rows = []
    for label, row in _rows(report).items():
        low, high = row[f"recall@{k}_interval"]
        figures = [f"{row[name]:.4f}" for name in shown]
        rows.append([label, *figures, f"{low:.4f}-{high:.4f}", _rate(row["users_per_second"])])
    return header, rows


def _also_at(report: Mapping[str, Any]) -> set[int]:
    """Return the lengths of lists that were asked for beyond the usual ones."""
    return set(report.get("also_at", ())) - {min(5, report["k"]), report["k"]}


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _markdown(report: Mapping[str, Any], examples: Examples) -> str:
    header, rows = _cells(report)
    parts = ["# Evaluation", _summary(report) + ".", markdown_table(header, rows)]
    parts.append(
        f"Lists have {report['k']} items; intervals are 95 % by bootstrap over users. Popularity and item "
        "kNN count all purchases before the predicted one, validation included; nothing else has learnt from "
        "those of validation."
    )
    parts.append(f"![recall by row]({RECALL_PLOT})\n\n![quality against cost]({COST_PLOT})")
    parts += close_look(report, _labels(report))
    parts += reasoning_markdown(report, examples)
    if examples["customers"]:
        parts.append("## Example customers")
        shown = enumerate(examples["customers"], start=1)
        parts += [_example_markdown(number, example) for number, example in shown]
    return "\n\n".join(parts) + "\n"


def _example_markdown(number: int, example: Mapping[str, Any]) -> str:
    parts = [f"### Customer {number}: {escape_markdown(example['user_id'])}"]
    parts.append("Bought, oldest first:\n\n" + "\n".join(f"1. {shown_title(t)}" for t in example["history"]))
    for label, text in chain_steps(example["chain"]):
        parts.append(f"**{label}.** {escape_markdown(text)}")
    for name, items in example["lists"].items():
        lines = [f"1. {shown_title(i['title'])} ({_figures(i)})" for i in items]
        parts.append(f"Recommended, {LABELS[name]}:\n\n" + "\n".join(lines))
    parts.append(f"Bought next: **{shown_title(example['target'])}**")
    return "\n\n".join(parts)


def _figures(item: Mapping[str, Any]) -> str:
    score = "" if item["score"] is None else f", score {item['score']:.2f}"
    return f"log-probability {item['logp']:.2f}{score}"


def _example_lines(example: Mapping[str, Any], length: int) -> list[str]:
    """Return the lines of one example customer for a terminal."""
    lines = [f"Customer {plain_line(example['user_id'])}", "  bought, oldest first:"]
    lines += [f"    {plain_line(title) or '(no title)'}" for title in example["history"]]
    lines += [f"  {label}: {plain_line(text)}" for label, text in chain_steps(example["chain"])]
    for name, items in example["lists"].items():
        lines.append(f"  recommended, {LABELS[name]}:")
        lines += [
            f"    {rank}. {plain_line(item['title']) or '(no title)'} ({_figures(item)})"
            for rank, item in enumerate(items[:length], start=1)
        ]
    lines.append(f"  bought next: {plain_line(example['target']) or '(no title)'}")
    return lines


def _plot_recall(path: Path, report: Mapping[str, Any]) -> None:
    """Draw recall@k of every row as a bar with its 95 % interval."""
    name = f"recall@{report['k']}"
    figure = Figure(figsize=(7, 0.6 * len(_rows(report)) + 1.2), layout="constrained")
    axes = figure.add_subplot()
    for label, row in _rows(report).items():
        low, high = row[f"{name}_interval"]
        # rounding may put a bound on the wrong side of the mean by its last digit
        error = [[max(row[name] - low, 0.0)], [max(high - row[name], 0.0)]]
        axes.barh(label, row[name], xerr=error, color=_colour(label), capsize=3, height=0.6)
    best = _best_recall(report)
    if best is not None:
        axes.axvline(best, color="#333333", linestyle="--", label="best reachable")
        axes.legend(loc="lower right")
    axes.invert_yaxis()
    axes.set_xlabel(f"{name}, 95 % interval over users")
    save_figure(figure, path)


def _plot_cost(path: Path, report: Mapping[str, Any]) -> None:
    """Draw recall@k of every row over its seconds per user."""
    name = f"recall@{report['k']}"
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for (label, row), marker in zip(_rows(report).items(), _MARKERS, strict=False):
        cost = row["seconds_per_user"]
        axes.scatter(cost, row[name], s=60, color=_colour(label), marker=marker, label=label)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0.0)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))  # labels beside close points would overlap
    axes.set_xlabel("seconds per user")
    axes.set_ylabel(name)
    save_figure(figure, path)


def _colour(label: str) -> str:
    return next((c for name, c in _COLOURS.items() if LABELS[name] == label), _MODEL_COLOUR)
