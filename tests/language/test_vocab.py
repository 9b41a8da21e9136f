"""The extended model: where new rows start, what is saved, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.errors import InputError
from gream.language.vocab import build_model, extend, item_rows, load_model, save_model, train_tokenizer
from gream.semantic_ids.layout import Names, SidLayout


def test_close_centroids_start_as_close_rows(names: Names, codebooks: list[np.ndarray]) -> None:
    codebooks = [book.copy() for book in codebooks]
    codebooks[1][2] = codebooks[1][0] + 1e-3
    rows = item_rows(names, codebooks, 64, mean=np.zeros(64), scale=0.02, seed=0)
    level = rows[3:7]
    near = np.linalg.norm(level[2] - level[0])
    assert near < 0.05 * np.linalg.norm(level[1] - level[0])


def test_rows_keep_the_scale_of_the_model(names: Names, codebooks: list[np.ndarray]) -> None:
    rows = item_rows(names, codebooks, 512, mean=np.zeros(512), scale=0.02, seed=0)
    assert rows.shape == (12, 512)
    assert 0.015 < rows.std() < 0.025


def test_disambiguation_level_without_centroids_gets_rows(codebooks: list[np.ndarray]) -> None:
    layout = SidLayout((3, 4, 5, 2), disambiguation=True)
    names = Names(layout, np.asarray([[0, 0, 0, 0], [0, 0, 0, 1]], dtype=np.int32))
    rows = item_rows(names, codebooks, 16, mean=np.zeros(16), scale=0.02, seed=0)
    assert rows.shape == (14, 16) and np.isfinite(rows).all()
    assert not np.allclose(rows[12], rows[13])


def test_vocabulary_is_padded_to_a_multiple_of_64(model_and_tokenizer: tuple[Any, Any]) -> None:
    model, tokenizer = model_and_tokenizer
    assert model.config.vocab_size % 64 == 0
    assert len(tokenizer) <= model.config.vocab_size == model.get_input_embeddings().weight.shape[0]


def test_item_tokens_are_normal_tokens_and_keep_their_text(
    model_and_tokenizer: tuple[Any, Any], names: Names
) -> None:
    tokenizer = model_and_tokenizer[1]
    assert not set(names.layout.tokens()) & set(tokenizer.all_special_tokens)
    text = f"buy {names.spell(3)} now"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_saved_model_gives_the_same_logits(
    tmp_path: Path, model_and_tokenizer: tuple[Any, Any], names: Names
) -> None:
    model, tokenizer = model_and_tokenizer
    save_model(tmp_path, model, tokenizer, names)
    loaded, again = load_model(tmp_path, names)
    ids = torch.tensor([tokenizer.encode(names.spell(1))])
    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert again.get_vocab() == tokenizer.get_vocab() and again.chat_template == tokenizer.chat_template
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))


def test_model_made_for_other_names_is_refused(
    tmp_path: Path, model_and_tokenizer: tuple[Any, Any], names: Names
) -> None:
    save_model(tmp_path, *model_and_tokenizer, names)
    with pytest.raises(InputError, match="was made for other names"):
        load_model(tmp_path, Names(names.layout, names.codes[::-1].copy()))


def test_folder_without_a_gream_model_is_refused(tmp_path: Path, names: Names) -> None:
    with pytest.raises(InputError, match="no model of gream"):
        load_model(tmp_path, names)


def test_a_tokenizer_that_holds_item_tokens_is_refused(
    model_and_tokenizer: tuple[Any, Any], names: Names, codebooks: list[np.ndarray]
) -> None:
    with pytest.raises(InputError, match="already holds <a_0>"):
        extend(*model_and_tokenizer, names, codebooks)


def test_same_seed_gives_the_same_model() -> None:
    one, two = (build_model(300, hidden_size=16, num_layers=1, num_heads=2, seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_odd_width_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be split over 4 heads"):
        build_model(300, hidden_size=30, num_layers=1, num_heads=4, seed=0)


def test_tokenizer_reads_back_any_text() -> None:
    tokenizer = train_tokenizer(["plain words"], 300)
    text = "Crème brûlée 50% \u2603"
    assert tokenizer.decode(tokenizer.encode(text)) == text
