"""K-means, plain and balanced: the assignment that every quantiser of gream stands on.

Balanced clusters have floor(n/K) or ceil(n/K) members each. GREAM's code (arXiv 2510.20815) uses the package
k-means-constrained, a minimum-cost flow; ours is Lloyd's iterations with an auction.

Legend: N points, D width, K clusters. All distances are squared Euclidean, float32.
"""

from __future__ import annotations

import heapq

import numpy as np
import scipy.sparse as sp

MAX_ITERATIONS = 20  # Lloyd's iterations; ours
TOLERANCE = 2e-3  # relative gain of the squared error below which Lloyd's iterations stop; ours
AUCTION_STEP = 0.2  # smallest raise of a price, as a share of the mean cost above each point's least; ours
START_TRIALS = 4  # candidates for every start centroid, of which the best is taken; ours
START_POINTS = 16  # points for each cluster that the start is chosen among, where there are more; ours
PATIENCE = 100_000  # single offers before the step is doubled, so that float32 cannot stall it; ours
ONE_BY_ONE = 32  # free points at which the auction goes on with single offers
CHUNK = 65_536  # points whose distances to all centroids are held at once, unless balanced


def kmeans(points: np.ndarray, size: int, *, balanced: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster points; each centroid is the mean of the points that are assigned to it.

    Args:
        points: (N, D) float32.
        size: number of clusters K, at most N.
        balanced: cluster sizes are floor(N/K) or ceil(N/K); otherwise each point takes the nearest
            centroid, and a cluster that loses all points keeps its centroid.
        seed: seed of the start: random points if balanced, k-means++ if not.

    Returns:
        Cluster of each point (N,) int64, and centroids (K, D) float32.
    """
    generator = np.random.default_rng(seed)
    # Balance spreads the clusters by itself: the slower start gains it nothing (measured).
    centroids = points[_draw(len(points), size, generator)] if balanced else _start(points, size, generator)
    assigned = np.full(len(points), -1)
    prices = np.zeros(size, dtype=np.float32)
    error = np.inf
    for _ in range(MAX_ITERATIONS):
        before, last_error = assigned, error
        if balanced:
            costs = squared_distances(points, centroids)
            # Prices of the last iteration are a good first offer: the auction then ends after few rounds.
            assigned, prices = balanced_assignment(costs, prices)
            error = float(costs[np.arange(len(points)), assigned].mean(dtype=np.float64))
        else:
            assigned, error = nearest(points, centroids)
        centroids = _means(points, assigned, centroids)
        if np.array_equal(assigned, before) or error > last_error * (1 - TOLERANCE):
            break
    return assigned, centroids


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """Nearest centroid of each point (N,) int64, equal distances to the lower one, and the mean distance."""
    assigned = np.empty(len(points), dtype=np.int64)
    total = 0.0
    for start in range(0, len(points), CHUNK):
        costs = squared_distances(points[start : start + CHUNK], centroids)
        assigned[start : start + CHUNK] = costs.argmin(axis=1)
        total += float(costs.min(axis=1).sum(dtype=np.float64))
    return assigned, total / max(len(points), 1)


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
    free = np.arange(num_points)
    while len(free) > ONE_BY_ONE:
        wanted, offers[free] = _bid(costs[free], prices, step)
        assigned[free] = wanted
        free = _settle(assigned, offers, places, prices, wanted)
    _finish(costs, assigned, offers, places, prices, free, step)
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
    """Choose `size` points (K, D) far from each other: greedy k-means++ (scikit-learn's is slow here)."""
    if len(points) > START_POINTS * size:
        points = points[_draw(len(points), START_POINTS * size, generator)]
    norms = np.einsum("nd,nd->n", points, points)
    chosen = [int(generator.integers(len(points)))]
    least = squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < size:
        total = np.cumsum(least, dtype=np.float64)
        # All points lie on a chosen one: the last is then taken again.
        trials = np.searchsorted(total, generator.random(START_TRIALS) * total[-1], side="right")
        trials = np.minimum(trials, len(points) - 1)
        distances = norms[:, None] + norms[trials] - 2 * (points @ points[trials].T)
        closer = np.minimum(least[:, None], np.maximum(distances, 0))  # (N, START_TRIALS)
        best = int(closer.sum(axis=0, dtype=np.float64).argmin())
        chosen.append(int(trials[best]))
        least = closer[:, best]
    return points[chosen]


def _draw(num_points: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `count` different points, in rising order."""
    return np.sort(generator.choice(num_points, count, replace=False))


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


def _finish(
    costs: np.ndarray,
    assigned: np.ndarray,
    offers: np.ndarray,
    places: np.ndarray,
    prices: np.ndarray,
    free: np.ndarray,
    step: float,
) -> None:
    """End the auction with one offer after the other, which is faster where few points are free."""
    held: list[list[tuple[float, int]]] = [[] for _ in places]  # each a heap of (offer, -point)
    for point in np.flatnonzero(assigned >= 0).tolist():
        held[assigned[point]].append((float(offers[point]), -point))
    for heap in held:
        heapq.heapify(heap)
    waiting, bids = free.tolist(), 0
    while waiting:
        point = waiting.pop()
        best, offer = _bid(costs[point : point + 1], prices, step)
        cluster = int(best[0])
        assigned[point] = cluster
        heapq.heappush(held[cluster], (float(offer[0]), -point))
        if len(held[cluster]) > places[cluster]:
            loser = -heapq.heappop(held[cluster])[1]  # of equal offers the higher point leaves
            assigned[loser] = -1
            waiting.append(loser)
        if len(held[cluster]) == places[cluster]:
            prices[cluster] = held[cluster][0][0]
        bids += 1
        if bids % PATIENCE == 0:
            step *= 2


def _means(points: np.ndarray, assigned: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Centroids (K, D) of the assigned points; an empty cluster keeps the previous centroid."""
    counts = np.bincount(assigned, minlength=len(previous))
    ones = np.ones(len(points), dtype=np.float32)
    # Row k of the indicator has the points of cluster k: the product sums them without a sorted copy.
    indicator = sp.csr_array((ones, (assigned, np.arange(len(points)))), shape=(len(previous), len(points)))
    sums = indicator @ points
    used = counts > 0
    centroids = previous.copy()
    centroids[used] = sums[used] / counts[used, None].astype(np.float32)
    return centroids
