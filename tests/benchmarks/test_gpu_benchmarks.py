"""What runs on a GPU, dry on the CPU: every piece on tiny shapes, figures that are kept, and a table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gream.language.vocab import build_model
from tests.benchmarks.figures import figure
from tests.benchmarks.gpu import beauty100m, models, reasoning, search
from tests.benchmarks.gpu import results as kept
from tests.benchmarks.gpu.__main__ import PIECES, main, run_piece
from tests.benchmarks.gpu.results import DONE, Results
from tests.pretend_gpu import GPU, pretend_gpu


def measured(piece: Any, **options: Any) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    piece.measure(figures.update, dry=True, **options)
    return figures


def value(figures: dict[str, dict[str, Any]], ending: str) -> float:
    [found] = [row["value"] for name, row in figures.items() if name.endswith(ending)]
    return float(found)


def test_the_searches_that_are_compared_find_the_same() -> None:
    figures = measured(search)
    assert value(figures, "first 10 items that both found") == 1.0  # in float32, on the CPU
    assert value(figures, "16 at a time") > 0


def test_chains_are_as_long_as_their_budget() -> None:
    figures = measured(reasoning)
    assert value(figures, "1 user at a time: tokens of a chain") == reasoning.DRY_TOKENS
    assert value(figures, "16 users at a time: seconds for a user") > 0
    assert not any("vllm" in name for name in figures)


def test_the_whole_of_reasoning_is_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shown on a pretended one, in bfloat16; its clock and its memory are no GPU's."""
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 << 30)
    engines: list[Any] = []
    recommend = reasoning.recommend_many

    def watched(engine: Any, *rest: Any, **more: Any) -> Any:
        engines.append(engine)
        return recommend(engine, *rest, **more)

    monkeypatch.setattr(reasoning, "recommend_many", watched)
    with pretend_gpu(monkeypatch):
        figures = measured(reasoning)
    found = {(e.backend.device, e.constraint.device, e.backend.model.dtype) for e in engines}
    assert found == {(GPU, GPU, torch.bfloat16)}
    assert {row["value"] for name, row in figures.items() if "weights included" in name} == {3.0}


@pytest.mark.slow
@pytest.mark.vllm
def test_reasoning_is_timed_on_vllm_too() -> None:
    pytest.importorskip("vllm")
    figures = measured(reasoning, vllm=True)
    assert value(figures, "vllm, 2 chains of 6 tokens, 16 users at a time: seconds for a user") > 0


def test_a_larger_decoder_is_trained_and_evaluated_and_each_stage_tells_what_it_took(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run_piece("beauty100m", out, tmp_path / "runs", dry=True)
    piece = json.loads(out.read_text())["pieces"]["beauty100m"]
    assert piece["status"] == DONE
    figures = piece["figures"]
    assert len([name for name in figures if name.endswith(": seconds")]) == 7
    assert {"vocab: parameters", "sft: speed", "direct: ndcg@10"} <= figures.keys()
    assert figures["the search: on the GPU in bfloat16, 1 if so"]["value"] == 0.0  # no GPU here


def test_the_larger_decoder_has_a_hundred_million_weights() -> None:
    shape = beauty100m.LARGER["05-vocab"]
    with torch.device("meta"):
        model = build_model(2048, seed=0, **shape)
    assert 99e6 < sum(p.numel() for p in model.parameters()) < 102e6


@pytest.mark.slow
def test_every_stage_of_the_demo_tells_its_time_and_where_it_computed(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run_piece("demo", out, tmp_path / "runs", dry=True)
    piece = json.loads(out.read_text())["pieces"]["demo"]
    assert piece["status"] == DONE
    figures = piece["figures"]
    assert len([name for name in figures if name.endswith(": seconds")]) == 12
    assert len([name for name in figures if "peak memory" in name]) == 6
    assert figures["srpo: computed in bfloat16, 1 if so"]["value"] == 0.0  # no GPU here
    assert "reasoning: recall@10" in figures


@pytest.mark.slow
def test_one_command_runs_what_it_is_told_and_goes_on_where_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["beauty100m", "--dry", "--out", str(tmp_path / "gpu.json"), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--minutes", "0.0001"]) == 1
    assert "beauty100m: stopped after 0.0001 minutes; call it again" in capfd.readouterr().out
    assert main(words) == 0
    assert "beauty100m: direct: recall@10" in capfd.readouterr().out
    assert main(words) == 0
    assert "[7/7] evaluate: current, skipped" in capfd.readouterr().out


def test_a_model_of_4b_is_built_from_its_published_shape() -> None:
    """On `meta`, which holds no weights: the device is the one argument that differs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "compute_device", lambda: torch.device("meta"))
        model, block = models.random_model(models.LARGE, dry=False)
    table = model.get_input_embeddings().weight
    assert (table.dtype, table.device.type, model.config.num_hidden_layers) == (torch.bfloat16, "meta", 36)
    assert sum(p.numel() for p in model.parameters()) == 4_022_468_096 + 1024 * 2560
    assert (block.start, len(block)) == (151_936, 1024)


def test_later_calls_add_to_the_file_and_machines_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    for piece, bar in (("search", ""), ("reasoning", "<= 6.5")):
        results = Results(out, dry=True)
        results.begin(piece)
        results.keep(piece, {"seconds": figure(7.0, "s", bar)})
        results.end(piece, DONE)
    assert set(results.content["pieces"]) == {"search", "reasoning"}
    assert not results.good  # a bar is missed
    lines = results.markdown().splitlines()
    assert lines[0].startswith("A dry run on tiny shapes, whose figures mean nothing. Device CPU")
    assert lines[-1] == "| reasoning: seconds | 7 s | <= 6.5 |"
    monkeypatch.setattr(kept, "hardware", lambda: {"device": "another"})
    with pytest.raises(ValueError, match="holds figures of"):
        Results(out, dry=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run for half an hour")
def test_without_a_gpu_only_a_dry_run_is_possible(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "There is no GPU here" in capsys.readouterr().err


def test_unknown_pieces_are_told() -> None:
    with pytest.raises(SystemExit):
        main(["nothing", "--dry"])
    assert set(PIECES) == {"search", "reasoning", "demo", "beauty100m"}
