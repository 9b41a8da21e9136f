"""Check what a finished demo reported: `python .ci/check_report.py runs/demo`, exit code 1 if it is bad."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODES = ("direct", "reasoning")
METRIC = "recall@10"
NO_ROW = "best_reachable"  # what an oracle would reach, which recommends nothing
LEAST_GAIN = 3.0  # direct mode against popularity


def problems(report: dict[str, Any], counts: dict[str, Any]) -> list[str]:
    """List what is wrong with a report, given the counts of the data folder's manifest.

    Every user of the data folder has one test purchase, so that all of them must have been counted.
    """
    rows = {
        name: row
        for name, row in report.items()
        if isinstance(row, dict) and METRIC in row and name != NO_ROW
    }
    found = [f"the row `{name}` is missing" for name in (*MODES, "popularity") if name not in rows]
    if report.get("users") != counts["users"]:
        found.append(f"{report.get('users')} users were evaluated, the data folder has {counts['users']}")
    found += [
        f"`{name}` has invalid_rate {row.get('invalid_rate')}"
        for name, row in rows.items()
        if row.get("invalid_rate") != 0
    ]
    if not found:
        direct, popularity = rows["direct"][METRIC], rows["popularity"][METRIC]
        if not (direct > 0 and direct >= LEAST_GAIN * popularity):  # written so that NaN fails
            found.append(f"direct {METRIC} {direct} is below {LEAST_GAIN} x popularity's {popularity}")
    return found


def main(run: Path) -> int:
    """Print the verdict on a run's folder and return the exit code."""
    report = json.loads((run / "evaluation" / "report.json").read_text(encoding="utf-8"))
    counts = json.loads((run / "data" / "manifest.json").read_text(encoding="utf-8"))["counts"]
    found = problems(report, counts)
    for problem in found:
        print(f"report: {problem}")
    if not found:
        direct, popularity = report["direct"][METRIC], report["popularity"][METRIC]
        print(f"report: {report['users']} users, nothing invalid, direct {METRIC} {direct:.4f}, "
              f"popularity {popularity:.4f}, reasoning {report['reasoning'][METRIC]:.4f}: good")  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
