"""The stage `baselines`: what it chooses, what it writes, and what `gream evaluate` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.artifacts import MANIFEST
from gream.data.store import TEST, VALIDATION, Interactions, load_interactions
from gream.errors import InputError
from gream.evaluation import evaluate, tune
from gream.evaluation.baseline_file import CHOICE_FILE, Tuned, load_tuned
from gream.evaluation.baseline_rows import baseline_rows, purchases_before
from gream.evaluation.baselines import ItemKNN
from gream.evaluation.evaluate import EvaluateConfig
from gream.evaluation.exam import Exam
from gream.evaluation.sasrec import validate
from gream.evaluation.tune import BaselinesConfig


def stage(run_dir: Path, **settings: Any) -> BaselinesConfig:
    small: dict[str, Any] = {"sasrec_size": 8, "sasrec_dropouts": [0.0, 0.2], "sasrec_epochs": 2}
    return BaselinesConfig(run_dir=str(run_dir), **small | settings)


def test_settings_of_item_knn_are_the_best_of_all_that_were_tried(interactions: Interactions) -> None:
    sequences, cases = interactions.training_sequences(), interactions.cases(VALIDATION)
    log = tune._Log()
    chosen = tune.tune_knn(sequences, 24, cases, log)
    best = max(row["ndcg@10"] for row in log.rows)
    assert validate(ItemKNN(sequences, 24, **chosen), cases)["ndcg@10"] == pytest.approx(best, abs=1e-6)
    assert len(log.rows) == 4 * 4 + 4 * 3
    for row in log.rows[16:]:  # later grids start from the best of the earlier ones
        assert {"window", "shrinkage"} <= row.keys()
        assert row["window"] == chosen["window"] and row["shrinkage"] == chosen["shrinkage"]


def test_the_stage_writes_the_choice_all_that_was_tried_and_a_network_that_loads(run_dir: Path) -> None:
    tune.run(stage(run_dir))
    told = json.loads((run_dir / "baselines" / CHOICE_FILE).read_text())
    tuned = load_tuned(run_dir / "baselines", 24)
    assert tuned.knn == told["item_knn"]
    rows = [row for row in told["tried"] if row["model"] == "sasrec"]
    assert [row["dropout"] for row in rows] == [0.0, 0.2]
    best = max(rows, key=lambda row: row["ndcg@10"])
    assert told["sasrec"]["dropout"] == best["dropout"]
    cases = load_interactions(run_dir / "data").cases(VALIDATION)
    assert validate(tuned.sasrec, cases)["ndcg@10"] == pytest.approx(best["ndcg@10"], abs=1e-6)


def test_no_test_purchase_moves_a_choice_or_a_weight(run_dir: Path, interactions: Interactions) -> None:
    """Another last purchase for everybody: same settings, same weights."""
    tune.run(stage(run_dir))
    first = load_tuned(run_dir / "baselines", 24)
    for items, marks in zip(interactions.sequences, interactions.splits, strict=True):
        items[marks == TEST] = (items[marks == TEST] + 5) % 24
    sequences, cases = interactions.training_sequences(), interactions.cases(VALIDATION)
    assert tune.tune_knn(sequences, 24, cases) == first.knn
    again = tune._tune_sasrec(stage(run_dir), sequences, 24, cases, tune._Log())
    for name, weights in again.state_dict().items():
        assert torch.equal(weights.cpu(), first.sasrec.state_dict()[name].cpu())


def test_a_report_has_sasrec_and_the_tuned_neighbourhood(run_dir: Path, interactions: Interactions) -> None:
    tune.run(stage(run_dir))
    settings: dict[str, Any] = {
        "run_dir": str(run_dir), "model": "model", "k": 5, "num_beams": 6, "reasoning": False,
        "max_history": 5,
    }  # fmt: skip
    evaluate.run(EvaluateConfig(**settings, output="with", baselines="baselines"))
    evaluate.run(EvaluateConfig(**settings, output="without"))
    report = json.loads((run_dir / "with" / "report.json").read_text())
    exam = Exam(interactions.cases(TEST), 24, 5, 0, exclude_seen=True)
    tuned = load_tuned(run_dir / "baselines", 24)
    expected = exam.recall(tuned.sasrec.recommend(exam.histories, 5, exclude_seen=True))
    assert report["sasrec"]["recall@5"] == pytest.approx(expected, abs=1e-6)
    knn = ItemKNN(purchases_before(interactions, TEST), 24, **tuned.knn)
    expected = exam.recall(knn.recommend(exam.histories, 5, exclude_seen=True))
    assert report["item_knn"]["recall@5"] == pytest.approx(expected, abs=1e-6)
    assert "| SASRec |" in (run_dir / "with" / "report.md").read_text()
    assert "sasrec" not in json.loads((run_dir / "without" / "report.json").read_text())


def test_no_row_offers_what_was_bought_unless_it_is_asked_for(
    run_dir: Path, interactions: Interactions
) -> None:
    tune.run(stage(run_dir))
    exam = Exam(interactions.cases(TEST), 24, 20, 0, exclude_seen=True)
    allowed = exam.allowed(slice(None))
    assert allowed is not None
    for row, history in zip(allowed.tolist(), exam.histories, strict=True):
        assert [item for item in range(24) if not row[item]] == sorted(set(history.tolist()))
    part = exam.allowed(slice(2, 5))
    assert part is not None and torch.equal(part, allowed[2:5])
    assert Exam(exam.cases, 24, 20, 0).allowed(slice(None)) is None
    settings: dict[str, Any] = {
        "run_dir": str(run_dir), "model": "model", "k": 20, "num_beams": 24, "num_chains": 2,
        "max_history": 5,
        "max_chain_tokens": 4, "baselines": "baselines",
    }  # fmt: skip
    evaluate.run(EvaluateConfig(**settings, output="new"))
    evaluate.run(EvaluateConfig(**settings, output="all", exclude_seen=False))
    shown = {name: json.loads((run_dir / name / "examples.json").read_text()) for name in ("new", "all")}
    repeated = {
        name: [
            len({item["title"] for item in items} & set(customer["history"]))
            for customer in of_run["customers"]
            for items in customer["lists"].values()
        ]
        for name, of_run in shown.items()
    }
    assert set(repeated["new"]) == {0} and min(repeated["all"]) > 0
    assert "bought items left out" in (run_dir / "new" / "report.md").read_text()
    assert "bought items left out" not in (run_dir / "all" / "report.md").read_text()


def test_a_folder_without_baselines_or_with_those_of_another_catalogue_is_refused(run_dir: Path) -> None:
    with pytest.raises(InputError, match="holds no baselines; run `gream baselines`"):
        load_tuned(run_dir, 24)
    tune.run(stage(run_dir))
    with pytest.raises(InputError, match="know 24 items, but the catalogue has 25"):
        load_tuned(run_dir / "baselines", 25)


def test_baselines_with_settings_that_are_not_known_are_refused(run_dir: Path) -> None:
    tune.run(stage(run_dir))
    chosen = run_dir / "baselines" / CHOICE_FILE
    chosen.write_text(chosen.read_text().replace('"patience"', '"forbearance"'))
    (run_dir / "baselines" / MANIFEST).unlink()  # else a changed file is refused before it is read
    with pytest.raises(InputError, match="written by another gream; run `gream baselines` again"):
        load_tuned(run_dir / "baselines", 24)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sasrec_size": 7}, "give an even number"),
        ({"sasrec_epochs": 0}, "give at least 1"),
        ({"sasrec_learning_rate": 0.0}, "between 0 and 1"),
        ({"sasrec_dropouts": []}, "give rates"),
        ({"sasrec_dropouts": [1.0]}, "give rates"),
        ({"validation_users": -1}, "give at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        stage(tmp_path, **settings)


def test_tuned_settings_change_item_knn(interactions: Interactions) -> None:
    exam = Exam(interactions.cases(TEST), 24, 5, 0)
    sequences = interactions.training_sequences()
    model = ItemKNN(sequences, 24, window=1, decay=0.1)
    expected = exam.recall(model.recommend(exam.histories, 5))

    class Nobody:
        def recommend(self, histories: Any, k: int, *, exclude_seen: bool) -> list[np.ndarray]:
            return [np.arange(k)] * len(histories)

    tuned: Any = Tuned({"window": 1, "decay": 0.1}, Nobody())  # type: ignore[arg-type]
    rows, lists = baseline_rows(exam, sequences, tuned)
    assert list(rows) == list(lists) == ["popularity", "item_knn", "sasrec"]
    assert rows["item_knn"]["recall@5"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("best", [0, 1])
def test_the_network_with_the_best_dropout_is_kept(
    best: int, tmp_path: Path, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*args: Any, **kwargs: Any) -> Any:
        rate = args[3].dropout
        return rate, [
            {"epoch": 1, "loss": 1.0, "recall@10": 0.5, "ndcg@10": 0.3 if rate == rates[best] else 0.1}
        ]

    rates = [0.1, 0.4]
    monkeypatch.setattr(tune, "fit", fit)
    config = stage(tmp_path, sasrec_dropouts=rates)
    cases = interactions.cases(VALIDATION)
    found: Any = tune._tune_sasrec(config, interactions.training_sequences(), 24, cases, tune._Log())
    assert found == rates[best]


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_baselines_leave_out_what_was_bought_where_the_exam_says_so(
    exclude_seen: bool, interactions: Interactions
) -> None:
    exam = Exam(interactions.cases(TEST), 24, 20, 0, exclude_seen=exclude_seen)
    _, lists = baseline_rows(exam, interactions.training_sequences())
    for of_row in lists.values():
        repeated = [
            set(items.tolist()) & set(h.tolist()) for items, h in zip(of_row, exam.histories, strict=True)
        ]
        assert any(repeated) is not exclude_seen


@pytest.mark.parametrize(("split", "held_out"), [("validation", 2), ("test", 1)])
def test_a_scorer_counts_nothing_that_it_is_asked_for(
    run_dir: Path, interactions: Interactions, monkeypatch: pytest.MonkeyPatch, split: str, held_out: int
) -> None:
    seen: list[list[list[int]]] = []

    def load(*_: Any, **options: Any) -> Any:
        seen.append([items.tolist() for items in options["purchases"]])
        raise InputError("enough was seen")

    monkeypatch.setattr(evaluate, "load_engine", load)
    with pytest.raises(InputError, match="enough was seen"):
        evaluate.run(evaluate.EvaluateConfig(run_dir=str(run_dir), model="model", split=split))
    assert seen == [[items[:-held_out].tolist() for items in interactions.sequences]]
