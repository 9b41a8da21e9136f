"""Vectors from purchases: what is bought together is near, and new items borrow from their neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from gream.semantic_ids.collaborative import (
    als_vectors,
    cooccurrence,
    ppmi_vectors,
    shifted_ppmi,
    vectors_of_neighbours,
)

TOGETHER = [np.array([0, 1])] * 5 + [np.array([2, 3])] * 5 + [np.array([0, 1, 4])] * 2


def ppmi(sequences: list[np.ndarray], num_items: int, dim: int = 3) -> np.ndarray | None:
    return ppmi_vectors(sequences, num_items, dim=dim, window=5, shift=1.0, seed=0)


def als(sequences: list[np.ndarray], num_items: int, dim: int = 3, seed: int = 0) -> np.ndarray | None:
    return als_vectors(
        sequences, num_items, dim=dim, iterations=15, regularization=0.1, alpha=10.0, seed=seed
    )


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


@pytest.mark.parametrize(("method", "dim"), [(ppmi, 3), (als, 2)])
def test_items_bought_together_are_near_and_unbought_items_are_zero(method, dim: int) -> None:
    vectors = method(TOGETHER, 6, dim=dim)
    assert vectors.dtype == np.float32
    assert vectors[0] @ vectors[4] > vectors[0] @ vectors[2] + 0.5
    assert not vectors[5].any()
    np.testing.assert_allclose(np.linalg.norm(vectors[:5], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", [ppmi, als])
def test_the_same_seed_gives_the_same_bytes(method) -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(60, size=rng.integers(2, 9)) for _ in range(200)]
    first, second = (method(sequences, 60, dim=16) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_another_seed_starts_the_factors_elsewhere() -> None:
    assert als(TOGETHER, 6, seed=0).tobytes() != als(TOGETHER, 6, seed=1).tobytes()


def test_one_half_step_of_als_is_the_closed_form() -> None:
    """The library solves what the paper says: x_u = (Y'CY + reg I)^-1 Y'C p, alternated to a fixed point."""
    sequences = [np.array([0, 1]), np.array([1, 2]), np.array([0, 2]), np.array([3, 0])]
    found = als_vectors(sequences, 4, dim=2, iterations=400, regularization=0.3, alpha=5.0, seed=0)
    bought = np.zeros((4, 4))
    for user, items in enumerate(sequences):
        bought[user, items] = 1
    confidence = np.where(bought > 0, 5.0, 1.0)
    items = np.random.default_rng(0).random((4, 2)) * 0.01
    for _ in range(400):
        users = solve(items, confidence, bought)
        items = solve(users, confidence.T, bought.T)
    slow = items / np.linalg.norm(items, axis=1, keepdims=True)
    # Factors are found up to a rotation, which dot products do not see; float32 after 400 alternations.
    np.testing.assert_allclose(found @ found.T, slow @ slow.T, atol=5e-3)


def solve(other: np.ndarray, confidence: np.ndarray, bought: np.ndarray) -> np.ndarray:
    rows = []
    for weights, wanted in zip(confidence, bought, strict=True):
        left = other.T @ (weights[:, None] * other) + 0.3 * np.eye(2)
        rows.append(np.linalg.solve(left, other.T @ (weights * wanted)))
    return np.array(rows)


def test_nothing_bought_together_gives_nothing() -> None:
    assert ppmi([np.array([0]), np.array([1])], 2) is None
    assert als([np.zeros(0, dtype=np.int64)], 2) is None


def test_a_new_item_gets_the_weighted_mean_of_its_neighbours() -> None:
    text = np.eye(4, dtype=np.float32)
    bought = np.array([[1, 0], [0, 1], [0, 0], [-1, 0]], np.float32)
    new = np.array([[0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0.6, 0.8, 0]], np.float32)
    # The first is 0.8 like item 0 and 0.6 like item 1; item 2 was never bought, so it is nobody's neighbour.
    found = vectors_of_neighbours(new, text, bought, num_neighbours=2)
    np.testing.assert_allclose(found, [[0.8, 0.6], [0, 0], [0, 0], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(vectors_of_neighbours(new[3:], text, bought, num_neighbours=1), [[0, 1]])
    assert not vectors_of_neighbours(new, text, np.zeros_like(bought)).any()


def test_estimates_land_nearer_than_zeros() -> None:
    """Planted: texts and purchases share 5 groups, so an item's neighbours in text say who would buy it."""
    rng = np.random.default_rng(0)
    group = rng.integers(5, size=120)
    noise = rng.standard_normal((2, 120, 8)) * 0.2
    text, bought = np.eye(8)[group] + noise[0], np.eye(8)[group] + noise[1]
    text, bought = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (text, bought))
    found = vectors_of_neighbours(text[100:], text[:100], bought[:100])
    distance = np.linalg.norm(found - bought[100:], axis=1)
    assert distance.max() < 1  # zeros are at distance 1 of every vector
