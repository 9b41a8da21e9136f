"""Balanced residual k-means: every level clusters what the levels before it left over.

Source: GREAM (arXiv 2510.20815), item tokenisation by residual k-means. Differs from the authors' code in:
the package k-means-constrained (minimum-cost flow, sizes within about one of n/K, three restarts) is
replaced by ours, k-means++ and Lloyd's iterations with an auction as the balanced assignment, one start;
every cluster has floor(n/K) or ceil(n/K) members.

Legend: N items, D embedding, K codes, L codebooks. All distances are squared Euclidean, float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_ITERATIONS = 20  # Lloyd's iterations at each level; ours
TOLERANCE = 1e-3  # relative gain of the squared error below which Lloyd's iterations stop; ours
AUCTION_STEP = 0.1  # smallest raise of a price, as a share of the mean cost above each point's least; ours
START_TRIALS = 4  # candidates for every start centroid, of which the best is taken; ours
PATIENCE = 10_000  # auction rounds before the step is doubled, so that float32 cannot stall it; ours


def residual_kmeans(
    vectors: np.ndarray, sizes: Sequence[int], *, balanced: bool, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Quantise vectors level by level.

    Args:
        vectors: (N, D) float32, N at least as large as every size.
        sizes: number of codes of each level.
        balanced: give every code of a level the same number of items, to within one.
        seed: start of the random numbers; level l uses seed + l.

    Returns:
        Codes (N, L) int32, and one (K, D) float32 codebook for each level.
    """
    residuals = np.array(vectors, dtype=np.float32)
    codes = np.empty((len(vectors), len(sizes)), dtype=np.int32)
    codebooks = []
    for level, size in enumerate(sizes):
        assigned, centroids = kmeans(residuals, size, balanced=balanced, seed=seed + level)
        codes[:, level] = assigned
        codebooks.append(centroids)
        # R^(l+1) = R^(l) - c^(l)_s
        residuals -= centroids[assigned]
    return codes, codebooks


