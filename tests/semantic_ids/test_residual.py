"""K-means and residual k-means: sizes, cost, error by level, and the same result every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from gream.semantic_ids import kmeans as kmeans_module
from gream.semantic_ids.kmeans import balanced_assignment, kmeans, nearest, squared_distances
from gream.semantic_ids.residual import residual_kmeans


def blobs(seed: int, num_points: int, dim: int) -> np.ndarray:
    """Points around five centres, most of them around the first."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, dim)) * 3
    chosen = generator.choice(5, size=num_points, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    return (centres[chosen] + generator.normal(size=(num_points, dim))).astype(np.float32)


def test_a_full_cluster_sends_the_cheaper_point_away() -> None:
    # Both points want cluster 0; sending point 1 away costs 1 more, sending point 0 away 4 more.
    costs = np.array([[0, 4], [0, 1]], dtype=np.float32)
    assert balanced_assignment(costs)[0].tolist() == [0, 1]


@pytest.mark.parametrize(("num_points", "size"), [(60, 7), (43, 4), (12, 12), (13, 1), (29, 28)])
def test_cluster_sizes_differ_by_at_most_one(num_points: int, size: int) -> None:
    points = blobs(1, num_points, 3)
    assigned, _ = kmeans(points, size, balanced=True, seed=2)
    counts = np.bincount(assigned, minlength=size)
    assert counts.min() >= num_points // size
    assert counts.max() <= -(-num_points // size)


@pytest.mark.parametrize("seed", range(5))
def test_the_auction_is_close_to_the_best_assignment(seed: int) -> None:
    points = blobs(seed, 42, 3)
    costs = squared_distances(points, points[:6])
    assigned, _ = balanced_assignment(costs)
    places = costs.repeat(7, axis=1)  # 6 clusters with 7 places each: 42 places for 42 points
    rows, columns = linear_sum_assignment(places)
    best = places[rows, columns].sum()
    # The auction's step is a fifth of the mean spread of a point's costs, and no point loses more than it.
    allowance = 42 * 0.2 * (costs.mean() - costs.min(axis=1).mean())
    assert best * (1 - 1e-5) <= costs[np.arange(42), assigned].sum() <= best + allowance


def test_the_place_left_over_goes_where_most_points_want_to_be() -> None:
    # Points 0 to 3 want cluster 1, point 4 cluster 0; 5 points, 2 clusters.
    costs = np.array([[5, 0], [5, 0], [5, 0], [3, 0], [0, 5]], dtype=np.float32)
    assert balanced_assignment(costs)[0].tolist() == [1, 1, 1, 0, 0]


def test_prices_of_another_auction_still_balance() -> None:
    costs = squared_distances(blobs(3, 30, 3), blobs(4, 4, 3))
    assigned, prices = balanced_assignment(costs, np.array([9, 0, 100, 0], dtype=np.float32))
    assert sorted(np.bincount(assigned).tolist()) == [7, 7, 8, 8]
    assert prices.min() == 0


@pytest.mark.parametrize("balanced", [True, False])
def test_identical_points_are_clustered(balanced: bool) -> None:
    codes, codebooks = residual_kmeans(np.ones((11, 3), np.float32), [4, 3], balanced=balanced, seed=0)
    assert codes.shape == (11, 2)
    assert [book.shape for book in codebooks] == [(4, 3), (3, 3)]
    if balanced:
        assert sorted(np.bincount(codes[:, 0]).tolist()) == [2, 3, 3, 3]


@pytest.mark.parametrize("balanced", [True, False])
def test_centroids_are_the_means_of_their_points(balanced: bool) -> None:
    points = blobs(5, 50, 4)
    assigned, centroids = kmeans(points, 6, balanced=balanced, seed=0)
    for cluster in np.unique(assigned):
        # float32 sums in another order
        np.testing.assert_allclose(centroids[cluster], points[assigned == cluster].mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("balanced", [True, False])
def test_every_level_lowers_the_error(balanced: bool) -> None:
    vectors = blobs(6, 90, 5)
    codes, codebooks = residual_kmeans(vectors, [4, 6, 5], balanced=balanced, seed=1)
    errors, left = [(vectors**2).sum()], vectors
    for level, codebook in enumerate(codebooks):
        left = left - codebook[codes[:, level]]
        errors.append((left**2).sum())
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.5 * errors[0]


@pytest.mark.parametrize("balanced", [True, False])
def test_the_same_seed_gives_the_same_bytes(balanced: bool) -> None:
    vectors = blobs(7, 70, 4)
    runs = [residual_kmeans(vectors, [5, 4], balanced=balanced, seed=3) for _ in range(2)]
    assert runs[0][0].tobytes() == runs[1][0].tobytes()
    assert [book.tobytes() for book in runs[0][1]] == [book.tobytes() for book in runs[1][1]]


def test_another_seed_gives_other_codes() -> None:
    vectors = blobs(7, 70, 4)
    first, second = (residual_kmeans(vectors, [5, 4], balanced=True, seed=seed)[0] for seed in (3, 4))
    assert (first != second).any()


def test_the_given_vectors_are_left_as_they_are() -> None:
    vectors = blobs(8, 20, 3)
    before = vectors.copy()
    residual_kmeans(vectors, [3, 3], balanced=True, seed=0)
    assert (vectors == before).all()


def test_distances_equal_the_obvious_sum() -> None:
    points, centroids = blobs(1, 9, 3), blobs(2, 4, 3)
    slow = ((points[:, None, :] - centroids[None]) ** 2).sum(axis=-1)
    # float32, and the fast way subtracts large numbers
    np.testing.assert_allclose(squared_distances(points, centroids), slow, atol=1e-3, rtol=1e-5)
    assert (squared_distances(points, points) >= 0).all()


def test_the_vectorised_auction_and_the_one_by_one_auction_agree_on_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    costs = squared_distances(blobs(10, 200, 3), blobs(11, 9, 3))
    found = []
    for limit in (0, 10_000):  # never one by one; always
        monkeypatch.setattr(kmeans_module, "ONE_BY_ONE", limit)
        assigned, _ = balanced_assignment(costs)
        assert sorted(np.bincount(assigned, minlength=9).tolist()) == [22] * 7 + [23] * 2
        found.append(costs[np.arange(200), assigned].sum())
    # Both are within 200 steps of the best, so they are no further from each other.
    assert abs(found[0] - found[1]) <= 200 * 0.2 * (costs.mean() - costs.min(axis=1).mean())


def test_the_nearest_centroid_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    points, centroids = blobs(12, 50, 3), blobs(13, 6, 3)
    slow = ((points[:, None] - centroids[None]) ** 2).sum(axis=-1)
    for chunk in (7, 50, 1000):
        monkeypatch.setattr(kmeans_module, "CHUNK", chunk)
        assigned, error = nearest(points, centroids)
        assert assigned.tolist() == slow.argmin(axis=1).tolist()
        assert error == pytest.approx(slow.min(axis=1).mean(), rel=1e-4)


def test_a_large_catalogue_starts_from_a_part_of_its_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans_module, "START_POINTS", 2)
    points = blobs(14, 400, 3)
    assigned, centroids = kmeans(points, 5, balanced=False, seed=0)
    variance = ((points - points.mean(axis=0)) ** 2).sum()
    assert ((points - centroids[assigned]) ** 2).sum() < 0.5 * variance


def test_a_price_too_large_for_a_small_step_does_not_stall_the_auction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # All costs are equal, so the step is 1, which float32 cannot add to 1e9: the step has to grow.
    monkeypatch.setattr(kmeans_module, "PATIENCE", 10)
    assigned, _ = balanced_assignment(np.zeros((4, 2), np.float32), np.full(2, 1e9, np.float32))
    assert np.bincount(assigned).tolist() == [2, 2]


@pytest.mark.parametrize("seed", range(6))
def test_one_far_point_does_not_take_a_cluster_from_many(seed: int) -> None:
    # Thirty points at 0, thirty at 10, one at 30: a start is the candidate that leaves the least error.
    points = np.repeat(np.array([[0.0], [10.0], [30.0]], np.float32), [30, 30, 1], axis=0)
    assigned, _ = kmeans(points, 2, balanced=False, seed=seed)
    assert assigned[0] != assigned[30] == assigned[60]


def test_a_cluster_without_points_keeps_its_centroid() -> None:
    assigned, centroids = kmeans(np.full((11, 3), 2.0, np.float32), 4, balanced=False, seed=0)
    assert set(assigned.tolist()) == {0}
    assert centroids.tolist() == [[2.0] * 3] * 4


def test_every_level_clusters_what_is_left_from_its_own_seed() -> None:
    vectors = blobs(15, 60, 4)
    codes, codebooks = residual_kmeans(vectors, [5, 5], balanced=True, seed=3)
    left = vectors - codebooks[0][codes[:, 0]]
    assert codes[:, 1].tolist() == kmeans(left, 5, balanced=True, seed=4)[0].tolist()
