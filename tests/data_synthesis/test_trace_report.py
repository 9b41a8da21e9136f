"""What people see of written traces, and the two switches that its recipes compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_synthesis.teacher import RuleTeacher
from data_synthesis.trace_report import format_report
from data_synthesis.traces import Dropped
from gream.artifacts import read_manifest
from gream.cli import main
from gream.data.prepare import DataConfig
from gream.data.prepare import run as run_data
from gream.data.simulate import load_truth
from gream.data.store import Catalogue, load_interactions
from gream.language.reasoning import Trace, load_traces

TRACE = Trace(0, (0, 17, 5), 9, (0, 5), ("printers", "ink"), "office", "after ink comes <b>", "paper", (0, 5))


def synthesize(run_dir: Path, *words: str) -> Path:
    assert main(["synthesize", "traces", "--run_dir", str(run_dir), *words]) == 0
    return run_dir / "traces"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("shop")
    run_data(DataConfig(run_dir=str(run_dir), num_customers=200, num_items=120, seed=1))
    return run_dir


def test_every_reason_is_counted_and_shown_with_its_first_example(catalogue: Catalogue) -> None:
    dropped = [
        Dropped(0, 1, "is too short", ""),
        Dropped(1, 1, "is too short", "ink | paper"),
        Dropped(2, 1, "is too short", "another"),
        Dropped(3, 1, "cites what is not there", "x" * 900),
    ]
    text = format_report([TRACE], dropped, {}, catalogue)
    assert "1 kept, 4 attempts dropped" in text
    assert "| is too short | 3 | ink \\| paper |" in text
    assert f"| cites what is not there | 1 | {'x' * 300} |" in text
    assert text.index("is too short") < text.index("cites what is not there")  # the commonest first
    assert "Step 5" not in text


def test_a_kept_trace_is_shown_by_its_titles_as_text(catalogue: Catalogue) -> None:
    text = format_report([TRACE], [], {"precision": 0.75, "recall": None}, catalogue)
    lines = [line for line in text.splitlines() if line.startswith("- ")]
    assert len(lines) == 7
    assert "&lt;b&gt;" in text and "<b>" not in text
    assert all(catalogue.titles[item] in lines[0] for item in TRACE.history)
    assert catalogue.titles[17] not in lines[5]
    assert "| precision | 0.75 |" in text and "| recall | - |" in text


def test_the_stage_reports_what_it_dropped_and_how_well_it_found_the_noise(shop: Path) -> None:
    folder = synthesize(shop)
    counts = read_manifest(folder).counts
    text = (folder / "traces_report.md").read_text()
    for reason, number in pl.read_parquet(folder / "dropped.parquet").group_by("reason").len().iter_rows():
        assert f"| {reason} | {number} |" in text
    noise = load_truth(shop / "data").is_noise
    sequences = load_interactions(shop / "data").sequences
    of = [set(s[marks].tolist()) for s, marks in zip(sequences, noise, strict=True)]
    gone = [(t, set(t.history) - set(t.rewritten)) for t in load_traces(folder)]
    assert counts["denoising: left_out"] == sum(len(left) for _, left in gone)
    assert counts["denoising: noise_left_out"] == sum(len(left & of[t.user]) for t, left in gone)


def test_without_denoising_the_history_is_copied_and_nothing_else_changes(shop: Path) -> None:
    one = load_traces(synthesize(shop, "--filters", "format"))
    other = load_traces(synthesize(shop, "--filters", "format", "--denoise", "false"))
    assert all(trace.rewritten == trace.history for trace in other)
    assert any(trace.rewritten != trace.history for trace in one)
    assert [(t.user, t.target, t.evidence, t.intent) for t in one] == [
        (t.user, t.target, t.evidence, t.intent) for t in other
    ]


def test_without_filters_the_first_attempt_is_kept_whatever_it_says(shop: Path) -> None:
    folder = synthesize(shop, "--filters", "format")
    sequences = load_interactions(shop / "data").training_sequences()
    assert len(load_traces(folder)) == sum(min(2, max(0, len(s) - 2)) for s in sequences)
    assert pl.read_parquet(folder / "dropped.parquet").height == 0


def test_unknown_filters_are_refused(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "traces", "--run_dir", str(shop), "--filters", "some"]) == 2
    assert "filters is 'some'; give `all` or `format`" in capsys.readouterr().err


def test_the_teacher_looks_at_what_fits_in_either_case(catalogue: Catalogue) -> None:
    rng = np.random.default_rng(0)
    shelves = [(0, 4, 8), (12, 16, 20)]
    bought = [np.asarray([rng.integers(f, f + 4) for f in shelves[u % 2]]) for u in range(60)]
    [explained] = RuleTeacher(catalogue, bought, denoise=False).explain(
        [0, 17, 5, 9], np.random.default_rng(0)
    )
    assert explained.rewritten == (0, 17, 5, 9)
    assert explained.evidence == (5, 9)
