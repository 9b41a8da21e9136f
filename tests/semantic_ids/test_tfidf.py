"""TF-IDF vectors, and the space that is kept for texts that come later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.errors import InputError
from gream.semantic_ids.tfidf import TERMS_FILE, fit_text_space, load_text_space


def test_similar_texts_are_near_each_other(catalogue: Catalogue) -> None:
    vectors = fit_text_space(catalogue.titles, dim=6, seed=0)[1]
    likeness = vectors @ vectors.T
    assert vectors.dtype == np.float32
    assert likeness[0, 1] > likeness[0, 13]  # two printers; a printer and a tent


def test_vectors_have_length_one_or_zero() -> None:
    # A single letter is no word to the vectoriser.
    vectors = fit_text_space(["red lamp", "blue lamp", "x", "green tent", ""], dim=8, seed=0)[1]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 0], atol=1e-6)
    assert vectors.shape == (5, 5)  # no more directions than texts


def test_the_same_seed_gives_the_same_bytes(catalogue: Catalogue) -> None:
    first, second = (fit_text_space(catalogue.titles, dim=5, seed=4)[1] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_signs_do_not_depend_on_the_seed(catalogue: Catalogue) -> None:
    # The randomised SVD finds each direction up to its sign; close to convergence only that could differ.
    first, second = (fit_text_space(catalogue.titles, dim=2, seed=seed)[1] for seed in (0, 1))
    np.testing.assert_allclose(first, second, atol=1e-2)


def test_texts_without_a_word_are_refused() -> None:
    with pytest.raises(InputError, match="hold no word to embed"):
        fit_text_space(["!", "?"], dim=2, seed=0)


def test_a_stored_space_gives_old_texts_their_old_vectors(tmp_path: Path, catalogue: Catalogue) -> None:
    """Signs, scale and term weights come back: one text alone lands where it was among all."""
    texts = [*catalogue.titles, "Größe <a_17> {{ x }} 'quoted' \u2028 text", ""]
    space, vectors = fit_text_space(texts, dim=6, seed=0)
    space.save(tmp_path)
    stored = load_text_space(tmp_path)
    np.testing.assert_allclose(stored.embed(texts), vectors, atol=1e-6)  # float32, same operations
    np.testing.assert_allclose(stored.embed(texts[3:4]), vectors[3:4], atol=1e-6)
    assert stored.terms == space.terms


def test_a_new_text_lands_near_what_is_like_it(tmp_path: Path, catalogue: Catalogue) -> None:
    space, vectors = fit_text_space(catalogue.titles, dim=6, seed=0)
    new = space.embed(["Volta printers deluxe edition", "entirely unknown wording"])
    assert int(np.argmax(vectors @ new[0])) in range(4)  # the four printers
    assert not new[1].any()


def test_a_broken_space_is_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    with pytest.raises(InputError, match="holds no usable TF-IDF"):
        load_text_space(tmp_path)
    fit_text_space(catalogue.titles, dim=3, seed=0)[0].save(tmp_path)
    (tmp_path / TERMS_FILE).write_text('["lamp"]')
    with pytest.raises(InputError, match="lists 1 terms, but .* has weights of"):
        load_text_space(tmp_path)
