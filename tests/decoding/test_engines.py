"""Each engine comes to a model folder by its name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gream.decoding import engines, vllm_async, vllm_backend
from gream.decoding.engines import open_backend
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import Names
from tests.decoding.scripted_vllm import ScriptedVllm, logp


@pytest.fixture
def folder(tmp_path: Path, model_and_tokenizer: tuple[Any, Any], names: Names) -> Path:
    save_model(tmp_path / "srpo", *model_and_tokenizer, names)
    return tmp_path / "srpo"


def test_torch_loads_the_model_here(folder: Path, names: Names) -> None:
    backend, tokenizer = open_backend("torch", folder, names)
    assert isinstance(backend, TorchBackend)
    assert tokenizer.convert_tokens_to_ids("<a_0>") > 0


@pytest.mark.parametrize(("gpu", "places"), [(True, ["cuda"]), (False, [])])
def test_torch_takes_the_gpu_where_there_is_one(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch, gpu: bool, places: list[str]
) -> None:
    """By the name of none: in a launch each process has chosen its own."""
    model, tokenizer = load_model(folder, names)
    moved: list[str] = []
    monkeypatch.setattr(model, "to", lambda device, _: moved.append(str(device)) or model)
    monkeypatch.setattr(model, "named_buffers", list)  # which stay exact: see test_placement
    monkeypatch.setattr(engines, "load_model", lambda *_: (model, tokenizer))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    open_backend("torch", folder, names)
    assert moved == places


@pytest.mark.parametrize(("concurrent", "started"), [(False, "in process"), (True, "beside it")])
def test_vllm_runs_beside_this_process_for_callers_at_once(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch, concurrent: bool, started: str
) -> None:
    monkeypatch.setattr(vllm_backend, "VllmBackend", lambda path: ("in process", path))
    monkeypatch.setattr(vllm_async, "start_vllm", lambda path: ("beside it", path))
    backend, _ = open_backend("vllm", folder, names, concurrent=concurrent)
    assert backend == (started, folder)


def test_openai_asks_servers_of_this_folder_and_needs_no_weights(
    folder: Path, names: Names, model_and_tokenizer: tuple[Any, Any]
) -> None:
    pytest.importorskip("httpx2", reason="the extra `serve` is not installed")
    model, tokenizer = model_and_tokenizer
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    with ScriptedVllm(model="srpo", vocab=model.config.vocab_size) as server:
        server.spelled = "<a_0><c_4>"  # the first and the last of the item tokens
        server.tokens = [tokenizer.convert_tokens_to_ids(token) for token in ("<a_0>", "<c_4>")]
        backend, _ = open_backend("openai", folder, names, url=server.url)
        found = backend.start([[3, 4]]).first(range(40, 44)).tolist()
        backend.close()
    assert found == [[logp([3, 4], token) for token in range(40, 44)]]


@pytest.mark.parametrize(
    ("engine", "url", "message"),
    [
        ("jax", "", "engine is 'jax'; give one of torch, vllm, openai"),
        ("openai", "", "needs --url"),
        ("torch", "http://127.0.0.1:1", "url is given, but engine is 'torch'"),
        ("vllm", "http://127.0.0.1:1", "url is given, but engine is 'vllm'"),
    ],
)
def test_what_does_not_fit_is_told(folder: Path, names: Names, engine: str, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_backend(engine, folder, names, url=url)


def test_without_httpx2_the_error_names_the_extra(
    folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(InputError, match=r"pip install 'gream\[serve\]'"):
        open_backend("openai", folder, names, url="http://127.0.0.1:1")
