"""Text, tables and pictures of reports, safe for what comes from data.

Titles and chains come from data and from a model, so they are escaped for Markdown, where a title may
hold a pipe, a backtick, HTML or `<a_1>`. What a terminal shows is in `gream.terminal`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gream.terminal import plain_line

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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """Return a table of some columns of text and others of figures; cells are taken as escaped."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the same figure is the same bytes."""
    FigureCanvasAgg(figure)  # no window system, and no global state of pyplot
    figure.savefig(path, dpi=120, metadata={"Software": None})
