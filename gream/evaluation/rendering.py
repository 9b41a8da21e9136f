"""Text, tables and pictures for people, safe for what comes from data.

Titles and chains come from data and from a model, so they are escaped for Markdown, where a title may
hold a pipe, a backtick, HTML or `<a_1>`, and stripped of control characters for the terminal.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH = 100  # columns of text for the terminal
_ACTIVE = re.compile(r"[\\`*_\[\]|~$]|:(?=//)|(?<=www)\.")  # anywhere in a line, bare links included
_BLOCK_START = re.compile(r"^(\d*)([#+\-.)=:])")  # only where a line begins: heading, list, rule


def escape_markdown(text: str) -> str:
    r"""Return text that Markdown shows as it is, on one line: HTML and every active character escaped.

    >>> print(escape_markdown("a|b <a_1>"))
    a\|b &lt;a\_1&gt;
    """
    line = _BLOCK_START.sub(r"\1\\\2", _ACTIVE.sub(r"\\\g<0>", plain_line(text)))
    return html.escape(line, quote=False)


def shown_title(title: str) -> str:
    """Return an item's title for Markdown."""
    return escape_markdown(title) or "(no title)"


def plain_line(text: str) -> str:
    """Return one line without control characters, which could move a terminal's cursor or hide text."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table of some columns of text and others of figures; cells are taken as escaped."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same for a terminal of 100 columns."""
    table = Table(title=Text(plain_line(title)), title_justify="left", title_style="")
    table.box, table.pad_edge = box.SIMPLE_HEAD, False
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position else "left", no_wrap=position > 0)
    for row in rows:
        table.add_row(*(Text(plain_line(cell)) for cell in row))
    return rendered(table)


def rendered(renderable: Table | Text) -> str:
    """Return what a terminal of 100 columns shows, without colours."""
    out = io.StringIO()
    Console(file=out, width=_WIDTH, color_system=None).print(renderable)
    return out.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the same figure is the same bytes."""
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    figure.savefig(path, dpi=120, metadata={"Software": None})
