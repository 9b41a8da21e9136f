"""The verdict of `.ci/check_report.py` on reports that are good, and on each way to be bad."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "check_report.py"
GOOD = {
    "users": 5,
    "k": 10,
    "best_reachable": {"recall@10": 0.6, "ndcg@10": 0.4},
    "popularity": {"recall@10": 0.1, "invalid_rate": 0.0},
    "direct": {"recall@10": 0.375, "invalid_rate": 0.0},
    "reasoning": {"recall@10": 0.2, "invalid_rate": 0.0},
}


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def changed(**rows):
    report = copy.deepcopy(GOOD)
    for name, change in rows.items():
        if isinstance(change, dict):
            report[name].update(change)
        else:
            report[name] = change
    return report


def test_a_good_report_has_no_problem(check):
    assert check.problems(GOOD, {"users": 5}) == []


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (changed(reasoning=None), "the row `reasoning` is missing"),
        (changed(direct=None), "the row `direct` is missing"),
        (changed(popularity=None), "the row `popularity` is missing"),
        (changed(users=4), "4 users were evaluated, the data folder has 5"),
        (changed(reasoning={"invalid_rate": 0.01}), "`reasoning` has invalid_rate 0.01"),
        (changed(popularity={"invalid_rate": None}), "`popularity` has invalid_rate None"),
        (changed(direct={"recall@10": 0.29}), "direct recall@10 0.29 is below"),
        (changed(direct={"recall@10": float("nan")}), "direct recall@10 nan is below"),
        (changed(direct={"recall@10": 0.0}, popularity={"recall@10": 0.0}), "direct recall@10 0.0 is below"),
    ],
)
def test_every_shortcoming_is_told(check, report, told):
    [problem] = check.problems(report, {"users": 5})
    assert told in problem


@pytest.mark.parametrize(("report", "code"), [(GOOD, 0), (changed(users=4), 1)])
def test_the_exit_code_says_whether_the_run_is_good(check, tmp_path, report, code):
    manifest = {"counts": {"users": 5}}
    for name, content in (("evaluation/report.json", report), ("data/manifest.json", manifest)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(json.dumps(content))
    assert check.main(tmp_path) == code
