"""Text and tables for a terminal, safe for what comes from data.

Titles, ids and chains come from data and from a model: they are shown on one line each and without control
characters, and are never read as markup.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 100  # columns of text where no terminal says how many it has


def plain_line(text: str) -> str:
    """Return one line without control characters, which could move a terminal's cursor or hide text."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def text_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the same for a terminal of 100 columns."""
    table = Table(title=Text(plain_line(title)), title_justify="left", title_style="")
    table.box, table.pad_edge = box.SIMPLE_HEAD, False
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position else "left", no_wrap=position > 0)
    for row in rows:
        table.add_row(*(Text(plain_line(cell)) for cell in row))
    return rendered(table)


def rendered(renderable: RenderableType, width: int = WIDTH) -> str:
    """Return what a terminal of `width` columns shows, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(renderable)
    return out.getvalue()


def nobody_reads() -> bool:
    """Say whether the reader of the output has left, as `head` does; if so, the rest is dropped."""
    watch = select.poll()
    watch.register(sys.stdout.fileno(), 0)
    left = any(event & select.POLLERR for _, event in watch.poll(0))
    if left:  # or Python complains when it writes the rest out at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return left
