"""Hugging Face encoders and causal models, built from configs: no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids import item_text
from gream.semantic_ids.embed import EmbedConfig, load_embeddings, run
from gream.semantic_ids.pooling import encode_texts

TEXTS = ["red lamp", "a red lamp for the tent and a blue lamp", "tent", "blue ink for the printer"]


def save_model(folder: Path, kind: str) -> Path:
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"])
    tokenizer.train_from_iterator([*TEXTS, "< end >"], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"vocab_size": len(fast), "hidden_size": 16, "num_attention_heads": 2}
    layers = {"num_hidden_layers": 2, "intermediate_size": 24, "max_position_embeddings": 12}
    if kind == "encoder":
        BertModel(BertConfig(**shape, **layers)).save_pretrained(folder)
    elif kind == "causal":
        config = Qwen3Config(**shape, **layers, num_key_value_heads=1, head_dim=8)
        Qwen3ForCausalLM(config).save_pretrained(folder)
    else:
        config = T5Config(vocab_size=len(fast), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def one_by_one(folder: Path) -> np.ndarray:
    """The mean of the last hidden layer of each text alone, so without any padding."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(dim=0) for t in TEXTS]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_batches_with_padding_equal_texts_one_by_one(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path, kind)
    vectors = encode_texts(TEXTS, str(folder), max_tokens=12, batch_size=3)
    assert vectors.shape == (4, 16)
    assert vectors.dtype == np.float32
    # float32 through two layers, in batches of another shape
    np.testing.assert_allclose(vectors, one_by_one(folder), atol=1e-5)


def test_long_texts_are_cut_to_what_the_model_reads(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "encoder")
    long = " ".join(["lamp"] * 50)
    texts = [long, " ".join(["lamp"] * 12), "lamp lamp"]
    vectors = encode_texts(texts, str(folder), max_tokens=99, batch_size=2)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    cut = encode_texts([long], str(folder), max_tokens=2, batch_size=2)
    np.testing.assert_allclose(cut[0], vectors[2], atol=1e-5)


def test_a_special_token_in_a_text_is_only_text(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "causal")
    attack, words = encode_texts(["<end>", "< end >"], str(folder), max_tokens=9, batch_size=2)
    np.testing.assert_allclose(attack, words, atol=1e-6)


def test_the_stage_takes_a_folder_as_encoder_and_fingerprints_it(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    folder = save_model(tmp_path / "model", "causal")
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    item_text.run(item_text.TextConfig(run_dir=str(tmp_path)))
    run(EmbedConfig(run_dir=str(tmp_path), encoder=str(folder)))
    vectors = load_embeddings(tmp_path / "embeddings")
    assert vectors.shape == (len(catalogue), 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert "encoder" in artifacts.read_manifest(tmp_path / "embeddings").inputs


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model with safetensors"):
        encode_texts(TEXTS, str(tmp_path), max_tokens=9, batch_size=2)


def test_weights_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "encoder")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model with safetensors"):
        encode_texts(TEXTS, str(folder), max_tokens=9, batch_size=2)


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "encoder-decoder")
    with pytest.raises(InputError, match="is an encoder-decoder model"):
        encode_texts(TEXTS, str(folder), max_tokens=9, batch_size=2)
