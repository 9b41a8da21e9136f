"""What a run of SRPO did, for people: `report.md` with warnings, a table and a picture.

The table holds the mean of every figure over the first quarter of the steps of a mode against the last
quarter, the picture every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gream.evaluation.rendering import markdown_table, save_figure
from gream.training.run_log import ALL, REWARD, Entry, RunLog
from gream.training.validation import (
    COVERAGE,
    ERROR,
    REASONING_COVERAGE,
    REASONING_RECALL,
    RECALL,
    SCORE,
)
from gream.training.watch import Lookout, lookout_over

REPORT_FILE, PLOT_FILE = "report.md", "srpo.png"

_TERM = "rewards/"  # how the trainer begins the keys of a reward function, which end in `/mean`
# Figures of a step: the key in the log, and what it is.
_FIGURES = {
    REWARD: "reward, weighted sum of the terms",
    "reward_std": "its standard deviation",
    "live_groups": "share of groups with a signal",
    "invalid": "share of completions that name no item",
    "well_formed": "share of completions that are well formed",
    "entropy_first_code": "entropy of first codes, nats",
    "distinct_items": "share of valid answers that differ",
    "completions/mean_length": "tokens of a completion",
    "completions/clipped_ratio": "share of completions that were cut",
    "kl": "divergence from the reference model, nats a token",
    "entropy": "entropy of a token, nats",
    "clip_ratio/region_mean": "share of tokens whose ratio was clipped",
    "grad_norm": "norm of the gradient",
    "loss": "loss",
}
_MEASURES = {
    SCORE: "score",
    RECALL: "recall@10 of direct mode",
    REASONING_RECALL: "recall@10 of reasoning mode",
    COVERAGE: "coverage of direct mode",
    REASONING_COVERAGE: "coverage of reasoning mode",
}
_COLOURS = {"direct": "#1f77b4", "reasoning": "#d95f02", ALL: "#333333"}
_LINES = {"direct": "-", "reasoning": "--", ALL: "-"}


def write_srpo_report(folder: Path, log: Sequence[Entry]) -> None:
    """Write `report.md` and `srpo.png` into `folder`; the log is the trainer's, as it came."""
    lookout = lookout_over(log)
    save_figure(srpo_figure(lookout.log), folder / PLOT_FILE)
    (folder / REPORT_FILE).write_text(_markdown(lookout), encoding="utf-8")


def srpo_figure(log: RunLog) -> Figure:
    """Draw rewards by term, recall, live and invalid shares, lengths, divergence, entropy and coverage."""
    figure = Figure(figsize=(11, 12), layout="constrained")
    panels = figure.subplots(4, 2)
    _draw_rewards(panels[0, 0], log)
    recalls = {RECALL: "direct", REASONING_RECALL: "reasoning"}
    _draw_measures(panels[0, 1], log, recalls, "validation recall@10")
    _draw(panels[1, 0], log, "live_groups")
    _draw(panels[1, 1], log, "invalid")
    _draw(panels[2, 0], log, "completions/mean_length")
    _draw(panels[2, 1], log, "kl")
    _draw(panels[3, 0], log, "entropy_first_code")
    coverages = {COVERAGE: "direct", REASONING_COVERAGE: "reasoning"}
    _draw_measures(panels[3, 1], log, coverages, "validation coverage")
    for axes in panels.flat:
        axes.set_xlabel("optimiser step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    return figure


def _markdown(lookout: Lookout) -> str:
    log = lookout.log
    parts = ["# SRPO", "## Warnings"]
    told = [f"- Step {notice.step}: {notice.text}" for notice in lookout.notices]
    parts.append("\n".join(told) or "None.")
    parts += _validation(log)
    parts += ["## First quarter of the steps against the last", markdown_table(*_quarters(log))]
    parts.append(f"![the run step by step]({PLOT_FILE})")
    return "\n\n".join(parts) + "\n"


def _validation(log: RunLog) -> list[str]:
    """Return the heading, a sentence and the table of the measurements; nothing where there was none."""
    scores, steps = log.values(SCORE), log.steps(SCORE)
    if not len(scores):
        return []
    best = int(np.argmax(scores))
    told = f"The model has the weights of step {steps[best]}, where the score was best."
    if steps[best] == 0:
        told = "No measurement was better than the one before the first step: the model stays as it came."
    error = log.values(ERROR)[best]
    places = {"before": 0, f"best, step {steps[best]}": best, f"last, step {steps[-1]}": -1}
    rows = [
        [name, *(f"{log.values(key)[place]:.4f}" for place in places.values())]
        for key, name in _MEASURES.items()
        if len(log.values(key))
    ]
    table = markdown_table(["", *places], rows)
    return ["## Validation", f"{told} Its standard error over users is {error:.4f}.", table]


def _quarters(log: RunLog) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of the table: for each mode the mean of the first and of the last quarter."""
    modes = log.modes(REWARD)
    header = ["", *(f"{mode} {part}".strip() for mode in modes for part in ("first", "last"))]
    names = {key: name for key, name in _FIGURES.items() if len(log.values(key))}
    names |= {key: f"reward term {_term(key)}" for key in _terms(log)}
    rows = []
    for key, name in names.items():
        cells = [cell for mode in modes for cell in _ends(log.values(key, mode))]
        rows.append([name, *cells])
    return header, rows


def _ends(values: np.ndarray) -> tuple[str, str]:
    if not len(values):
        return "", ""
    quarter = max(1, len(values) // 4)
    return _figure(values[:quarter].mean()), _figure(values[-quarter:].mean())


def _figure(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


def _terms(log: RunLog) -> list[str]:
    return [key for key in log.keys if key.startswith(_TERM) and key.endswith("/mean")]


def _term(key: str) -> str:
    return key.removeprefix(_TERM).removesuffix("/mean").replace("_", " ")


def _draw_rewards(axes: Axes, log: RunLog) -> None:
    """Draw every reward term: a colour for each term, a line style for each mode."""
    terms = _terms(log)
    colours = colormaps["tab10"](np.arange(len(terms)) % 10)
    for key, colour in zip(terms, colours, strict=True):
        for mode in log.modes(key):
            label = f"{_term(key)}, {mode}" if mode else _term(key)
            style = _LINES[mode]
            axes.plot(log.steps(key, mode), log.values(key, mode), style, color=colour, label=label)
    axes.set_title("reward by term")


def _draw(axes: Axes, log: RunLog, key: str) -> None:
    for mode in log.modes(key):
        steps, values = log.steps(key, mode), log.values(key, mode)
        axes.plot(steps, values, _LINES[mode], color=_COLOURS[mode], label=mode or None)
    axes.set_title(_FIGURES[key])


def _draw_measures(axes: Axes, log: RunLog, keys: Mapping[str, str], title: str) -> None:
    for key, mode in keys.items():
        if len(log.values(key)):
            style = f"o{_LINES[mode]}"
            axes.plot(log.steps(key), log.values(key), style, color=_COLOURS[mode], label=mode)
    axes.set_title(title)
