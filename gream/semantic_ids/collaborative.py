"""Item vectors from who bought what with it: factorised co-occurrence, or factorised purchases.

- `ppmi`: truncated SVD of the shifted positive pointwise mutual information of items bought near each other
  (Levy and Goldberg 2014, section 3.2, for words). Differs from the paper in: the window runs over a user's
  purchases, and a pair counts in both directions.
- `als`: implicit-feedback matrix factorisation (Hu, Koren and Volinsky 2008) by the library `implicit`; the
  items' factors are kept.

Both read training purchases only. Legend: N items, D embedding, U users.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from gream.semantic_ids.vectors import factorise, normalised

METHODS = ("ppmi", "als")

_CELLS_AT_ONCE = 2**24  # bounds memory of the (rows, N) similarities


def ppmi_vectors(
    sequences: Sequence[np.ndarray], num_items: int, *, dim: int, window: int, shift: float, seed: int
) -> np.ndarray | None:
    """Embed items by what was bought near them: shifted PPMI, truncated SVD, L2 norm.

    Args:
        sequences: purchases of each user that may be learnt from, oldest first.
        num_items: N.
        dim: number of singular vectors kept, at most.
        window: largest distance in a sequence that counts as together.
        shift: k >= 1; log k is subtracted from the mutual information.
        seed: seed of the randomised SVD.

    Returns:
        (N, D) float32, zero for items that share no window with another; None if no two items stand out as
        bought together.
    """
    information = shifted_ppmi(cooccurrence(sequences, num_items, window), shift)
    if information.nnz == 0:
        return None
    scores, strengths, _ = factorise(information, dim, seed)
    # U S^(1/2): half of each singular value belongs to the item, half to its context.
    return normalised(scores / np.sqrt(np.maximum(strengths, np.finfo(np.float32).tiny)))


def cooccurrence(sequences: Sequence[np.ndarray], num_items: int, window: int) -> sp.csr_array:
    """Count how often two different items are at most `window` apart in one sequence: symmetric (N, N)."""
    lefts, rights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for sequence in sequences:
        for distance in range(1, min(window, len(sequence) - 1) + 1):
            lefts.append(sequence[:-distance])
            rights.append(sequence[distance:])
    left, right = np.concatenate(lefts), np.concatenate(rights)
    left, right = left[left != right], right[left != right]
    ones = np.ones(2 * len(left), dtype=np.float32)
    rows, columns = np.concatenate([left, right]), np.concatenate([right, left])
    return sp.coo_array((ones, (rows, columns)), shape=(num_items, num_items)).tocsr()


def shifted_ppmi(counts: sp.csr_array, shift: float) -> sp.csr_array:
    """Turn symmetric counts into max(0, log(n_ij n / (n_i n_j)) - log k) with k = `shift`."""
    table = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    rows, columns = table.coords
    # n_i and n_j are at least n_ij, which is positive in a stored cell, so nothing divides by 0.
    ratio = table.data * totals.sum() / (totals[rows] * totals[columns])
    values = np.maximum(np.log(ratio) - np.log(shift), 0).astype(np.float32)
    information = sp.coo_array((values, (rows, columns)), shape=counts.shape).tocsr()
    information.eliminate_zeros()
    return information


def als_vectors(
    sequences: Sequence[np.ndarray],
    num_items: int,
    *,
    dim: int,
    iterations: int,
    regularization: float,
    alpha: float,
    seed: int,
) -> np.ndarray | None:
    """Embed items by the factors that explain who bought them: ALS, L2 norm.

    Args:
        sequences: purchases of each user that may be learnt from.
        num_items: N.
        dim: number of factors, D.
        iterations: how often users and items are solved for in turn.
        regularization: weight of the squared factors in the loss.
        alpha: confidence of one purchase; a pair that was not bought has 1.
        seed: seed of the factors' start.

    Returns:
        (N, D) float32, zero for items that nobody bought in training; None without any purchase.
    """
    from implicit.cpu.als import AlternatingLeastSquares  # here: the library takes a second to import

    users = np.repeat(np.arange(len(sequences)), [len(items) for items in sequences])
    items = np.concatenate([np.zeros(0, dtype=np.int64), *sequences])
    if not len(items):
        return None
    ones = np.ones(len(items), dtype=np.float32)
    purchases = sp.csr_matrix((ones, (users, items)), shape=(len(sequences), num_items))  # (U, N)
    # One thread: sums in another order are other bytes, and BLAS threads would slow the solver down.
    with threadpool_limits(1, "blas"):
        model = AlternatingLeastSquares(
            factors=dim,
            regularization=regularization,
            alpha=alpha,
            iterations=iterations,
            num_threads=1,
            random_state=seed,
        )
        model.fit(purchases, show_progress=False)
    return normalised(np.array(model.item_factors, dtype=np.float32))


def vectors_of_neighbours(
    new_text: np.ndarray, text: np.ndarray, collaborative: np.ndarray, *, num_neighbours: int = 10
) -> np.ndarray:
    """Estimate the collaborative vectors of items that nobody could buy yet (ours).

    Each is the mean of the collaborative vectors of the items with the nearest texts, weighted by cosine
    and scaled to length 1; items without a collaborative vector are no neighbours. Where no text is near,
    it is zero.

    Args:
        new_text: (M, any width) text vectors of length 1 or 0.
        text: (N, the same width) text vectors of the items that are known.
        collaborative: (N, D) of the same items.
        num_neighbours: how many nearest texts count; ours.

    Returns:
        (M, D) float32.
    """
    known = np.flatnonzero(collaborative.any(axis=1))
    found = np.zeros((len(new_text), collaborative.shape[1]), dtype=np.float32)
    num_neighbours = min(num_neighbours, len(known))
    if num_neighbours == 0:
        return found
    near = text[known]
    rows = max(1, _CELLS_AT_ONCE // len(known))
    for start in range(0, len(new_text), rows):
        likeness = new_text[start : start + rows] @ near.T
        nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :num_neighbours]  # ties: lower item
        weights = np.maximum(np.take_along_axis(likeness, nearest, axis=1), 0)
        found[start : start + len(likeness)] = np.einsum("mk,mkd->md", weights, collaborative[known[nearest]])
    return normalised(found)
