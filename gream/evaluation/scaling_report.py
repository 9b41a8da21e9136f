"""Show a sweep to people: scaling.json, a table with what is on the frontier, and one plot of both.

Names of models are folder names, so they are escaped for Markdown and stripped for the terminal as in
`gream.evaluation.report`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from gream.evaluation.exam import Row
from gream.evaluation.rendering import escape_markdown, markdown_table, save_figure
from gream.evaluation.scaling import PLAIN, frontier, overtaken, plain_at_equal_time
from gream.terminal import plain_line, text_table

SCALING_FILE, SCALING_TABLE, SCALING_PLOT = "scaling.json", "scaling.md", "scaling.png"
_MARKERS = "osv^D*P"  # one for each family
_COLOURS = ("#1f77b4", "#d95f02")  # one for each model


def compared(rows: Sequence[Row], k: int) -> list[Row]:
    """Return the rows with `frontier` and, but for plain beams, `plain_at_equal_time` of the same model."""
    metric = f"recall@{k}"
    best = set(frontier([r["seconds_per_user"] for r in rows], [r[metric] for r in rows]))
    found = []
    for position, row in enumerate(rows):
        more: Row = {"frontier": position in best}
        plain = [r for r in rows if r["family"] == PLAIN and r["model"] == row["model"]]
        if row["family"] != PLAIN:
            times = [r["seconds_per_user"] for r in plain]
            width, quality = plain_at_equal_time(
                row["seconds_per_user"], [r["num_beams"] for r in plain], times, [r[metric] for r in plain]
            )
            more["plain_at_equal_time"] = {
                "num_beams": round(width, 1),
                metric: round(quality, 6),
                "outside": _outside(row["seconds_per_user"], times),
            }
        found.append(row | more)
    return found


def write_scaling(folder: Path, head: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Write scaling.json, scaling.md and scaling.png into `folder`.

    Args:
        folder: an existing folder.
        head: the report, of which `users`, `users_in_split`, `items`, `split`, `k` and `seed` are taken over.
        rows: those of `sweep`, each with `model`; where there are two models, the larger one's come first.
    """
    known = ("users", "users_in_split", "items", "split", "k", "seed")
    scaling = {**{name: head[name] for name in known}, "rows": compared(rows, head["k"])}
    text = json.dumps(scaling, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / SCALING_FILE).write_text(text + "\n", encoding="utf-8")
    _plot(folder / SCALING_PLOT, scaling)
    (folder / SCALING_TABLE).write_text(_markdown(scaling), encoding="utf-8")


def format_scaling(folder: Path) -> str:
    """Return what a finished sweep shows in the terminal: the table, and what is on the frontier."""
    scaling = json.loads((folder / SCALING_FILE).read_text("utf-8"))
    header, rows = _cells(scaling, short=True)
    table = text_table(f"{_summary(scaling)}; * is on the frontier", header, rows)
    return "\n".join([table, *map(plain_line, [*frontier_lines(scaling), *size_lines(scaling)])])


def frontier_lines(scaling: Mapping[str, Any]) -> list[str]:
    """Return one sentence for every setting on the frontier, fastest first."""
    metric = f"recall@{scaling['k']}"
    chosen = sorted((r for r in scaling["rows"] if r["frontier"]), key=lambda r: r["seconds_per_user"])
    lines = []
    for before, row in zip([None, *chosen], chosen, strict=False):
        gain = "the fastest"
        if before is not None:
            times = row["seconds_per_user"] / max(before["seconds_per_user"], 1e-9)  # as `Exam.row` rounds
            gain = f"{row[metric] - before[metric]:+.4f} for {times:.2f} times the time of the one before"
        lines.append(
            f"{_full_name(scaling, row)}: {metric} {row[metric]:.4f} in {_ms(row)} ms a user, {gain}."
        )
    return lines


def size_lines(scaling: Mapping[str, Any]) -> list[str]:
    """Return the sentence that says whether the smaller model with more search beats the larger with less."""
    rows, metric = scaling["rows"], f"recall@{scaling['k']}"
    models = list(dict.fromkeys(r["model"] for r in rows))
    if len(models) < 2:
        return []
    larger, smaller = models
    pair = overtaken(
        [r["seconds_per_user"] for r in rows],
        [r[metric] for r in rows],
        [r["model"] == smaller for r in rows],
    )
    if pair is None:
        return [f"No search of {larger} is reached by {smaller} in the same time."]
    ours, theirs = rows[pair[0]], rows[pair[1]]
    return [
        f"{smaller} with {ours['name']} reaches {metric} {ours[metric]:.4f} in {_ms(ours)} ms a user, no "
        f"worse than {larger} with {theirs['name']}, which reaches {theirs[metric]:.4f} in {_ms(theirs)} ms."
    ]


