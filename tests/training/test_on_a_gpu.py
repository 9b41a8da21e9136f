"""On a real GPU training is in bfloat16 there, and what it held is recorded; CI has none."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gream.artifacts import read_manifest
from gream.decoding.recommend import Search, load_engine, recommend_many
from gream.training import prm, sft, srpo
from tests.training.policies import settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def test_fine_tuning_computes_in_bfloat16_on_the_gpu(run_folder: Path) -> None:
    sft.run(sft.SftConfig(run_dir=str(run_folder), model="srpo", output="out", tasks={"next_item": 1.0}))
    manifest = read_manifest(run_folder / "out")
    assert manifest.counts["mixed_precision"] == "bf16" and manifest.device_peak_mb > 0
    assert math.isfinite(manifest.counts["loss"])


@pytest.mark.parametrize("rollouts", ["free", "constrained", "beam"])
def test_reinforcement_learning_computes_in_bfloat16_on_the_gpu(run_folder: Path, rollouts: str) -> None:
    srpo.run(settings(run_dir=str(run_folder), model="srpo", output="out", rollouts=rollouts))
    manifest = read_manifest(run_folder / "out")
    assert manifest.counts["mixed_precision"] == "bf16" and manifest.device_peak_mb > 0


def test_the_scorer_learns_and_guides_on_the_gpu(run_folder: Path) -> None:
    prm.run(prm.PrmConfig(run_dir=str(run_folder), output="prm", hidden_size=16, epochs=1))
    assert read_manifest(run_folder / "prm").device_peak_mb > 0
    engine = load_engine(run_folder / "sids", run_folder / "srpo", run_folder / "prm")
    assert engine.backend.device.type == "cuda"
    for mode in ("direct", "reasoning"):
        search = Search(k=5, num_beams=8, expand_width=16, mode=mode, num_chains=2, max_chain_tokens=8)
        assert all(len(answer.items) == 5 for answer in recommend_many(engine, [[1, 2], [3]], search))
