"""Where figures are kept, and how they are told: JSON that later calls add to, a table, and its Markdown."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

Figures = dict[str, dict[str, Any]]
RUNNING, DONE = "not finished", "done"


def hardware() -> dict[str, str]:
    """Name the device that computes, and what drives it."""
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if not torch.cuda.is_available():
        return {"device": f"CPU, {os.cpu_count()} cores, {platform.machine()}", **found}
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    name = f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB"
    return {"device": name, "driver": driver, "cuda": str(torch.version.cuda), **found}


class Results:
    """The figures of every piece in one file; each is written the moment it is known.

    Args:
        file: JSON.
        dry: whether these are figures of tiny shapes.

    Raises:
        ValueError: the file holds figures of another machine, or dry ones beside real ones.
    """

    def __init__(self, file: Path, *, dry: bool) -> None:
        self._file = file
        here = {"dry": dry, "hardware": hardware()}
        self.content: dict[str, Any] = {**here, "pieces": {}}
        if file.is_file():
            self.content = json.loads(file.read_text())
            there = {name: self.content[name] for name in here}
            if there != here:
                raise ValueError(f"{file} holds figures of {there}, and these would be of {here}.")

    def begin(self, piece: str) -> None:
        """Forget a piece's figures of an earlier call."""
        self.content["pieces"][piece] = {"status": RUNNING, "figures": {}}
        self._write()

    def keep(self, piece: str, figures: Figures) -> None:
        """Add figures to a piece."""
        self.content["pieces"][piece]["figures"] |= figures
        self._write()

    def end(self, piece: str, status: str) -> None:
        """Say how a piece ended."""
        self.content["pieces"][piece]["status"] = status
        self._write()

    @property
    def good(self) -> bool:
        """Whether every piece ran to its end, and every bar holds."""
        pieces = self.content["pieces"].values()
        rows = [row for piece in pieces for row in piece["figures"].values()]
        return all(piece["status"] == DONE for piece in pieces) and all(row["holds"] for row in rows)

    def show(self) -> None:
        """Print the table."""
        Console(width=110).print(self._told())
        table = Table("figure", "value", "bar", "")
        for name, value, row in self._rows():
            table.add_row(
                name, value, row["bar"], ("holds" if row["holds"] else "MISSED") if row["bar"] else ""
            )
        Console(width=110).print(table)

    def markdown(self) -> str:
        """Return the table for `recipes/README.md`."""
        lines = [self._told(), "", "| what | measured | bar |", "|---|---|---|"]
        lines += [f"| {name} | {value} | {row['bar']} |" for name, value, row in self._rows()]
        return "\n".join(lines) + "\n"

    def _told(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.content["hardware"].items())
        dry = "A dry run on tiny shapes, whose figures mean nothing. " if self.content["dry"] else ""
        ended = [f"{name}: {piece['status']}" for name, piece in self.content["pieces"].items()]
        return f"{dry}{told[0].upper()}{told[1:]}. {'; '.join(ended)}."

    def _rows(self) -> list[tuple[str, str, dict[str, Any]]]:
        return [
            (f"{piece}: {name}", f"{row['value']:,.4g} {row['unit']}".strip(), row)
            for piece, found in self.content["pieces"].items()
            for name, row in found["figures"].items()
        ]

    def _write(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self.content, indent=2) + "\n")
