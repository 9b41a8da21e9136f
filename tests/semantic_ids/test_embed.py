"""Vectors from text and from training purchases; nothing later than training leaks in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp

from gream import artifacts
from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids import embed, item_text
from gream.semantic_ids.embed import (
    EmbedConfig,
    collaborative_vectors,
    cooccurrence,
    fuse,
    load_embeddings,
    require_finite,
    run,
    shifted_ppmi,
    tfidf_vectors,
)


def prepare(run_dir: Path, catalogue: Catalogue, interactions: Interactions) -> None:
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    item_text.run(item_text.TextConfig(run_dir=str(run_dir)))


def test_similar_texts_are_near_each_other(catalogue: Catalogue) -> None:
    vectors = tfidf_vectors(catalogue.titles, dim=6, seed=0)
    likeness = vectors @ vectors.T
    assert vectors.dtype == np.float32
    assert likeness[0, 1] > likeness[0, 13]  # two printers; a printer and a tent


def test_vectors_have_length_one_or_zero() -> None:
    # A single letter is no word to the vectoriser.
    vectors = tfidf_vectors(["red lamp", "blue lamp", "x", "green tent"], dim=8, seed=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1], atol=1e-6)
    assert vectors.shape == (4, 4)  # no more directions than texts


def test_the_same_seed_gives_the_same_bytes(catalogue: Catalogue) -> None:
    first, second = (tfidf_vectors(catalogue.titles, dim=5, seed=4) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_signs_do_not_depend_on_the_seed(catalogue: Catalogue) -> None:
    # The randomised SVD finds each direction up to its sign; close to convergence only that could differ.
    first, second = (tfidf_vectors(catalogue.titles, dim=2, seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(first, second, atol=1e-2)


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(InputError, match="hold no word to embed"):
        tfidf_vectors(["!", "?"], dim=2, seed=0)


def test_cooccurrence_counts_pairs_inside_the_window() -> None:
    counts = cooccurrence([np.array([0, 1, 2]), np.array([2, 1, 1]), np.array([3])], 5, window=1)
    # 0-1 and 1-2 from the first, 2-1 from the second; an item does not go with itself.
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 0] = 1
    expected[1, 2] = expected[2, 1] = 2
    assert counts.toarray().tolist() == expected.tolist()
    assert cooccurrence([np.array([0, 1, 2])], 3, window=9).toarray()[0, 2] == 1


def test_shifted_ppmi_of_a_hand_worked_table() -> None:
    # n = 6, n_0 = 1, n_1 = 3, n_2 = 2: log(1*6/(1*3)) = log 2 and log(2*6/(3*2)) = log 2
    counts = sp.csr_array(np.array([[0, 1, 0], [1, 0, 2], [0, 2, 0]], dtype=np.float32))
    values = shifted_ppmi(counts, 1.0).toarray()
    np.testing.assert_allclose(values, np.log(2) * (counts.toarray() > 0), rtol=1e-6)
    np.testing.assert_allclose(shifted_ppmi(counts, 1.5).toarray().max(), np.log(2 / 1.5), rtol=1e-6)
    assert shifted_ppmi(counts, 2.0).nnz == 0


def test_items_bought_together_are_near_and_unbought_items_are_zero() -> None:
    sequences = [np.array([0, 1])] * 5 + [np.array([2, 3])] * 5 + [np.array([0, 1, 4])] * 2
    vectors = collaborative_vectors(sequences, 6, dim=3, window=5, shift=1.0, seed=0)
    assert vectors[0] @ vectors[4] > vectors[0] @ vectors[2] + 0.5
    assert not vectors[5].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, atol=1e-6)


def test_purchases_that_never_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="No two items stand out as bought together"):
        collaborative_vectors([np.array([0]), np.array([1])], 2, dim=2, window=5, shift=1.0, seed=0)


def test_fusing_weighs_dot_products() -> None:
    text, bought = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32)
    fused = fuse(text, bought, 0.25)
    # 0.75 * text dot products + 0.25 * 2
    np.testing.assert_allclose(fused @ fused.T, 0.75 * np.eye(3) + 0.5, atol=1e-6)
    assert fused.dtype == np.float32


def test_the_stage_writes_both_parts(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, catalogue, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), dim=7, collaborative=0.5))
    vectors = load_embeddings(tmp_path / "embeddings")
    assert vectors.shape == (len(catalogue), 14)
    assert vectors.dtype == np.float32
    counts = artifacts.read_manifest(tmp_path / "embeddings").counts
    assert (counts["text_dim"], counts["collaborative_dim"]) == (7, 7)


def test_without_weight_only_text_is_used(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, catalogue, interactions)
    run(EmbedConfig(run_dir=str(tmp_path), dim=7))
    texts = item_text.load_item_text(tmp_path / "text")
    assert load_embeddings(tmp_path / "embeddings").tobytes() == tfidf_vectors(texts, dim=7, seed=0).tobytes()


def test_only_training_purchases_are_learnt_from(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    """Other validation and test purchases leave every byte; another training purchase does not."""
    files = []
    for mark in (None, VALIDATION, TEST, TRAIN):
        sequences = [
            np.where(splits == mark, (items + 7) % len(catalogue), items) if mark is not None else items
            for items, splits in zip(interactions.sequences, interactions.splits, strict=True)
        ]
        run_dir = tmp_path / str(mark)
        prepare(run_dir, catalogue, Interactions(interactions.user_ids, sequences, interactions.splits))
        run(EmbedConfig(run_dir=str(run_dir), dim=6, collaborative=0.5))
        files.append((run_dir / "embeddings" / embed.EMBEDDINGS_FILE).read_bytes())
    original, validation_changed, test_changed, training_changed = files
    assert original == validation_changed == test_changed
    assert original != training_changed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_no_number_is_refused_by_item(value: float) -> None:
    vectors = np.zeros((3, 2), np.float32)
    vectors[1, 1] = value
    with pytest.raises(InputError, match="encoder `x`: the embedding of item `b` holds NaN or infinity"):
        require_finite(vectors, ["a", "b", "c"], "encoder `x`")


def test_an_encoder_that_gives_nan_stops_the_stage(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, catalogue, interactions)
    broken = np.zeros((len(catalogue), 4), np.float32)
    broken[[5, 9]] = np.nan
    monkeypatch.setattr(embed, "tfidf_vectors", lambda *_, **__: broken)
    with pytest.raises(InputError, match="item `item-5` and 1 more holds NaN"):
        run(EmbedConfig(run_dir=str(tmp_path)))
    assert not (tmp_path / "embeddings").exists()


def test_texts_of_another_catalogue_are_refused(
    tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    prepare(tmp_path, catalogue, interactions)
    one = Catalogue(["a"], ["Lamp"], [""], [""], [()], np.ones(1, np.float32))
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, one, Interactions([], [], []))
    with pytest.raises(InputError, match="has 24 texts, but .* has 1 items; run `gream text` again"):
        run(EmbedConfig(run_dir=str(tmp_path)))


def test_all_settings_out_of_range_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="`dim` is 0.*`collaborative` is 1.5.*`shift` is 0.5"):
        run(EmbedConfig(run_dir=str(tmp_path), dim=0, collaborative=1.5, shift=0.5))
