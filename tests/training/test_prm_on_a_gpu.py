"""The scorer learns on a GPU where there is one; shown on a pretended one, see `tests/pretend_gpu`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.training import prm
from gream.training.prm import PrmConfig
from tests.pretend_gpu import OnGpu, pretend_gpu

SMALL: dict[str, Any] = {
    "hidden_size": 16, "max_history": 5, "epochs": 1, "batch_size": 8, "num_negatives": 3,
    "neighbours": 4, "dropout": 0.0,
}  # fmt: skip
POLICY: dict[str, Any] = {"context": "policy", "model": "srpo"}


@pytest.mark.parametrize("more", [{}, POLICY, POLICY | {"train_policy": True}], ids=["own", "policy", "both"])
def test_the_scorer_and_its_policy_learn_on_a_gpu_what_they_learn_on_a_cpu(
    run_folder: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and draws aside (a GPU has its own), the same losses; a policy that only reads is in half."""
    trained: list[bool] = []
    step: Callable[..., float] = prm._step

    def watched(loss: torch.Tensor, *rest: Any) -> float:
        trained.append(isinstance(loss, OnGpu))
        return step(loss, *rest)

    monkeypatch.setattr(prm, "_step", watched)
    prm.run(PrmConfig(run_dir=str(run_folder), output="here", **SMALL | more))
    assert trained and not any(trained)
    trained.clear()
    with pretend_gpu(monkeypatch):
        prm.run(PrmConfig(run_dir=str(run_folder), output="there", **SMALL | more))
    assert trained and all(trained)
    losses = [
        [epoch["loss"] for epoch in json.loads((run_folder / name / prm.REPORT_FILE).read_text())["epochs"]]
        for name in ("here", "there")
    ]
    # bfloat16 keeps 8 bits of the states that are read
    np.testing.assert_allclose(*losses, rtol=1e-2 if more == POLICY else 1e-5)
