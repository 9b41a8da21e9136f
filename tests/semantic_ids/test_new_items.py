"""Items that came later get vectors in the space that is there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gream.data.store import Catalogue, Interactions
from gream.errors import InputError
from gream.semantic_ids.collaborative import vectors_of_neighbours
from gream.semantic_ids.embed import EmbedConfig, run
from gream.semantic_ids.embeddings_file import TEXT_VECTORS_FILE, load_collaborative, load_embeddings
from gream.semantic_ids.item_text import load_item_text
from gream.semantic_ids.new_items import embed_new_items

Prepare = Callable[[Path, Catalogue, Interactions], None]
SaveModel = Callable[[Path, str], Path]


@pytest.fixture
def run_dir(tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions) -> Path:
    prepare(tmp_path, catalogue, interactions)
    return tmp_path


def test_old_texts_get_their_old_vectors(run_dir: Path) -> None:
    run(EmbedConfig(run_dir=str(run_dir), dim=7))
    texts = load_item_text(run_dir / "text")
    again = embed_new_items(run_dir / "embeddings", texts)
    assert again.dtype == np.float32
    # float32, the same operations on other rows
    np.testing.assert_allclose(again, load_embeddings(run_dir / "embeddings"), atol=1e-6)


@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_a_model_from_a_folder_is_loaded_again(run_dir: Path, save_model: SaveModel, kind: str) -> None:
    model = save_model(run_dir / "model", kind)
    run(EmbedConfig(run_dir=str(run_dir), encoder=str(model), batch_size=5))
    texts = load_item_text(run_dir / "text")
    again = embed_new_items(run_dir / "embeddings", [texts[3], "", texts[9]])
    # float32 through two layers, in batches of another shape
    np.testing.assert_allclose(again[[0, 2]], load_embeddings(run_dir / "embeddings")[[3, 9]], atol=1e-5)
    assert not again[1].any()
    assert embed_new_items(run_dir / "embeddings", [""]).shape == (1, 16)
    save_model(run_dir / "model", "causal" if kind == "encoder" else "encoder")
    with pytest.raises(InputError, match="is no longer what .* was made with"):
        embed_new_items(run_dir / "embeddings", texts[:1])


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_the_purchases_part_comes_from_the_nearest_texts(run_dir: Path, weight: float) -> None:
    run(EmbedConfig(run_dir=str(run_dir), dim=7, shift=1.0, collaborative=weight))
    folder = run_dir / "embeddings"
    texts = load_item_text(run_dir / "text")
    text, bought = np.load(folder / TEXT_VECTORS_FILE), load_collaborative(folder)
    new = embed_new_items(folder, texts[:4])
    assert new.shape[1] == load_embeddings(folder).shape[1]
    estimated = vectors_of_neighbours(text[:4], text, bought)
    np.testing.assert_allclose(new[:, -7:], np.sqrt(weight) * estimated, atol=1e-5)
    if weight < 1:
        np.testing.assert_allclose(new[:, :7], np.sqrt(1 - weight) * text[:4], atol=1e-6)


def test_without_texts_there_is_no_place_for_new_items(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions
) -> None:
    nothing = [""] * len(catalogue)
    bare = dataclasses.replace(
        catalogue, titles=nothing, descriptions=nothing, brands=nothing, categories=[()] * len(catalogue)
    )
    prepare(tmp_path, bare, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), dim=7, shift=1.0, collaborative=1.0))
    with pytest.raises(InputError, match="made without item texts, so new items have no place"):
        embed_new_items(tmp_path / "embeddings", ["Lamp"])