def encode(vectors: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Name vectors by the nearest centroid at every level, unbalanced; equal distances go to the lower code.

    Args:
        vectors: (N, D).
        codebooks: L arrays (K, D).

    Returns:
        Codes (N, L) int32; two vectors may get the same.
    """
    residuals = np.array(vectors, dtype=np.float32)
    codes = np.empty((len(vectors), len(codebooks)), dtype=np.int32)
    for level, centroids in enumerate(codebooks):
        codes[:, level] = squared_distances(residuals, centroids).argmin(axis=1)
        residuals -= centroids[codes[:, level]]
    return codes


def residuals_after(vectors: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> np.ndarray:
    """Return what the given levels leave over: (N, D) vectors minus the centroids of (N, >= L) codes."""
    residuals = np.array(vectors, dtype=np.float32)
    for level, centroids in enumerate(codebooks):
        residuals -= centroids[codes[:, level]]
    return residuals


def kmeans(points: np.ndarray, size: int, *, balanced: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points; each centroid is the mean of the points that are assigned to it.

    Args:
        points: (N, D) float32.
        size: number of clusters K, at most N.
        balanced: cluster sizes are floor(N/K) or ceil(N/K); otherwise each point takes the nearest
            centroid, and a cluster that loses all points keeps its centroid.
        seed: seed of the k-means++ start.

    Returns:
        Cluster of each point (N,) int64, and centroids (K, D) float32.
    """
    centroids = points[_start(points, size, np.random.default_rng(seed))]
    assigned = np.full(len(points), -1)
    prices = np.zeros(size, dtype=np.float32)
    error = np.inf
    for _ in range(MAX_ITERATIONS):
        costs = squared_distances(points, centroids)
        before, last_error = assigned, error
        if balanced:
            # Prices of the last iteration are a good first offer: the auction then ends after few rounds.
            assigned, prices = balanced_assignment(costs, prices)
        else:
            assigned = costs.argmin(axis=1)
        error = float(costs[np.arange(len(points)), assigned].mean(dtype=np.float64))
        centroids = _means(points, assigned, centroids)
        if np.array_equal(assigned, before) or error > last_error * (1 - TOLERANCE):
            break
    return assigned, centroids


def balanced_assignment(costs: np.ndarray, prices: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Assign every point to one cluster so that cluster sizes differ by at most one, at almost least cost.

    An auction (Bertsekas): each free point offers for the cluster with the best value, cost and price
    together, as much as it would lose by the second best; a full cluster keeps its highest offers and its
    price is the lowest of them. The sum of costs is within N steps of the optimum for these sizes. The
    clusters that most points are nearest to get the places left over by N modulo K.

    Args:
        costs: (N, K) float32.
        prices: (K,) prices to start from; zeros if left out.

    Returns:
        Cluster of each point (N,) int64, and the prices at the end (K,), the lowest of them 0.
    """
    num_points, size = costs.shape
    if size == 1:
        return np.zeros(num_points, dtype=np.int64), np.zeros(1, dtype=np.float32)
    places = _cluster_sizes(costs)
    prices = np.zeros(size, dtype=np.float32) if prices is None else prices.copy()
    spread = float(costs.mean(dtype=np.float64) - costs.min(axis=1).mean(dtype=np.float64))
    step = AUCTION_STEP * spread if spread > 0 else 1.0  # all clusters cost the same: any step will do
    assigned = np.full(num_points, -1)
    offers = np.zeros(num_points, dtype=np.float32)
    free, rounds = np.arange(num_points), 0
    while len(free):
        wanted, offers[free] = _bid(costs[free], prices, step)
        assigned[free] = wanted
        free = _settle(assigned, offers, places, prices, wanted)
        rounds += 1
        if rounds % PATIENCE == 0:
            step *= 2
    return assigned, prices - prices.min()


def squared_distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, K) float32 of (N, D) points and (K, D) centroids."""
    distances: np.ndarray = points @ centroids.T
    distances *= -2
    distances += np.einsum("nd,nd->n", points, points)[:, None]
    distances += np.einsum("kd,kd->k", centroids, centroids)[None, :]
    np.maximum(distances, 0, out=distances)  # rounding can leave a small negative
    return distances


def _start(points: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """Choose `size` points far from each other: greedy k-means++ (scikit-learn's needs a minute here)."""
    norms = np.einsum("nd,nd->n", points, points)
    chosen = [int(generator.integers(len(points)))]
    nearest = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < size:
        total = np.cumsum(nearest, dtype=np.float64)
        # All points lie on a chosen one: the last is then taken again.
        trials = np.searchsorted(total, generator.random(START_TRIALS) * total[-1], side="right")
        trials = np.minimum(trials, len(points) - 1)
        distances = norms[:, None] + norms[trials] - 2 * (points @ points[trials].T)
        closer = np.minimum(nearest[:, None], np.maximum(distances, 0))  # (N, START_TRIALS)
        best = int(closer.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(int(trials[best]))
        nearest = closer[:, best]
    return np.array(chosen)


def _cluster_sizes(costs: np.ndarray) -> np.ndarray:
    """Number of places of each cluster: floor(N/K), and one more where demand is highest."""
    num_points, size = costs.shape
    demand = np.bincount(costs.argmin(axis=1), minlength=size)
    places = np.full(size, num_points // size)
    places[np.argsort(-demand, kind="stable")[: num_points % size]] += 1
    return places


def _bid(costs: np.ndarray, prices: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Best cluster of each free point, and its offer for a place there."""
    totals = costs + prices  # (F, K) float32, F free points
    rows = np.arange(len(totals))
    best = totals.argmin(axis=1)
    lowest = totals[rows, best]
    totals[rows, best] = np.inf
    return best, prices[best] + (totals.min(axis=1) - lowest) + np.float32(step)


def _settle(
    assigned: np.ndarray, offers: np.ndarray, places: np.ndarray, prices: np.ndarray, wanted: np.ndarray
) -> np.ndarray:
    """Let the wanted clusters turn low offers away and raise their prices; return the points left free."""
    touched = np.zeros(len(places), dtype=bool)
    touched[wanted] = True  # in all others nothing has changed
    points = np.flatnonzero(touched[assigned])
    order = points[np.lexsort((points, -offers[points], assigned[points]))]  # ties: lower point first
    clusters = assigned[order]
    first = np.searchsorted(clusters, clusters, side="left")
    rank = np.arange(len(order)) - first
    lowest = order[rank == places[clusters] - 1]
    prices[assigned[lowest]] = offers[lowest]
    free = np.sort(order[rank >= places[clusters]])
    assigned[free] = -1
    return free


def _means(points: np.ndarray, assigned: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Centroids (K, D) of the assigned points; an empty cluster keeps the previous centroid."""
    order = np.argsort(assigned, kind="stable")
    used, starts, counts = np.unique(assigned[order], return_index=True, return_counts=True)
    centroids = previous.copy()
    centroids[used] = np.add.reduceat(points[order], starts, axis=0) / counts[:, None].astype(np.float32)
    return centroids
