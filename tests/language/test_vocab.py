"""The extended model: where new rows start, what is saved, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from gream.artifacts import writing
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import (
    VocabConfig,
    build_model,
    extend,
    item_rows,
    load_model,
    run,
    save_model,
    train_tokenizer,
)
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.semantic_ids.quantiser import SumQuantiser, save_quantiser


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


@pytest.fixture
def vocab_run(tmp_path: Path, names: Names, codebooks: list[np.ndarray]) -> Path:
    """A run whose `sids` and `text` folders are there, and a foreign base model beside it."""
    with writing(tmp_path / "sids", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, names)
        save_quantiser(draft.path, SumQuantiser("residual_kmeans", codebooks))
    with writing(tmp_path / "text", stage="text", config={}, inputs={}, seed=0) as draft:
        rows = {"item": range(24), "text": [f"lamp model {i}" for i in range(24)]}
        pl.DataFrame(rows).write_parquet(draft.path / "item_text.parquet")
    tokenizer = train_tokenizer(["some other words"], 300)
    build_model(len(tokenizer), hidden_size=16, num_layers=1, num_heads=2, seed=3).save_pretrained(
        tmp_path / "own"
    )
    tokenizer.save_pretrained(tmp_path / "own")
    return tmp_path


@pytest.mark.parametrize("base", ["own", ""])
def test_the_stage_extends_a_folders_model_or_builds_one(vocab_run: Path, names: Names, base: str) -> None:
    base_model = str(vocab_run / base) if base else ""
    run(VocabConfig(run_dir=str(vocab_run), base_model=base_model, hidden_size=16, num_heads=2, num_layers=1))
    model, tokenizer = load_model(vocab_run / "base", names)
    block = Prompter(tokenizer, names).item_block
    rows = model.get_input_embeddings().weight[block.start : block.stop]
    assert rows.shape == (12, 16) and rows.std() > 0 and len(torch.unique(rows, dim=0)) == 12


def test_a_base_model_that_cannot_be_found_is_told(vocab_run: Path) -> None:
    with pytest.raises(InputError, match="base_model '.*nowhere' cannot be loaded"):
        run(VocabConfig(run_dir=str(vocab_run), base_model=str(vocab_run / "nowhere")))
    assert not (vocab_run / "base").exists()


def test_a_base_model_without_a_chat_template_is_told(vocab_run: Path) -> None:
    for file in vocab_run.glob("own/chat_template*"):
        file.unlink()
    settings = json.loads((vocab_run / "own" / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (vocab_run / "own" / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="has no chat template"):
        run(VocabConfig(run_dir=str(vocab_run), base_model=str(vocab_run / "own")))
