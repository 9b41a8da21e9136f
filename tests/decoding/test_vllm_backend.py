"""The vLLM engine against the torch engine, on the same saved folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from gream.decoding.beam import beam_search
from gream.decoding.path_session import IDS_PER_REQUEST
from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_backend import VllmBackend
from gream.errors import InputError
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout

VOCAB, PAD, STOP = 256, 0, 7
SIZES = (150, 4, 3)  # the first block needs two requests
BLOCKS = [range(40, 190), range(190, 194), range(194, 197)]
PROMPTS = [[3, 9, 4], [5], [11, 2, 30, 8, 1, 6, 21]]


def tiny_model() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=9,  # not the stop token: an engine that stops here differs from the other
    )
    return Qwen3ForCausalLM(config).eval()


def random_names(num_items: int, ordered: bool) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in SIZES], indexing="ij"), -1).reshape(-1, 3)
    chosen = np.random.default_rng(0).permutation(len(every))[:num_items]
    return Names(SidLayout(SIZES, ordered=ordered), every[chosen].astype(np.int32))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TorchBackend, VllmBackend]]:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.save_pretrained(folder)
    backend = VllmBackend(folder, max_num_seqs=64)
    yield TorchBackend(model, PAD), backend
    backend.close()


@pytest.mark.vllm
@pytest.mark.parametrize(("num_beams", "ordered"), [(3, True), (60, True), (3, False), (60, False)])
def test_the_search_finds_the_same_items_with_the_same_scores(
    engines: tuple[TorchBackend, VllmBackend], num_beams: int, ordered: bool
) -> None:
    constraint = constraint_of(random_names(60, ordered))
    blocks = BLOCKS if ordered else [range(40, 197)] * 3
    by_torch, by_vllm = (
        beam_search(engine, PROMPTS, constraint, blocks, num_beams=num_beams) for engine in engines
    )
    for a, b in zip(by_torch, by_vllm, strict=True):
        assert a.items.tolist() == b.items.tolist()
        # float32 in both, other kernels
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)


@pytest.mark.vllm
def test_a_block_larger_than_one_request_is_whole(engines: tuple[TorchBackend, VllmBackend]) -> None:
    assert len(BLOCKS[0]) > IDS_PER_REQUEST
    by_torch, by_vllm = (engine.start(PROMPTS).first(range(VOCAB)) for engine in engines)
    torch.testing.assert_close(by_torch, by_vllm, atol=1e-4, rtol=0)


@pytest.mark.vllm
def test_greedy_text_is_the_same(engines: tuple[TorchBackend, VllmBackend]) -> None:
    options = {"stop": STOP, "max_tokens": 12, "temperature": 0.0}
    by_torch, by_vllm = (engine.complete(PROMPTS, seeds=[[0], [0, 1], []], **options) for engine in engines)
    assert by_torch == by_vllm


@pytest.mark.vllm
def test_sampled_texts_follow_their_seeds_and_end_with_stop(
    engines: tuple[TorchBackend, VllmBackend],
) -> None:
    options = {"stop": STOP, "max_tokens": 60, "temperature": 1.0}
    many = [list(range(30)), [30, 3]]
    one, other = engines[1].complete([[3, 4], [3, 4]], seeds=many, **options)
    assert [one, other] == engines[1].complete([[3, 4], [3, 4]], seeds=many, **options)
    assert other[1] == one[3]  # the same prompt and seed, elsewhere in the batch
    assert len({tuple(text) for text in [*one, other[0]]}) == 31
    stopped = [text for text in one if STOP in text]
    assert stopped and all(text.index(STOP) == len(text) - 1 for text in stopped)
    assert all(len(text) == 60 for text in one if STOP not in text)


@pytest.mark.vllm
def test_long_prompts_with_seeds_do_not_end_the_engine(engines: tuple[TorchBackend, VllmBackend]) -> None:
    """More tokens than vLLM takes at once: it would prefill a prompt in parts, and fail there on a CPU."""
    prompts = [[5 + number % 200, 9, 4, 8] * 30 for number in range(100)]
    texts = engines[1].complete(prompts, seeds=[[1]] * 100, stop=STOP, max_tokens=2, temperature=1.0)
    assert all(1 <= len(text) <= 2 for [text] in texts)


def test_without_vllm_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(InputError, match=r"pip install 'gream\[vllm\]'"):
        VllmBackend(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no model"):
        VllmBackend(tmp_path)


def test_the_states_of_prompts_are_refused() -> None:
    """Before anything is asked of vLLM, so that the error does not come in the middle of a search."""
    backend = VllmBackend.__new__(VllmBackend)
    with pytest.raises(InputError, match="use the engine torch, or a scorer with an encoder of its own"):
        backend.start(PROMPTS, keep_states=True)
    with pytest.raises(ValueError, match="without keep_states"):
        backend.start(PROMPTS).prompt_states()
