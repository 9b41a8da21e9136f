"""`make bench`: run every benchmark, print its figures beside their bars, write `bench.json`.

Each file `bench_*.py` here has a function `measure()` that returns its figures; ratios are measured in one
run. Names given on the command line (`bench_prepare`) choose some of them; the others' figures stay.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULT = Path("bench.json")


def main(chosen: list[str]) -> int:
    """Run the benchmarks; returns 1 if a bar does not hold."""
    names = chosen or sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    figures = json.loads(RESULT.read_text()) if chosen and RESULT.is_file() else {}
    for name in names:
        print(f"bench: {name}", flush=True)
        figures |= importlib.import_module(f"tests.benchmarks.{name}").measure()
        RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    table = Table("figure", "value", "bar", "")
    for name, row in figures.items():
        holds = "holds" if row["holds"] else "MISSED"
        table.add_row(name, f"{row['value']:,.4g} {row['unit']}", row["bar"], holds)
    Console(width=110).print(table)
    return 0 if all(row["holds"] for row in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
