"""One list of recommendations for one customer, as a table for a terminal and as a JSON document."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from gream.decoding.recommender import Recommendation
from gream.language.reasoning import Chain
from gream.terminal import WIDTH, plain_line, rendered

_SHOWN = 20  # purchases of a history that the table shows, the latest ones


@dataclass(frozen=True)
class ShownList:
    """What was asked and what was found."""

    mode: str
    history: Sequence[tuple[str, str]]  # raw id and title, oldest first
    recommendations: Sequence[Recommendation]
    seconds: float  # of the search, without loading the run


def format_json(shown: ShownList) -> str:
    """Return one JSON document with the fields of the HTTP service's answer.

    It is plain ASCII, so that no title moves the cursor of a terminal or trips over its encoding.
    """
    document = {
        "mode": shown.mode,
        "history": [{"item_id": item_id, "title": title} for item_id, title in shown.history],
        "recommendations": [asdict(one) for one in shown.recommendations],
        "seconds": shown.seconds,
    }
    return json.dumps(document, indent=2, allow_nan=False)


def format_table(shown: ShownList, width: int = WIDTH) -> str:
    """Lay out history, reasoning and list for a terminal of `width` columns.

    Titles are shortened to fit, ids are there to be copied: a long one goes on in the next line. The
    reasoning is that of the best item.
    """
    parts = [rendered(_history(shown.history), width)]
    found = shown.recommendations
    if found and found[0].chain is not None:
        parts.append(rendered(_reasoning(found[0].chain), width))
    parts.append(rendered(_list(found), width))
    return "\n\n".join("\n".join(line.rstrip() for line in part.rstrip().splitlines()) for part in parts)


def _history(history: Sequence[tuple[str, str]]) -> Table:
    grid = _grid("History, oldest first")
    if len(history) > _SHOWN:
        grid.add_row("", Text(f"({len(history) - _SHOWN:,} before)"))
    for item_id, title in history[-_SHOWN:]:
        grid.add_row("", _title(title), _whole(item_id))
    return grid


def _reasoning(chain: Chain) -> Table:
    grid = _grid("Reasoning")
    steps = {name: text for name, text in asdict(chain).items() if name != "well_formed" and text}
    for name, text in steps.items():
        grid.add_row("", _whole(name.replace("_", " ")), _whole(text))
    return grid


def _grid(title: str) -> Table:
    """Return a table without lines, indented by an empty column."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.title, grid.title_justify, grid.title_style = title, "left", ""
    return grid


def _list(found: Sequence[Recommendation]) -> Table:
    scored = any(one.score is not None for one in found)
    table = Table(title="Recommended", title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    table.collapse_padding = True
    table.add_column("rank", justify="right", no_wrap=True)
    # What is too wide is taken from the widest of the columns that may wrap: from titles before ids.
    table.add_column("title")
    table.add_column("item id")
    for name in ("probability", "logp", *(["score"] if scored else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        score = [] if one.score is None else [f"{one.score:.2f}"]
        figures = [_percent(one.logp), f"{one.logp:.2f}", *score]
        table.add_row(str(one.rank), _title(one.title), _whole(one.item_id), *figures)
    return table


def _title(title: str) -> Text:
    # A column that may shrink and a cell that may not wrap: rich shortens the cell.
    return Text(plain_line(title) or "(no title)", no_wrap=True, overflow="ellipsis")


def _whole(text: str) -> Text:
    return Text(plain_line(text), overflow="fold")


def _percent(logp: float) -> str:
    return f"{100 * math.exp(logp):.2g} %"
