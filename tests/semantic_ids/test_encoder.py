"""Encoders through sentence-transformers: as their authors built them, and no code that they bring."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoTokenizer

from gream.errors import InputError
from gream.semantic_ids.encoder import SentenceEncoder, load_encoder

SaveModel = Callable[[Path, str], Path]
TEXTS = ["red lamp", "a red lamp for the tent and a blue lamp", "tent", "blue ink for the printer"]


@pytest.fixture
def plain(tmp_path: Path, save_model: SaveModel) -> Path:
    """A Hugging Face encoder that knows nothing of sentence-transformers."""
    return save_model(tmp_path / "plain", "encoder")


@pytest.fixture
def sentence_folder(tmp_path: Path, plain: Path) -> Path:
    """The same encoder as a sentence-transformers model that takes the first token and reads 6 of them."""
    transformer = Transformer(str(plain), max_seq_length=6)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    dense = Dense(16, 5)
    SentenceTransformer(modules=[transformer, pooling, dense], device="cpu").save(str(tmp_path / "sentence"))
    return tmp_path / "sentence"


def hidden(folder: Path, text: str, length: int) -> torch.Tensor:
    """The last hidden layer of one text alone, so without any padding: (tokens, 16)."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        tokens = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        return model(**tokens).last_hidden_state[0]


def test_a_plain_encoder_gets_mean_pooling(plain: Path) -> None:
    encoder = load_encoder(str(plain), max_tokens=12)
    assert isinstance(encoder, SentenceEncoder)
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    slow = torch.stack([hidden(plain, text, 12).mean(dim=0) for text in TEXTS]).numpy()
    # float32 through two layers, in batches of another shape
    np.testing.assert_allclose(vectors, slow, atol=1e-5)


def test_a_sentence_transformers_folder_is_used_as_it_was_built(sentence_folder: Path) -> None:
    vectors = load_encoder(str(sentence_folder), max_tokens=99).encode(TEXTS)
    dense = Dense.load(str(sentence_folder / "2_Dense"))
    with torch.inference_mode():
        first = torch.stack([hidden(sentence_folder, text, 6)[0] for text in TEXTS])
        slow = dense({"sentence_embedding": first})["sentence_embedding"].numpy()
    assert vectors.shape == (4, 5)
    np.testing.assert_allclose(vectors, slow, atol=1e-5)


def test_the_lower_of_both_limits_cuts_a_text(plain: Path) -> None:
    vectors = load_encoder(str(plain), max_tokens=5).encode([TEXTS[1]])
    np.testing.assert_allclose(vectors[0], hidden(plain, TEXTS[1], 5).mean(dim=0).numpy(), atol=1e-5)


def test_a_special_token_in_a_text_is_only_text(plain: Path) -> None:
    attack, words = load_encoder(str(plain), max_tokens=12).encode(["red [SEP] lamp", "red [ SEP ] lamp"])
    np.testing.assert_allclose(attack, words, atol=1e-5)


def test_a_class_that_the_model_brings_is_refused_and_not_imported(sentence_folder: Path) -> None:
    (sentence_folder / "evil.py").write_text("raise AssertionError('code of the model was run')\n")
    modules = json.loads((sentence_folder / "modules.json").read_text())
    modules[1]["type"] = "evil.Pooling"
    (sentence_folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(InputError, match=r"for the class `evil.Pooling`, but only classes of sentence"):
        load_encoder(str(sentence_folder), max_tokens=9)


def test_pickled_weights_of_a_later_module_are_refused(sentence_folder: Path) -> None:
    (sentence_folder / "2_Dense" / "model.safetensors").unlink()
    torch.save({}, sentence_folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(InputError, match="2_Dense/pytorch_model.bin, but only safetensors are read"):
        load_encoder(str(sentence_folder), max_tokens=9)


def test_pickled_weights_of_a_plain_encoder_are_refused(plain: Path) -> None:
    torch.save({}, plain / "pytorch_model.bin")
    (plain / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model with safetensors"):
        load_encoder(str(plain), max_tokens=9)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model with safetensors"):
        load_encoder(str(tmp_path), max_tokens=9)


def test_an_encoder_decoder_is_refused(tmp_path: Path, save_model: SaveModel) -> None:
    folder = save_model(tmp_path, "encoder-decoder")
    with pytest.raises(InputError, match="is an encoder-decoder model"):
        load_encoder(str(folder), max_tokens=9)


def test_a_model_that_needs_code_of_its_own_is_refused(plain: Path) -> None:
    config = json.loads((plain / "config.json").read_text())
    config.update(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"})
    (plain / "config.json").write_text(json.dumps(config))
    (plain / "evil.py").write_text("raise AssertionError('code of the model was run')\n")
    with pytest.raises(InputError, match="cannot be loaded as a Hugging Face model"):
        load_encoder(str(plain), max_tokens=9)
