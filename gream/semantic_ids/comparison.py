"""`gream sids --compare A B`: two or more sets of names side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gream import artifacts
from gream.errors import InputError
from gream.semantic_ids.sids_report import REPORT_FILE


def compare(folders: Sequence[Path]) -> str:
    """Read the reports of names folders and write one Markdown table, a column for each.

    Raises:
        InputError: fewer than two folders, or one without a report.
    """
    if len(folders) < 2:
        raise InputError("`gream sids --compare` needs two or more folders that `gream sids` wrote.")
    reports = [_read(folder) for folder in folders]
    titles = _titles(folders)
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    rows = [summary(report) for report in reports]
    lines += [f"| {key} | {' | '.join(row.get(key, '-') for row in rows)} |" for key in _keys(rows)]
    if len({artifacts.read_manifest(folder).inputs.get("data") for folder in folders}) > 1:
        lines += ["", "These names are of different catalogues: compare with care."]
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> dict[str, str]:
    """The figures of one report that tell names apart, as text."""
    quantised = [level for level in report["levels"] if level["quantised"]]
    collisions = report["collisions"]
    figures = {
        "method": report["method"],
        "codes": " x ".join(map(str, report["codebook_sizes"])),
        "ordered": "yes" if report["ordered"] else "no",
        "items": f"{report['items']:,}",
        "shared a name before": f"{collisions['rate_before']:.1%}",
        "got another last code": f"{collisions['items_renamed'] / max(report['items'], 1):.1%}",
        "share one after": f"{collisions['rate_after']:.1%}",
        "perplexity by level": ", ".join(f"{level['perplexity']:.0f}" for level in quantised),
        "largest / mean code": ", ".join(f"{level['balance']:.1f}" for level in quantised),
        "error left by level": ", ".join(_number(level["reconstruction_error"]) for level in quantised),
        "error without the level": ", ".join(_number(level["error_without"]) for level in quantised),
        "purity of level 0": _number((report["levels"][0]["category_purity"] or [None])[-1]),
        "neighbours with code 0": f"{report['levels'][0]['neighbours']['kept']:.3f}",
        "neighbours kept": f"{report['neighbours_kept']:.3f}",
        "bits for the next item": f"{report['bits_for_the_next_item']:.2f}",
        "verdict": "pass" if report["verdict"]["passed"] else report["verdict"]["sentence"],
    }
    return figures


def _read(folder: Path) -> dict[str, Any]:
    artifacts.read_manifest(folder, stage="sids")
    file = folder / REPORT_FILE
    if not file.is_file():
        raise InputError(f"{folder} holds no {REPORT_FILE}; give a folder that `gream sids --config` wrote.")
    report: dict[str, Any] = json.loads(file.read_text())
    return report


def _titles(folders: Sequence[Path]) -> list[str]:
    """Folder names, or whole paths where names are not enough to tell them apart."""
    names = [folder.name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _keys(rows: Sequence[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
