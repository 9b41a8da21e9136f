"""Figures about names, worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.quantiser import SumQuantiser
from gream.semantic_ids.sids_report import (
    category_purity,
    format_report,
    groups_of,
    measure,
    reconstruction_error,
)

CATEGORIES = [("a", "x"), ("a", "x"), ("a", "y"), ("a", "z"), ()]


def report_of(
    vectors: np.ndarray, first: np.ndarray, names: Names, books: list[np.ndarray]
) -> dict[str, Any]:
    texts = [""] * len(names)
    categories = [CATEGORIES[item % 5] for item in range(len(names))]
    catalogue = Catalogue([str(i) for i in range(len(names))], texts, texts, texts, categories, np.zeros(1))
    marks = np.array([TRAIN, TRAIN, VALIDATION, TEST], np.int8)
    interactions = Interactions(["u"], [np.array([0, 1, 2, 0])], [marks])
    quantiser = SumQuantiser("residual_kmeans", books, parallel=not names.layout.ordered)
    return measure(vectors, first, names, quantiser, catalogue, interactions)


def test_purity_is_the_share_of_the_majority_in_each_prefix() -> None:
    # Prefix 0 holds x, x, y: 2 of 3; prefix 1 holds z: 1 of 1; the item without a category does not count.
    assert category_purity(np.array([[0], [0], [0], [1], [1]]), CATEGORIES) == pytest.approx(3 / 4)


def test_purity_without_names_is_the_largest_category() -> None:
    assert category_purity(np.zeros((5, 0), int), CATEGORIES) == pytest.approx(2 / 4)


def test_purity_without_categories_is_unknown() -> None:
    assert category_purity(np.zeros((2, 1), int), [(), ()]) is None


def test_the_error_is_a_share_of_the_variance() -> None:
    vectors = np.array([[1.0], [3.0], [5.0], [7.0]], np.float32)  # variance 5
    quantiser = SumQuantiser("x", [np.array([[2.0], [6.0]], np.float32)])  # every vector is 1 away
    codes = np.array([[0], [0], [1], [1]])
    assert reconstruction_error(vectors, codes, quantiser, [0]) == pytest.approx(1 / 5)


def test_identical_vectors_have_no_error_to_share() -> None:
    quantiser = SumQuantiser("x", [np.ones((1, 2), np.float32)])
    assert reconstruction_error(np.ones((3, 2), np.float32), np.zeros((3, 1), int), quantiser, [0]) is None


def test_groups_are_prefixes_of_ordered_and_single_codes_of_unordered_names() -> None:
    codes = np.array([[0, 1, 1], [0, 0, 1], [1, 1, 1]])
    assert groups_of(Names(SidLayout((2, 2, 2)), codes), 1).tolist() == [[0, 1], [0, 0], [1, 1]]
    unordered = Names(SidLayout((2, 2, 2), ordered=False), codes)
    assert groups_of(unordered, 1).tolist() == [[1], [0], [1]]


def test_figures_of_five_items() -> None:
    first = np.array([[0, 0], [0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    names = Names(SidLayout((2, 4)), np.array([[0, 0], [0, 3], [0, 1], [1, 0], [1, 1]], np.int32))
    books = [np.zeros((2, 1), np.float32), np.zeros((4, 1), np.float32)]
    found = report_of(np.arange(5, dtype=np.float32)[:, None], first, names, books)
    collisions = found["collisions"]
    assert (collisions["items_before"], collisions["rate_before"]) == (2, pytest.approx(0.4))
    assert (collisions["items_renamed"], collisions["rate_after"]) == (1, 0)
    top, last = found["levels"]
    assert (top["groups"], top["items_per_group_max"], top["items_per_group_mean"]) == (2, 3, 2.5)
    assert top["balance"] == pytest.approx(3 / 2.5)
    # Shares 3/5 and 2/5: 0.6 log2(5/3) + 0.4 log2(5/2)
    assert top["entropy_bits"] == pytest.approx(0.970951, abs=1e-6)
    assert top["perplexity"] == pytest.approx(2**0.970951, abs=1e-5)
    assert (last["codes_used"], last["codes"], last["entropy_bits_at_most"]) == (3, 4, 2)
    assert last["items_per_group_max"] == 1
    # Against "a" all is pure; against x, y, z the first code holds 2 of 3 and 1 of 1.
    assert top["category_purity"] == [1.0, pytest.approx(3 / 4)]
    assert found["category_purity_without_names"] == [1.0, pytest.approx(2 / 4)]


def test_errors_by_level_and_without_each_level() -> None:
    names = Names(SidLayout((2, 2)), np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32))
    vectors = np.array([[1.0], [3.0], [5.0], [7.0]], np.float32)  # variance 5
    books = [np.array([[2.0], [6.0]], np.float32), np.array([[-1.0], [1.0]], np.float32)]
    levels = report_of(vectors, names.codes, names, books)["levels"]
    assert [level["reconstruction_error"] for level in levels] == [pytest.approx(1 / 5), 0]
    # Without the first code what is left are distances 2, 2, 6, 6; without the second 1 each.
    assert [level["error_without"] for level in levels] == [pytest.approx(20 / 5), pytest.approx(1 / 5)]


def test_a_disambiguation_level_has_no_error() -> None:
    names = Names(SidLayout((2, 2), disambiguation=True), np.array([[0, 0], [0, 1], [1, 0]], np.int32))
    vectors = np.array([[0.0], [0.0], [1.0]], np.float32)
    found = report_of(vectors, names.codes[:, :1], names, [np.array([[0.0], [1.0]], np.float32)])
    assert [level["reconstruction_error"] for level in found["levels"]] == [0, None]
    assert found["collisions"]["rate_after_renaming"] == pytest.approx(2 / 3)
    assert found["items_with_the_vector_of_another"] == 2
    assert "the last level only tells items apart" in format_report(found)


def test_the_text_has_a_row_for_each_level_and_begins_with_the_verdict() -> None:
    names = Names(SidLayout((2, 2)), np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32))
    books = [np.zeros((2, 1), np.float32)] * 2
    found = report_of(np.arange(4, dtype=np.float32)[:, None], names.codes, names, books)
    lines = format_report(found).splitlines()
    assert lines[0] == f"**{found['verdict']['sentence']}**"
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["0", "1"]


def test_balance_counts_codes_that_nobody_has() -> None:
    names = Names(SidLayout((4,)), np.array([[0], [1], [3]], np.int32))
    found = report_of(np.eye(3, dtype=np.float32), names.codes, names, [np.eye(4, 3, dtype=np.float32)])
    assert found["levels"][0]["balance"] == pytest.approx(1 / (3 / 4))


def test_vectors_a_little_apart_are_not_the_same() -> None:
    names = Names(SidLayout((4,)), np.array([[0], [1], [2], [3]], np.int32))
    vectors = np.array([[0.1], [0.1001], [0.3], [0.3]], np.float32)
    found = report_of(vectors, names.codes, names, [np.zeros((4, 1), np.float32)])
    assert found["items_with_the_vector_of_another"] == 2


def test_neighbours_kept_are_those_of_the_reconstructions() -> None:
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 3)).astype(np.float32)
    names = Names(SidLayout((40,)), np.arange(40, dtype=np.int32)[:, None])
    assert report_of(vectors, names.codes, names, [vectors])["neighbours_kept"] == 1
    book = generator.normal(size=(40, 3)).astype(np.float32)
    assert report_of(vectors, names.codes, names, [book])["neighbours_kept"] < 0.6


def test_bits_for_the_next_item_are_the_sum_with_the_last_item_known() -> None:
    names = Names(SidLayout((2, 2)), np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32))
    texts = [""] * 4
    catalogue = Catalogue(list("abcd"), texts, texts, texts, [()] * 4, np.zeros(4))
    rows = [[0, 3, 0, 3, 0, 3], [1, 2, 1, 2, 1, 2]] * 10
    marks = np.array([TRAIN] * 5 + [VALIDATION], np.int8)
    interactions = Interactions(list(map(str, range(20))), [np.array(row) for row in rows], [marks] * 20)
    quantiser = SumQuantiser("residual_kmeans", [np.zeros((2, 1), np.float32)] * 2)
    found = measure(np.eye(4, 1, dtype=np.float32), names.codes, names, quantiser, catalogue, interactions)
    bits = sum(level["next_item"]["bits"] for level in found["levels"])
    assert found["bits_for_the_next_item"] == pytest.approx(bits)
    assert bits < 0.5


def test_purity_of_a_row_stands_beside_what_chance_reaches_at_the_same_depth() -> None:
    codes = np.array([[0, 0], [0, 3], [0, 1], [1, 0], [1, 1]], np.int32)
    names = Names(SidLayout((2, 4)), codes)
    books = [np.zeros((2, 1), np.float32), np.zeros((4, 1), np.float32)]
    found = report_of(np.arange(5, dtype=np.float32)[:, None], codes, names, books)
    assert "| 0.750 (0.500) |" in format_report(found).splitlines()[-2]
