"""Figures about names, worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.sids_report import category_purity, figures, reconstruction_error

CATEGORIES = [("a", "x"), ("a", "x"), ("a", "y"), ("a", "z"), ()]


def test_purity_is_the_share_of_the_majority_in_each_prefix() -> None:
    # Prefix 0 holds x, x, y: 2 of 3; prefix 1 holds z: 1 of 1; the item without a category does not count.
    assert category_purity(np.array([[0], [0], [0], [1], [1]]), CATEGORIES) == pytest.approx(3 / 4)


def test_purity_without_names_is_the_largest_category() -> None:
    assert category_purity(np.zeros((5, 0), int), CATEGORIES) == pytest.approx(2 / 4)


def test_purity_without_categories_is_unknown() -> None:
    assert category_purity(np.zeros((2, 1), int), [(), ()]) is None


def test_the_error_is_a_share_of_the_variance() -> None:
    vectors = np.array([[1.0], [3.0], [5.0], [7.0]], np.float32)  # variance 5
    codebooks = [np.array([[2.0], [6.0]], np.float32)]  # every vector is 1 away
    codes = np.array([[0], [0], [1], [1]])
    assert reconstruction_error(vectors, codes, codebooks) == pytest.approx(1 / 5)


def test_identical_vectors_have_no_error_to_share() -> None:
    assert reconstruction_error(np.ones((3, 2), np.float32), np.zeros((3, 1), int), [np.ones((1, 2))]) is None


def test_figures_of_five_items() -> None:
    first = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    names = Names(SidLayout((2, 4)), np.array([[0, 0], [0, 3], [0, 1], [1, 0], [1, 1]], np.int32))
    codebooks = [np.zeros((2, 1), np.float32), np.zeros((4, 1), np.float32)]
    found = figures(np.arange(5, dtype=np.float32)[:, None], first, names, codebooks, CATEGORIES)
    collisions = found["collisions"]
    assert (collisions["items_before"], collisions["rate_before"]) == (2, pytest.approx(0.4))
    assert (collisions["items_renamed"], collisions["rate_after"]) == (1, 0)
    top, last = found["levels"]
    assert (top["prefixes"], top["items_per_prefix_max"], top["items_per_prefix_mean"]) == (2, 3, 2.5)
    # Shares 3/5 and 2/5: 0.6 log2(5/3) + 0.4 log2(5/2)
    assert top["entropy_bits"] == pytest.approx(0.970951, abs=1e-6)
    assert (last["codes_used"], last["codes"], last["entropy_bits_at_most"]) == (3, 4, 2)
    assert last["items_per_prefix_max"] == 1


def test_a_disambiguation_level_has_no_error() -> None:
    names = Names(SidLayout((2, 2), disambiguation=True), np.array([[0, 0], [0, 1], [1, 0]], np.int32))
    vectors = np.array([[0.0], [0.0], [1.0]], np.float32)
    codebooks = [np.array([[0.0], [1.0]], np.float32)]
    found = figures(vectors, names.codes[:, :1], names, codebooks, [()] * 3)
    assert [level["reconstruction_error"] for level in found["levels"]] == [0, None]
    assert found["collisions"]["rate_after_renaming"] == pytest.approx(2 / 3)
