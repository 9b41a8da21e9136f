"""Causal language models by mean pooling, built from configs: no download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from gream import artifacts
from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.semantic_ids.embed import EmbedConfig, run
from gream.semantic_ids.embeddings_file import load_embeddings
from gream.semantic_ids.encoder import load_encoder
from gream.semantic_ids.pooling import MeanPooling

SaveModel = Callable[[Path, str], Path]
TEXTS = ["red lamp", "a red lamp for the tent and a blue lamp", "tent", "blue ink for the printer"]


def one_by_one(folder: Path) -> np.ndarray:
    """The mean of the last hidden layer of each text alone, so without any padding."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for t in TEXTS]
    return torch.stack(rows).numpy()


def test_a_batch_with_padding_equals_texts_one_by_one(tmp_path: Path, save_model: SaveModel) -> None:
    folder = save_model(tmp_path, "causal")
    encoder = load_encoder(str(folder), max_tokens=12)
    assert isinstance(encoder, MeanPooling)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, 16)
    assert vectors.dtype == np.float32
    # float32 through two layers, in batches of another shape
    np.testing.assert_allclose(vectors, one_by_one(folder), atol=1e-5)


def test_long_texts_are_cut_to_what_the_model_reads(tmp_path: Path, save_model: SaveModel) -> None:
    folder = save_model(tmp_path, "causal")
    long = " ".join(["lamp"] * 50)
    vectors = load_encoder(str(folder), max_tokens=99).encode([long, " ".join(["lamp"] * 12), "lamp lamp"])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    cut = load_encoder(str(folder), max_tokens=2).encode([long])
    np.testing.assert_allclose(cut[0], vectors[2], atol=1e-5)


def test_a_text_without_tokens_is_zero(tmp_path: Path, save_model: SaveModel) -> None:
    vectors = load_encoder(str(save_model(tmp_path, "causal")), max_tokens=9).encode(["", "lamp"])
    assert not vectors[0].any() and vectors[1].any()


def test_a_special_token_in_a_text_is_only_text(tmp_path: Path, save_model: SaveModel) -> None:
    folder = save_model(tmp_path, "causal")
    attack, words = load_encoder(str(folder), max_tokens=9).encode(["<end>", "< end >"])
    np.testing.assert_allclose(attack, words, atol=1e-6)


def test_the_stage_takes_a_folder_as_encoder_and_fingerprints_it(
    tmp_path: Path,
    save_model: SaveModel,
    prepare: Callable[[Path, Catalogue, Interactions], None],
    catalogue: Catalogue,
    interactions: Interactions,
) -> None:
    folder = save_model(tmp_path / "model", "causal")
    prepare(tmp_path, catalogue, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), encoder=str(folder)))
    vectors = load_embeddings(tmp_path / "embeddings")
    assert vectors.shape == (len(catalogue), 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert "encoder" in artifacts.read_manifest(tmp_path / "embeddings").inputs


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path, save_model: SaveModel) -> None:
    folder = save_model(tmp_path, "causal")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model with safetensors"):
        load_encoder(str(folder), max_tokens=9)
