"""What ZeRO-3 wrote, gathered from two processes, is a folder that vLLM serves as torch does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.decoding.beam import beam_search
from gream.decoding.engines import open_backend
from gream.language.prompting import Prompter
from gream.language.vocab import build_model, extend, save_model, train_tokenizer
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from tests.training.processes import started

HISTORIES = [[3, 1], [7, 2, 9, 4], [11]]


@pytest.mark.vllm
@pytest.mark.slow  # starts DeepSpeed and vLLM
def test_vllm_searches_what_zero_3_trained(
    run_dir: Path, names: Names, catalogue: Catalogue, codebooks: list[np.ndarray]
) -> None:
    pytest.importorskip("vllm")
    tokenizer = train_tokenizer([*catalogue.titles, *catalogue.descriptions], 400)
    model = build_model(len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, seed=1)
    extend(model, tokenizer, names, codebooks, seed=1)
    save_model(run_dir / "wide", model, tokenizer, names)
    words = "sft --model wide --output trained --batch_size 4 --epochs 3 --learning_rate 0.01"
    with started(
        (*words.split(), "--tasks", "{next_item: 1.0}", "--run_dir", str(run_dir)), "zero3"
    ) as process:
        _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    found = []
    for engine in ("torch", "vllm"):
        backend, tokenizer = open_backend(engine, run_dir / "trained", names)
        prompter = Prompter(tokenizer, names, max_history=5)
        prompts = [prompter.direct(history) for history in HISTORIES]
        found.append(
            beam_search(backend, prompts, TrieConstraint(names), prompter.search_blocks(), num_beams=6)
        )
        backend.close()
    for by_torch, by_vllm in zip(*found, strict=True):
        assert by_torch.items.tolist() == by_vllm.items.tolist()
        np.testing.assert_allclose(by_torch.logps, by_vllm.logps, atol=1e-3)
