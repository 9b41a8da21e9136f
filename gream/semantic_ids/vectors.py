"""What all item vectors have in common: length, a truncated SVD, and how two kinds of them are joined.

Legend: N items, D embedding.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD

SVD_ITERATIONS = 7  # power iterations of the randomised SVD; ours


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; rows of zeros stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def fuse(text: np.ndarray | None, collaborative: np.ndarray | None, weight: float) -> np.ndarray:
    """Join both parts: a dot product is then (1 - weight) times the texts' plus weight times the others'.

    A part whose weight is 0 is left out, so that no columns of zeros are quantised; it may be None.

    Args:
        text: (N, any width).
        collaborative: (N, any width).
        weight: of the collaborative part, 0 to 1.
    """
    parts = [(text, 1 - weight), (collaborative, weight)]
    scaled = [np.sqrt(share) * part for part, share in parts if share > 0 and part is not None]
    fused: np.ndarray = np.concatenate(scaled, axis=1).astype(np.float32)
    return fused


def factorise(matrix: sp.csr_array, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truncated SVD of (N, M); scikit-learn fixes the signs.

    Returns:
        Scores U S (N, D), singular values (D,) and components (D, M), all float32; D is at most `dim`.
    """
    svd = TruncatedSVD(min(dim, *matrix.shape), n_iter=SVD_ITERATIONS, random_state=seed)
    scores = svd.fit_transform(matrix)
    parts = (scores, svd.singular_values_, svd.components_)
    first, strengths, components = (np.asarray(part, dtype=np.float32) for part in parts)
    return first, strengths, components
