"""Residual k-means: every level clusters what the levels before it left over.

Source: GREAM (arXiv 2510.20815), item tokenisation by residual k-means, there balanced. Differs from the
authors' code in the clustering itself (kmeans.py) and in having one start instead of three.

Legend: N items, D embedding, K codes, L codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gream.semantic_ids.kmeans import kmeans


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
