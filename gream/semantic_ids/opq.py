"""OPQ: a learnt rotation cuts the vector into slices, and each slice has a codebook; codes have no order.

Source: Ge et al. 2013, optimised product quantisation; the rotation is learnt by faiss. The codebooks of the
rotated slices are our own k-means, so that a codebook may have any size. It is the parallel baseline that
needs no network.

Legend: N items, D embedding, L codebooks (and slices), K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np

from gream.semantic_ids.kmeans import kmeans
from gream.semantic_ids.quantiser import Layers, SumQuantiser

MAX_BITS = 8  # faiss learns the rotation with at most 256 codes a slice, which is enough for a rotation; ours


def fit_opq(vectors: np.ndarray, sizes: Sequence[int], *, seed: int) -> SumQuantiser:
    """Learn a rotation and one codebook for each slice of it.

    Args:
        vectors: (N, D) float32; D is filled up with zeros to a multiple of the number of codebooks.
        sizes: number of codes of each codebook, each at most N.
        seed: of the k-means of every codebook; the rotation's start is fixed in faiss.

    Returns:
        The quantiser with unordered codes.
    """
    num_books, width = len(sizes), vectors.shape[1]
    slice_width = -(-width // num_books)
    padded = np.zeros((len(vectors), num_books * slice_width), dtype=np.float32)
    padded[:, :width] = vectors
    rotation = _rotation(padded, num_books, min(sizes))  # (padded, padded)
    rotated = padded @ rotation.T
    codebooks = []
    for book, size in enumerate(sizes):
        part = slice(book * slice_width, (book + 1) * slice_width)
        centroids = kmeans(np.ascontiguousarray(rotated[:, part]), size, balanced=False, seed=seed + book)[1]
        codebook = np.zeros((size, padded.shape[1]), dtype=np.float32)
        codebook[:, part] = centroids
        codebooks.append(codebook)
    encoder = Layers([rotation[:, :width]], [np.zeros(padded.shape[1], dtype=np.float32)])
    # A rotation is undone by its transpose; what was filled up is cut off again.
    decoder = Layers([np.ascontiguousarray(rotation.T[:width])], [np.zeros(width, dtype=np.float32)])
    return SumQuantiser("opq", codebooks, parallel=True, encoder=encoder, decoder=decoder)


def _rotation(vectors: np.ndarray, num_books: int, size: int) -> np.ndarray:
    """Learn the rotation with faiss, on one thread so that the same vectors give the same bytes."""
    # faiss writes a square matrix into a buffer as long as the points: too few of them are repeated.
    vectors = np.tile(vectors, (-(-vectors.shape[1] // len(vectors)), 1))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        matrix = faiss.OPQMatrix(vectors.shape[1], num_books)
        bits = min(MAX_BITS, int(size).bit_length() - 1)
        # The matrix keeps a bare pointer: the quantiser must live as long as it does.
        slices = faiss.ProductQuantizer(vectors.shape[1], num_books, bits)
        slices.cp.min_points_per_centroid = 1  # fewer points than faiss likes are no fault of the user
        matrix.pq = slices
        matrix.train(np.ascontiguousarray(vectors))
        learnt = faiss.vector_to_array(matrix.A).reshape(matrix.d_out, matrix.d_in)
    finally:
        faiss.omp_set_num_threads(threads)
    return np.array(learnt, dtype=np.float32)
