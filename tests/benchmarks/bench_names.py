"""Clustering of item vectors: balanced against `k-means-constrained`, and plain on a million vectors.

Each measurement runs in a process of its own, on the threads that the machine gives, so that neither the
memory nor the caches of another count.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from typing import Any

import numpy as np

from gream.artifacts import peak_memory_mb
from tests.benchmarks.figures import figure, other_process

BALANCED = (12_101, 384, 256)  # the size of a real catalogue and of a small sentence encoder
SIZES = (10_000, 100_000, 1_000_000)
WIDTH, LEVELS, CODES = 128, 3, 256


def measure() -> dict[str, dict[str, Any]]:
    """Run every measurement in its own process and compare."""
    ours, theirs = other_process("bench_names", "ours"), other_process("bench_names", "theirs")
    grown = {size: other_process("bench_names", f"plain-{size}") for size in SIZES}
    seconds = [grown[size]["seconds"] for size in SIZES]
    slope = float(np.log10(seconds[-1] / seconds[0]) / np.log10(SIZES[-1] / SIZES[0]))
    return {
        "balanced k-means, times faster than k-means-constrained": figure(
            theirs["seconds"] / ours["seconds"], "x", ">= 10"
        ),
        "balanced k-means, error against its converged one": figure(
            ours["error"] / theirs["error"], "x", "<= 1.02"
        ),
        "balanced k-means, largest minus smallest cluster": figure(ours["spread"], "items", "<= 1"),
        "residual k-means, 1 M x 128, 3 x 256": figure(grown[SIZES[-1]]["seconds"], "s", "<= 600"),
        "residual k-means, 1 M x 128, peak memory": figure(grown[SIZES[-1]]["peak_gb"], "GB", "<= 4"),
        "residual k-means, growth of time from 10^4 to 10^6 (slope)": figure(slope, "", "<= 1.1"),
    }


def mixture(num_points: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around 600 centres of very different weight, which themselves are around 40."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((40, width), dtype=np.float32)
    fine = coarse[rng.integers(40, size=600)] + 0.7 * rng.standard_normal((600, width), dtype=np.float32)
    weight = rng.pareto(1.2, 600) + 0.2
    points = fine[rng.choice(600, num_points, p=weight / weight.sum())]
    points += 0.8 * rng.standard_normal(points.shape, dtype=np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points


def ours() -> dict[str, float]:
    """Time our balanced k-means to its own end."""
    from gream.semantic_ids.kmeans import kmeans

    points = mixture(*BALANCED[:2], seed=0)
    started = time.perf_counter()
    assigned, centroids = kmeans(points, BALANCED[2], balanced=True, seed=0)
    return {"seconds": time.perf_counter() - started, **_quality(points, assigned, centroids)}


def theirs() -> dict[str, float]:
    """Time `k-means-constrained` to convergence, one start, with the same sizes."""
    from k_means_constrained import KMeansConstrained

    points, size = mixture(*BALANCED[:2], seed=0), BALANCED[2]
    model = KMeansConstrained(
        n_clusters=size,
        size_min=len(points) // size,
        size_max=-(-len(points) // size),
        n_init=1,
        random_state=0,
    )
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    model.fit(points)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, **_quality(points, model.labels_, model.cluster_centers_)}


def plain(num_points: int) -> dict[str, float]:
    """Time plain residual k-means."""
    from gream.semantic_ids.residual import residual_kmeans

    points = mixture(num_points, WIDTH, seed=1)
    started = time.perf_counter()
    residual_kmeans(points, [CODES] * LEVELS, balanced=False, seed=0)
    return {"seconds": time.perf_counter() - started, "peak_gb": peak_memory_mb() / 1024}


def _quality(points: np.ndarray, assigned: np.ndarray, centroids: np.ndarray) -> dict[str, float]:
    sizes = np.bincount(assigned, minlength=len(centroids))
    error = float(((points - centroids[assigned]) ** 2).sum(axis=1).mean())
    return {"error": error, "spread": float(sizes.max() - sizes.min())}


if __name__ == "__main__":
    name, _, count = sys.argv[1].partition("-")
    print(json.dumps(plain(int(count)) if count else {"ours": ours, "theirs": theirs}[name]()))
