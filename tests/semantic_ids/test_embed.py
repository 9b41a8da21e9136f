"""The stage `embed`: both parts, the evidence beside them, and nothing later than training in any vector."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids import embed, item_text
from gream.semantic_ids.embed import EmbedConfig, require_finite, run
from gream.semantic_ids.embeddings_file import load_collaborative, load_embeddings
from gream.semantic_ids.tfidf import fit_text_space

Prepare = Callable[[Path, Catalogue, Interactions], None]


def without_text(catalogue: Catalogue) -> Catalogue:
    """The same items of which nobody wrote anything."""
    nothing = [""] * len(catalogue)
    return dataclasses.replace(
        catalogue, titles=nothing, descriptions=nothing, brands=nothing, categories=[()] * len(catalogue)
    )


def alone(interactions: Interactions) -> Interactions:
    """The same users, of whom each bought one item for training: no two go together."""
    splits = [np.array([TRAIN, VALIDATION, TEST], dtype=np.int8)] * len(interactions.sequences)
    sequences = [items[:3] for items in interactions.sequences]
    return Interactions(interactions.user_ids, sequences, splits)


def changed(interactions: Interactions, catalogue: Catalogue, mark: int) -> Interactions:
    """Other purchases in one split."""
    sequences = [
        np.where(splits == mark, (items + 7) % len(catalogue), items)
        for items, splits in zip(interactions.sequences, interactions.splits, strict=True)
    ]
    return Interactions(interactions.user_ids, sequences, interactions.splits)


@pytest.mark.parametrize("method", ["ppmi", "als"])
def test_the_stage_writes_both_parts(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions, method: str
) -> None:
    prepare(tmp_path, catalogue, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), dim=7, shift=1.0, collaborative=0.5, collaborative_method=method))
    vectors, bought = (load(tmp_path / "embeddings") for load in (load_embeddings, load_collaborative))
    assert vectors.shape == (len(catalogue), 14)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, 7:], np.sqrt(0.5) * bought, atol=1e-6)
    counts = artifacts.read_manifest(tmp_path / "embeddings").counts
    assert (counts["dim"], counts["text_dim"], counts["collaborative_dim"]) == (14, 7, 7)


def test_without_weight_only_text_is_used_but_the_evidence_compares(
    tmp_path: Path,
    prepare: Prepare,
    catalogue: Catalogue,
    interactions: Interactions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(tmp_path, catalogue, interactions)
    with caplog.at_level(logging.INFO):
        run(EmbedConfig(run_dir=str(tmp_path), dim=7, shift=1.0))
    folder = tmp_path / "embeddings"
    texts = item_text.load_item_text(tmp_path / "text")
    assert load_embeddings(folder).tobytes() == fit_text_space(texts, dim=7, seed=0)[1].tobytes()
    assert load_collaborative(folder).shape == (len(catalogue), 7)
    report = json.loads((folder / embed.REPORT_FILE).read_text())
    assert [row["weight"] for row in report["rows"]] == [step / 10 for step in range(11)]
    assert report["cases"] == len(interactions.user_ids)
    assert (folder / embed.PLOT_FILE).read_bytes().startswith(b"\x89PNG")
    marked = next(line for line in caplog.text.splitlines() if "<- this recipe" in line)
    assert "text only" in marked
    assert f"Best recall@10 at `collaborative: {report['best_weight']:.3g}`." in caplog.text


def test_items_without_text_are_named_by_their_purchases_alone(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, without_text(catalogue), interactions)
    with pytest.raises(InputError, match="no item has a text, but `collaborative` is 0.5.*set it to 1"):
        run(EmbedConfig(run_dir=str(tmp_path), collaborative=0.5))
    run(EmbedConfig(run_dir=str(tmp_path), dim=7, shift=1.0, collaborative=1.0))
    folder = tmp_path / "embeddings"
    assert load_embeddings(folder).tobytes() == load_collaborative(folder).tobytes()
    counts = artifacts.read_manifest(folder).counts
    assert (counts["text_dim"], counts["dim"], counts["items_without_text"]) == (0, 7, len(catalogue))


def test_full_weight_stores_no_columns_of_zeros(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, catalogue, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), dim=7, shift=1.0, collaborative=1.0))
    assert load_embeddings(tmp_path / "embeddings").shape == (len(catalogue), 7)


def test_purchases_that_never_go_together_are_refused_only_where_they_have_a_weight(
    tmp_path: Path,
    prepare: Prepare,
    catalogue: Catalogue,
    interactions: Interactions,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare(tmp_path, catalogue, alone(interactions))
    with pytest.raises(InputError, match="No two items stand out as bought together"):
        run(EmbedConfig(run_dir=str(tmp_path), collaborative=0.1))
    with caplog.at_level(logging.INFO):
        run(EmbedConfig(run_dir=str(tmp_path)))
    assert "there are no collaborative vectors" in caplog.text
    assert load_collaborative(tmp_path / "embeddings") is None
    report = json.loads((tmp_path / "embeddings" / embed.REPORT_FILE).read_text())
    assert [row["vectors"] for row in report["rows"]] == ["text"]


@pytest.mark.parametrize("method", ["ppmi", "als"])
def test_only_training_purchases_are_learnt_from(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions, method: str
) -> None:
    """Validation purchases change no vector, test purchases no file at all; a training purchase does."""
    folders = {}
    for mark in (None, VALIDATION, TEST, TRAIN):
        run_dir = tmp_path / str(mark)
        bought = interactions if mark is None else changed(interactions, catalogue, mark)
        prepare(run_dir, catalogue, bought)
        run(
            EmbedConfig(
                run_dir=str(run_dir), dim=6, shift=1.0, collaborative=0.5, collaborative_method=method
            )
        )
        outputs = artifacts.read_manifest(run_dir / "embeddings").outputs
        folders[mark] = {name: (run_dir / "embeddings" / name).read_bytes() for name in outputs}
    assert folders[TEST] == folders[None]
    vectors = (embed.EMBEDDINGS_FILE, embed.COLLABORATIVE_FILE, embed.TEXT_VECTORS_FILE)
    assert all(folders[VALIDATION][name] == folders[None][name] for name in vectors)
    assert folders[VALIDATION][embed.REPORT_FILE] != folders[None][embed.REPORT_FILE]
    assert folders[TRAIN][embed.EMBEDDINGS_FILE] != folders[None][embed.EMBEDDINGS_FILE]


def test_an_encoder_that_gives_nan_stops_the_stage(
    tmp_path: Path,
    prepare: Prepare,
    catalogue: Catalogue,
    interactions: Interactions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(tmp_path, catalogue, interactions)
    space, broken = fit_text_space(catalogue.titles, dim=4, seed=0)
    broken[[5, 9]] = np.nan
    monkeypatch.setattr(embed, "fit_text_space", lambda *_, **__: (space, broken))
    with pytest.raises(InputError, match="item `item-5` and 1 more holds NaN"):
        run(EmbedConfig(run_dir=str(tmp_path)))
    assert not (tmp_path / "embeddings").exists()


def test_texts_of_another_catalogue_are_refused(
    tmp_path: Path, prepare: Prepare, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, catalogue, interactions)
    one = Catalogue(["a"], ["Lamp"], [""], [""], [()], np.ones(1, np.float32))
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, one, Interactions([], [], []))
    with pytest.raises(InputError, match="has 24 texts, but .* has 1 items; run `gream text` again"):
        run(EmbedConfig(run_dir=str(tmp_path)))


def test_all_settings_out_of_range_are_told_at_once(tmp_path: Path) -> None:
    wrong = {"dim": 0, "collaborative": 1.5, "collaborative_method": "svd", "shift": 0.5, "alpha": 0.0}
    with pytest.raises(
        InputError,
        match="`dim` is 0.*`collaborative` is 1.5.*is svd, but must be ppmi or als.*`shift`.*`alpha`",
    ):
        run(EmbedConfig(run_dir=str(tmp_path), **wrong))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_refused_by_item(value: float) -> None:
    vectors = np.zeros((3, 2), np.float32)
    vectors[1, 1] = value
    with pytest.raises(InputError, match="encoder `x`: the embedding of item `b` holds NaN or infinity"):
        require_finite(vectors, ["a", "b", "c"], "encoder `x`")