def _markdown(scaling: Mapping[str, Any]) -> str:
    header, rows = _cells(scaling, short=False)
    cells = [[escape_markdown(name), *figures] for name, *figures in rows]
    parts = [
        "# Quality against time",
        escape_markdown(_summary(scaling)) + ".",
        markdown_table(header, cells),
    ]
    parts.append(
        "A row is one setting of the search. `A of B`: the policy proposes B paths at every level and the "
        "scorer keeps A of them; with no level where it keeps, that is the plain beam of A. HRecall@b is the "
        "share of users whose next item's first b codes are among the kept paths. Times are of the searches "
        "alone, every batch of users through all settings of a model in turn. The plain beam at equal time, "
        "beams and what they reach, is interpolated between the plain rows of the same model; `<` and `>` "
        "say that the time lies outside theirs, where the nearest is taken."
    )
    parts.append(f"![quality against seconds]({SCALING_PLOT})")
    parts.append("## On the frontier")
    parts.append("\n".join(f"1. {escape_markdown(line)}" for line in frontier_lines(scaling)))
    sizes = size_lines(scaling)
    if sizes:
        parts += ["## A smaller model with more search", *map(escape_markdown, sizes)]
    return "\n\n".join(parts) + "\n"


def _summary(scaling: Mapping[str, Any]) -> str:
    users = f"{scaling['users']:,} of {scaling['users_in_split']:,} users"
    return f"{scaling['split']} split, {users}, {scaling['items']:,} items ranked, seed {scaling['seed']}"


def _cells(scaling: Mapping[str, Any], *, short: bool) -> tuple[list[str], list[list[str]]]:
    """Return header and cells; the short table has what fits a terminal of 100 columns."""
    rows, k = scaling["rows"], scaling["k"]
    levels = max(len(r.get("hrecall", [])) for r in rows)
    columns: dict[str, Any] = {"search": lambda r: _full_name(scaling, r)}
    columns[f"recall@{k}"] = lambda r: f"{r[f'recall@{k}']:.4f}"
    if not short:
        columns["95 %"] = lambda r: "{:.4f}-{:.4f}".format(*r[f"recall@{k}_interval"])
        columns[f"ndcg@{k}"] = lambda r: f"{r[f'ndcg@{k}']:.4f}"
        for b in range(levels):
            columns[f"HRecall@{b + 1}"] = lambda r, b=b: f"{r['hrecall'][b]:.4f}" if "hrecall" in r else ""
    if not short or any("hrecall" not in r for r in rows):
        columns["tokens a user"] = lambda r: f"{r['tokens_per_user']:.4g}"
    columns["ms a user"] = _ms
    columns["plain, same time" if short else "plain beam at equal time"] = lambda r: _equal(r, k)
    if any("false_prune_rate" in r for r in rows) and not short:
        columns["falsely pruned"] = lambda r: (
            f"{r['false_prune_rate']:.4f}" if "false_prune_rate" in r else ""
        )
    columns["" if short else "frontier"] = lambda r: "*" if r["frontier"] else ""
    return list(columns), [[cell(r) for cell in columns.values()] for r in rows]


def _outside(seconds: float, times: Sequence[float]) -> str:
    """Return `<` or `>` where a time lies outside those of the plain beams, which are not drawn on."""
    return "<" if seconds < min(times) else ">" if seconds > max(times) else ""


def _equal(row: Row, k: int) -> str:
    plain = row.get("plain_at_equal_time")
    if plain is None:
        return ""
    return f"{plain['outside']}{plain['num_beams']:.0f}: {plain[f'recall@{k}']:.4f}"


def _ms(row: Row) -> str:
    return f"{1000 * row['seconds_per_user']:.3g}"


def _full_name(scaling: Mapping[str, Any], row: Row) -> str:
    alone = len({r["model"] for r in scaling["rows"]}) == 1
    name: str = row["name"]
    return name if alone else f"{row['model']}, {name}"


def _plot(path: Path, scaling: Mapping[str, Any]) -> None:
    """Draw recall over milliseconds per user, a marker for each family, a colour for each model."""
    rows, metric = scaling["rows"], f"recall@{scaling['k']}"
    models, families = (list(dict.fromkeys(r[name] for r in rows)) for name in ("model", "family"))
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    chosen = sorted((r for r in rows if r["frontier"]), key=lambda r: r["seconds_per_user"])
    axes.step([1000 * r["seconds_per_user"] for r in chosen], [r[metric] for r in chosen], where="post",
              color="#999999", linestyle="--", zorder=1, label="frontier")  # fmt: skip
    for (model, colour), (family, marker) in product(
        zip(models, _COLOURS, strict=False), zip(families, _MARKERS, strict=False)
    ):
        own = [r for r in rows if (r["model"], r["family"]) == (model, family)]
        if own:
            label = family if len(models) == 1 else f"{plain_line(model)}, {family}"
            x, y = [1000 * r["seconds_per_user"] for r in own], [r[metric] for r in own]
            axes.plot(x, y, marker, color=colour, markersize=7, alpha=0.8, label=label)
    for number, row in enumerate(chosen, start=1):
        axes.annotate(str(number), (1000 * row["seconds_per_user"], row[metric]), textcoords="offset points",
                      xytext=(-4, 7), ha="right", fontsize=9)  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())  # its labels would overlap
    axes.margins(0.08)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.set_xlabel("milliseconds per user, searches alone")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    save_figure(figure, path)
