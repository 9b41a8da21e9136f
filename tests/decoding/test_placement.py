"""Engines come to a GPU where there is one; shown on a pretended one, see `tests/pretend_gpu`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.engines import open_backend, ready
from gream.decoding.recommend import Engine, Search, load_engine, recommend_many
from gream.decoding.torch_backend import TorchBackend
from gream.language.vocab import save_model
from gream.semantic_ids.layout import Names, save_names
from tests.decoding.tiny import tiny_model
from tests.pretend_gpu import GPU, pretend_gpu

DIRECT = Search(k=5, num_beams=8)
REASONING = Search(k=5, num_beams=8, mode="reasoning", num_chains=2, max_chain_tokens=4)


@pytest.fixture
def sids(tmp_path: Path, names: Names) -> Path:
    (tmp_path / "sids").mkdir()
    save_names(tmp_path / "sids", names)
    return tmp_path / "sids"


@pytest.fixture
def folder(tmp_path: Path, model_and_tokenizer: tuple[Any, Any], names: Names) -> Path:
    save_model(tmp_path / "sft", *model_and_tokenizer, names)
    return tmp_path / "sft"


def answers(engine: Engine, search: Search) -> list[np.ndarray]:
    return [answer.items for answer in recommend_many(engine, [[1, 2, 3], [4], [5, 6]], search)]


def test_a_gpu_takes_the_model_in_bfloat16_and_a_cpu_as_it_is(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend: Any = open_backend("torch", folder, names)[0]
    assert (backend.device.type, backend.model.dtype) == ("cpu", torch.float32)
    with pretend_gpu(monkeypatch):
        backend = open_backend("torch", folder, names)[0]
        assert (backend.device, backend.model.dtype) == (GPU, torch.bfloat16)


@pytest.mark.parametrize("search", [DIRECT, REASONING], ids=["direct", "reasoning"])
def test_both_modes_search_on_a_gpu_what_they_search_on_a_cpu(
    folder: Path, sids: Path, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors of two devices would have met, and been refused, if a part had stayed behind."""
    on_cpu = load_engine(sids, folder)
    backend: Any = on_cpu.backend
    backend.model.to(torch.bfloat16)
    expected = answers(on_cpu, search)
    with pretend_gpu(monkeypatch):
        engine = load_engine(sids, folder)
        assert engine.backend.device == engine.constraint.device == GPU
        found = answers(engine, search)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_scores_of_a_gpu_in_bfloat16_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_gpu(monkeypatch):
        session = TorchBackend(ready(tiny_model()), 0).start([[3, 4], [5]])
        assert session.first(range(40, 44)).dtype == torch.float32


def test_the_pretended_gpu_refuses_tensors_of_two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretend_gpu(monkeypatch):
        there = torch.ones(3, device="cuda")
        assert (there + there).tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(AssertionError, match="two devices"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


def test_rotary_frequencies_stay_exact_where_weights_become_short(
    model_and_tokenizer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 the angle of a position of some hundreds is off by half a radian."""
    model = copy.deepcopy(model_and_tokenizer[0])
    with pretend_gpu(monkeypatch):
        placed = ready(model)
        assert {weight.dtype for weight in placed.parameters()} == {torch.bfloat16}
        assert {buffer.dtype for buffer in placed.buffers()} == {torch.float32}
        assert placed.get_input_embeddings().weight is placed.get_output_embeddings().weight
