"""`prm` on two real processes: the losses, and the scorer, of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gream.artifacts import check_whole, read_manifest
from gream.training import prm
from tests.training.processes import started

# 15 users, seven windows in a batch: of the last one's only window the second process has none. Nothing is
# dropped, because each process drops of its own rows.
SETTINGS = {
    "run_dir": "",
    "hidden_size": 16,
    "dropout": 0.0,
    "max_history": 8,
    "neighbours": 4,
    "num_negatives": 3,
    "epochs": 3,
    "batch_size": 7,
    "learning_rate": 1e-2,
}
POLICY = {"context": "policy", "model": "base", "train_policy": True, "targets_per_sequence": 1}


@pytest.mark.parametrize(
    ("how", "settings", "weights"),
    [
        ("ddp", {}, ["scorer.safetensors"]),
        pytest.param(
            "ddp", POLICY, ["scorer.safetensors", "model/model.safetensors"], marks=pytest.mark.slow
        ),
        pytest.param("zero3", {}, ["scorer.safetensors"], marks=pytest.mark.slow),
    ],
)
def test_two_processes_train_the_scorer_of_one(
    run_dir: Path, how: str, settings: dict[str, object], weights: list[str]
) -> None:
    """The same numbers are added in another order: 1e-6 a step, and AdamW may turn tiny gradients."""
    told = SETTINGS | settings | {"run_dir": str(run_dir)}
    prm.run(prm.PrmConfig(output="one", **told))  # type: ignore[arg-type]
    words = [word for name, value in (told | {"output": "two"}).items() for word in (f"--{name}", str(value))]
    with started(("prm", *words), how) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    check_whole(run_dir / "two")
    assert read_manifest(run_dir / "two").counts["processes"] == 2
    one, two = (json.loads((run_dir / name / prm.REPORT_FILE).read_text()) for name in ("one", "two"))
    losses = [[epoch["loss"] for epoch in report["epochs"]] for report in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and max(losses[0]) > min(losses[0]) + 0.1
    for file in weights:
        first, second = (
            torch.cat([weight.flatten() for _, weight in sorted(load_file(run_dir / name / file).items())])
            for name in ("one", "two")
        )
        # A bias that softmax takes out again has no gradient but rounding, which AdamW makes a step of.
        assert ((first - second).abs() < 1e-3).float().mean() > 0.99
