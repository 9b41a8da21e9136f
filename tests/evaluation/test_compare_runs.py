"""Several evaluations in one table: what is paired, what is not, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.cli import main
from gream.data.store import TEST, Catalogue, Interactions
from gream.errors import InputError
from gream.evaluation import evaluate
from gream.evaluation.compare_runs import compare_runs, evaluation_of
from gream.evaluation.differences import difference
from gream.evaluation.evaluate import EvaluateConfig
from gream.evaluation.exam import Exam
from gream.evaluation.ranks_file import RANKS_FILE, load_ranks, save_ranks
from gream.evaluation.report import FIGURES_FILE


def evaluation(
    folder: Path,
    catalogue: Catalogue,
    interactions: Interactions,
    *,
    shift: int,
    users: slice = slice(None),
    seed: int = 3,
) -> Path:
    """An evaluation whose row `direct` finds targets at places that depend on the shift; kNN never does."""
    cases = interactions.cases(TEST)[users]
    exam = Exam(cases, 24, 5, seed=3)
    found = [np.roll(np.arange(24), shift - case.target % 4) for case in cases]
    lists = {"item_knn": [np.array([(c.target + 1) % 24]) for c in cases], "direct": found}
    folder.mkdir(parents=True)
    rows = {name: exam.row(of_row, 1.0) for name, of_row in lists.items()}
    (folder / FIGURES_FILE).write_text(json.dumps({"k": 5, "seed": seed, **rows}))
    save_ranks(folder, exam, {n: exam.ranks(of_row) for n, of_row in lists.items()}, catalogue, interactions)
    return folder


def test_ranks_come_back_as_they_were_written(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    exam = Exam(interactions.cases(TEST)[:4], 24, 5, seed=0)
    ranks = {"direct": np.array([1.0, np.inf, 3.0, 24.0]), "prm": np.array([np.inf] * 4)}
    save_ranks(tmp_path, exam, ranks, catalogue, interactions)
    cases, found = load_ranks(tmp_path)
    assert {name: places.tolist() for name, places in found.items()} == {
        n: p.tolist() for n, p in ranks.items()
    }
    assert cases["user_id"].to_list() == [interactions.user_ids[case.user] for case in exam.cases]
    assert cases["position"].to_list() == [len(case.history) for case in exam.cases]
    assert cases["target"].to_list() == [catalogue.item_ids[case.target] for case in exam.cases]


def test_rows_of_two_runs_are_paired_and_a_baseline_of_both_stands_once(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    places = [
        evaluation(tmp_path / n / "evaluation", catalogue, interactions, shift=s)
        for n, s in (("a", 3), ("b", 6))
    ]
    text = compare_runs([places[0].parent, places[1]], tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [line["title"] for line in found] == [
        "a/evaluation: item kNN", "a/evaluation: direct", "b/evaluation: direct",
    ]  # fmt: skip
    knn, ours = (load_ranks(places[1])[1][row] for row in ("item_knn", "direct"))
    assert found[2]["difference"] == difference(ours, knn, k=5, seed=3)
    assert "difference" not in found[0]
    markdown = (tmp_path / "out" / "comparison.md").read_text()
    assert "b/evaluation: direct" in markdown and "no user can be compared" not in markdown + text
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 5000


def test_models_that_answer_alike_both_stand_there(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    places = [evaluation(tmp_path / name, catalogue, interactions, shift=3) for name in ("a", "b")]
    compare_runs(places, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [line["title"] for line in found] == ["a: item kNN", "a: direct", "b: direct"]


def test_rows_that_were_asked_something_else_stand_there_without_a_difference(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    places = [
        evaluation(tmp_path / "a", catalogue, interactions, shift=3),
        evaluation(tmp_path / "b", catalogue, interactions, shift=3, users=slice(1, None)),
    ]
    text = compare_runs(places, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [("difference" in line) for line in found] == [False, True, False, False]
    assert "no user can be compared" in text


def test_runs_of_several_seeds_get_a_mean_and_runs_of_one_seed_none(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    places = [
        evaluation(tmp_path / f"run-{seed}" / "evaluation", catalogue, interactions, shift=shift, seed=seed)
        for seed, shift in ((1, 3), (2, 4), (5, 7))
    ]
    text = compare_runs(places, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    recalls = [line["recall@5"] for line in found if line["row"] == "direct"]
    assert len(set(recalls)) > 1
    told = f"{sum(recalls) / 3:.4f} ({min(recalls):.4f} to {max(recalls):.4f})"
    for shown in (text, (tmp_path / "out" / "comparison.md").read_text()):
        assert "evaluation: direct" in shown and "1, 2, 5" in shown and told in shown
    again = json.loads((places[1] / FIGURES_FILE).read_text())
    (places[1] / FIGURES_FILE).write_text(json.dumps(again | {"seed": 1}))
    assert "mean over seeds" not in compare_runs(places[:2], tmp_path / "out")


def test_the_command_compares_what_the_stage_wrote(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "run_dir": str(run_dir), "model": "model", "k": 5, "num_beams": 6, "reasoning": False,
        "max_history": 5,
    }  # fmt: skip
    for name, beams in (("narrow", 5), ("wide", 12)):
        evaluate.run(EvaluateConfig(**settings | {"num_beams": beams}, output=name))
    report = json.loads((run_dir / "wide" / FIGURES_FILE).read_text())
    assert [(one["row"], one["against"]) for one in report["differences"]] == [
        ("item_knn", "popularity"), ("direct", "popularity"), ("direct", "item_knn"),
    ]  # fmt: skip
    assert sum(group["cases"] for group in report["by_history"].values()) == report["cases"]
    assert sum(group["cases"] for group in report["by_popularity"].values()) == report["cases"]
    assert 0 < report["direct"]["gini"] < 1 and report["direct"]["novelty"] > 0
    text = (run_dir / "wide" / "report.md").read_text()
    for part in (
        "## What is offered",
        "## By length of the history",
        "## By popularity",
        "direct - item kNN",
    ):
        assert part in text
    monkeypatch.chdir(run_dir)
    assert main(["evaluate", "--compare", "narrow", "wide", "--to", "both"]) == 0
    assert "wide: direct" in capsys.readouterr().out and (run_dir / "both" / "comparison.md").is_file()
    assert main(["evaluate", "--compare", "narrow", "wide", "--to"]) == 2
    assert main(["evaluate", "--compare", "narrow"]) == 2
    assert "two or more" in capsys.readouterr().err


def test_places_without_one_evaluation_are_refused(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    first = evaluation(tmp_path / "run" / "first", catalogue, interactions, shift=3)
    assert evaluation_of(tmp_path / "run") == first
    second = evaluation(tmp_path / "run" / "second", catalogue, interactions, shift=3)
    with pytest.raises(InputError, match=r"holds 2 \(first, second\)"):
        evaluation_of(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds 0 \(none\)"):
        evaluation_of(tmp_path / "nothing")
    with pytest.raises(InputError, match="give each evaluation once"):
        compare_runs([first, first], tmp_path / "out")
    told = json.loads((second / FIGURES_FILE).read_text())
    (second / FIGURES_FILE).write_text(json.dumps(told | {"k": 7}))
    with pytest.raises(InputError, match="lists of 5 and 7 items"):
        compare_runs([first, second], tmp_path / "out")
    (first / RANKS_FILE).unlink()
    with pytest.raises(InputError, match="run `gream evaluate` again"):
        load_ranks(first)
