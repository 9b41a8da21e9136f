"""Early stop: when it comes, which weights stay, whom it asks, and that it changes nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gream.data.store import TEST, TRAIN, VALIDATION, Interactions
from gream.decoding.recommend import load_engine, recommend_many
from gream.errors import InputError
from gream.evaluation import metrics
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training.early_stop import ValidationStop, validation_cases
from gream.training.packing import ROW_BY_ROW, attention
from gream.training.sft import SftConfig, run
from gream.training.validation import RECALL, SEARCH, Measured


def _config(run_dir: Path, output: str, **options: Any) -> SftConfig:
    """24 titles and 15 users, 8 rows a step, 4 times: 20 steps, measured every fourth."""
    settings = {"validation_users": 9, "validate_every": 0.2, "patience": 2, "learning_rate": 1e-2}
    return SftConfig(
        run_dir=str(run_dir), output=output, tasks={"title_to_name": 1.0, "next_item": 1.0}, epochs=4,
        batch_size=8, max_history=5, **(settings | options),
    )  # fmt: skip


def _report(folder: Path) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads((folder / "sft_report.json").read_text())
    return found


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Recalls that rise, and fall from then on; the weights that were measured are kept."""
    seen: list[dict[str, torch.Tensor]] = []
    recalls = [0.1, 0.3, 0.3, 0.2, 0.9]

    def measure(stop: ValidationStop) -> Measured:
        seen.append({k: v.clone() for k, v in stop._plain.state_dict().items()})
        recall = recalls[len(seen) - 1]
        return Measured(recall, {RECALL: recall})

    monkeypatch.setattr(ValidationStop, "measure", measure)
    return seen


def test_training_stops_after_patience_and_keeps_the_best_weights(
    run_dir: Path, scripted: list[dict[str, torch.Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    """0.3 again is no gain: the fourth measurement is the second without one, and the fifth never comes."""
    with caplog.at_level(logging.INFO, logger="gream"):
        run(_config(run_dir, "out"))
    log = _report(run_dir / "out")
    assert [(e["step"], e[RECALL]) for e in log if RECALL in e] == [(4, 0.1), (8, 0.3), (12, 0.3), (16, 0.2)]
    assert [e["step"] for e in log if "loss" in e] == [16]
    weights = load_file(run_dir / "out" / "model.safetensors")
    assert all(torch.equal(weights[name], scripted[1][name]) for name in weights)
    assert not torch.equal(weights["model.norm.weight"], scripted[3]["model.norm.weight"])
    counts = json.loads((run_dir / "out" / "manifest.json").read_text())["counts"]
    assert (counts["steps"], counts["best_step"], counts[RECALL]) == (16, 8, 0.3)
    assert "0.3000 at best, after step 8; measured 4 times in" in caplog.text


def test_the_last_step_is_measured_too(run_dir: Path, scripted: list[dict[str, torch.Tensor]]) -> None:
    """Every seventh of 20 steps, and the last."""
    run(_config(run_dir, "out", validate_every=0.35, patience=9))
    assert [e["step"] for e in _report(run_dir / "out") if RECALL in e] == [7, 14, 20]


def test_only_validation_purchases_are_asked_for(interactions: Interactions) -> None:
    cases = validation_cases(interactions, 9, seed=0)
    assert len({case.user for case in cases}) == 9 < len(interactions.user_ids)
    for case in cases:
        items, marks = interactions.sequences[case.user], interactions.splits[case.user]
        assert [case.target] == items[marks == VALIDATION].tolist()
        assert case.history.tolist() == items[marks == TRAIN].tolist()
    assert [c.user for c in cases] == [c.user for c in validation_cases(interactions, 9, seed=0)]
    assert [c.user for c in cases] != [c.user for c in validation_cases(interactions, 9, seed=1)]


def test_what_was_bought_in_the_test_split_changes_nothing(run_dir: Path, interactions: Interactions) -> None:
    """Other test purchases, the same bytes."""
    from gream.artifacts import writing
    from gream.data.store import load_catalogue, save_dataset

    run(_config(run_dir, "one"))
    catalogue = load_catalogue(run_dir / "data")
    other = [np.where(m == TEST, (s + 1) % 24, s) for s, m in _pairs(interactions)]
    swapped = Interactions(interactions.user_ids, other, interactions.splits)
    with writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, swapped)
    run(_config(run_dir, "two"))
    for name in ("model.safetensors", "sft_report.json"):
        assert (run_dir / "one" / name).read_bytes() == (run_dir / "two" / name).read_bytes()


def _pairs(interactions: Interactions) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(interactions.sequences, interactions.splits, strict=True))


def test_no_validation_purchase_is_an_error(interactions: Interactions) -> None:
    nobody = Interactions(
        interactions.user_ids, interactions.sequences, [np.full_like(m, TRAIN) for m in interactions.splits]
    )
    with pytest.raises(InputError, match="no purchase to predict"):
        validation_cases(nobody, 9, seed=0)


@pytest.mark.parametrize("trainable", ["full", "lora", "names"])
def test_the_recall_is_the_one_that_the_saved_folder_gets(
    run_dir: Path, interactions: Interactions, names: Names, trainable: str
) -> None:
    """With packing, whose attention the search cannot use; through the engine that evaluation loads."""
    run(_config(run_dir, "out", packing=True, trainable=trainable, validate_every=0.5))
    best = max(e[RECALL] for e in _report(run_dir / "out") if RECALL in e)
    cases = validation_cases(interactions, 9, seed=0)
    engine = load_engine(run_dir / "sids", run_dir / "out", max_history=5)
    answers = recommend_many(engine, [case.history.tolist() for case in cases], SEARCH)
    ranks = metrics.ranks_of_targets([a.items for a in answers], [case.target for case in cases])
    assert metrics.recall(ranks, 10) == best > 0


def test_measuring_changes_neither_losses_nor_modes(run_dir: Path) -> None:
    run(_config(run_dir, "with", patience=99, packing=True))
    run(_config(run_dir, "without", validation_users=0, packing=True))
    with_it, without = (_report(run_dir / output) for output in ("with", "without"))
    assert [e for e in with_it if RECALL not in e] == without


def test_measuring_works_while_rows_are_packed(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, interactions: Interactions
) -> None:
    model, _ = model_and_tokenizer
    cases = validation_cases(interactions, 15, seed=0)
    stop = ValidationStop(model, prompter, cases, every=0.5, patience=1)
    before = stop.measure()
    model.train()
    with attention(model, ROW_BY_ROW):
        assert stop.measure() == before
        assert model.config._attn_implementation == ROW_BY_ROW
    assert model.training
