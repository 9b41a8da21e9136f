"""RQ-VAE, MPQ and OPQ on planted vectors: what a stub cannot pass."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gream.semantic_ids.codebook_training import Training
from gream.semantic_ids.kmeans import kmeans
from gream.semantic_ids.mpq import fit_mpq, overlap, similarity
from gream.semantic_ids.opq import fit_opq
from gream.semantic_ids.quantiser import Quantiser, encode
from gream.semantic_ids.rqvae import alignment_loss, fit_rqvae

TRAINING = Training(
    hidden=[32], latent_dim=12, epochs=60, batch_size=100, learning_rate=5e-3,
    gradient="straight_through", seed=0,
)  # fmt: skip
SIZES = (12, 10, 8)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    """600 vectors that three independent choices out of 8, 7 and 6 make, and a little noise."""
    generator = np.random.default_rng(1)
    parts = [generator.normal(size=(count, 16))[generator.integers(count, size=600)] for count in (8, 7, 6)]
    vectors = sum(parts) + 0.05 * generator.normal(size=(600, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def error(quantiser: Quantiser, vectors: np.ndarray, books: list[int]) -> float:
    left = vectors - quantiser.reconstruct(quantiser.project(vectors), encode(quantiser, vectors), books)
    return float((left**2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum())


def perplexities(codes: np.ndarray) -> list[float]:
    found = []
    for column in codes.T:
        shares = np.unique(column, return_counts=True)[1] / len(column)
        found.append(float(np.exp(-(shares * np.log(shares)).sum())))
    return found


@pytest.fixture(scope="module")
def rqvae(vectors: np.ndarray) -> Quantiser:
    return fit_rqvae(vectors, SIZES, TRAINING)


@pytest.fixture(scope="module")
def mpq(vectors: np.ndarray) -> Quantiser:
    return fit_mpq(vectors, SIZES, TRAINING, orthogonality=3.0)


def test_every_level_of_an_rqvae_lowers_the_error(rqvae: Quantiser, vectors: np.ndarray) -> None:
    errors = [error(rqvae, vectors, list(range(level + 1))) for level in range(3)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.35
    assert rqvae.ordered


def test_no_codebook_of_an_rqvae_collapses(rqvae: Quantiser, vectors: np.ndarray) -> None:
    for perplexity, size in zip(perplexities(encode(rqvae, vectors)), SIZES, strict=True):
        assert perplexity > 0.5 * size


def test_the_rotation_trick_learns_too(vectors: np.ndarray) -> None:
    quantiser = fit_rqvae(vectors, SIZES, replace(TRAINING, gradient="rotation"))
    assert error(quantiser, vectors, [0, 1, 2]) < 0.4


@pytest.mark.parametrize("fit", ["rqvae", "mpq"])
def test_the_same_seed_gives_the_same_bytes(vectors: np.ndarray, fit: str) -> None:
    short = replace(TRAINING, epochs=4)
    runs = [
        fit_rqvae(vectors, SIZES, short)
        if fit == "rqvae"
        else fit_mpq(vectors, SIZES, short, orthogonality=1)
        for _ in range(2)
    ]
    assert [b.tobytes() for b in runs[0].codebooks] == [b.tobytes() for b in runs[1].codebooks]


def test_alignment_brings_items_bought_together_under_one_code() -> None:
    # The loud part of a vector says nothing about purchases; the faint part decides them.
    generator = np.random.default_rng(2)
    loud, faint = generator.integers(8, size=400), generator.integers(4, size=400)
    vectors = generator.normal(size=(8, 12))[loud] + 0.4 * generator.normal(size=(4, 12))[faint]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    bought = np.eye(4, dtype=np.float32)[faint]

    def purity(alignment: float) -> float:
        quantiser = fit_rqvae(vectors, (8, 8), TRAINING, collaborative=bought, alignment=alignment)
        counts = np.zeros((8, 4))
        np.add.at(counts, (encode(quantiser, vectors)[:, 0], faint), 1)
        return float(counts.max(axis=1).sum() / len(vectors))

    assert purity(3.0) > purity(0.0) + 0.1


def test_the_alignment_loss_by_hand() -> None:
    # Both predictions point at their own vector: cosines 1 and 0 at temperature 0.1.
    found = alignment_loss(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.eye(2))
    assert found.item() == pytest.approx(np.log(1 + np.exp(-10)), rel=1e-3)
    # An item without a vector neither counts nor serves as a negative.
    more = alignment_loss(torch.tensor([[2.0, 0], [0, 3], [5, 5]]), torch.tensor([[1.0, 0], [0, 1], [0, 0]]))
    assert more.item() == pytest.approx(found.item())
    assert alignment_loss(torch.ones(2, 3), torch.zeros(2, 3)).item() == 0


def test_removing_any_expert_raises_the_error(mpq: Quantiser, vectors: np.ndarray) -> None:
    whole = error(mpq, vectors, [0, 1, 2])
    assert whole < 0.4
    for book in range(3):
        assert error(mpq, vectors, [other for other in range(3) if other != book]) > 1.2 * whole


def test_the_books_of_mpq_are_in_use_and_its_gate_is_not_one_hot(mpq: Quantiser, vectors: np.ndarray) -> None:
    for perplexity, size in zip(perplexities(encode(mpq, vectors)), SIZES, strict=True):
        assert perplexity > 0.5 * size
    weights = mpq.gate_weights(mpq.project(vectors))  # type: ignore[attr-defined]
    assert weights.max(axis=1).mean() < 0.9
    assert weights.mean(axis=0).min() > 0.05
    assert not mpq.ordered


def test_without_orthogonality_the_books_overlap_more(mpq: Quantiser, vectors: np.ndarray) -> None:
    free = fit_mpq(vectors, SIZES, TRAINING, orthogonality=0.0)
    books = [[torch.from_numpy(book) for book in quantiser.codebooks] for quantiser in (mpq, free)]
    assert overlap(books[1]) > 2 * overlap(books[0])
    # and their codes say the same things again, so fewer items can be told apart
    distinct = [len(np.unique(encode(quantiser, vectors), axis=0)) for quantiser in (mpq, free)]
    assert distinct[0] > distinct[1]


def test_overlap_and_similarity_by_hand() -> None:
    x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert overlap([x, y]).item() == 0
    assert overlap([x, 3 * x]).item() == pytest.approx(1)
    assert overlap([x, y, x]).item() == pytest.approx(1 / 3)
    assert overlap([x]).item() == 0
    outputs = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    others = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])  # uncorrelated
    assert similarity([outputs, -2 * outputs]).item() == pytest.approx(1)
    assert similarity([outputs, others]).item() == pytest.approx(0)
    assert similarity([outputs, torch.ones(4, 1)]).item() == 0  # an expert that says nothing


def test_opq_loses_little_and_its_books_share_nothing(vectors: np.ndarray) -> None:
    quantiser = fit_opq(vectors, SIZES, seed=0)
    assert not quantiser.ordered
    whole = error(quantiser, vectors, [0, 1, 2])
    assert whole < 0.4
    for one in range(3):
        assert error(quantiser, vectors, [book for book in range(3) if book != one]) > 1.2 * whole
        for other in range(one):
            assert not (quantiser.codebooks[one] @ quantiser.codebooks[other].T).any()


def test_opq_turns_vectors_without_stretching_them(vectors: np.ndarray) -> None:
    quantiser = fit_opq(vectors, SIZES, seed=0)  # 16 dimensions are filled up to 18
    turned = quantiser.project(vectors)
    assert turned.shape == (600, 18)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=1e-4)  # float32 from faiss


def test_opq_gives_the_same_bytes_again(vectors: np.ndarray) -> None:
    runs = [fit_opq(vectors, SIZES, seed=3) for _ in range(2)]
    assert runs[0].encoder.weights[0].tobytes() == runs[1].encoder.weights[0].tobytes()
    assert [b.tobytes() for b in runs[0].codebooks] == [b.tobytes() for b in runs[1].codebooks]


def test_a_constant_that_an_expert_adds_is_no_similarity() -> None:
    outputs = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    others = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    assert similarity([outputs + 5, others + 5]).item() == pytest.approx(0, abs=1e-6)


def test_every_slice_of_opq_is_clustered_from_its_own_seed(vectors: np.ndarray) -> None:
    quantiser = fit_opq(vectors, SIZES, seed=4)
    rotated = quantiser.project(vectors)
    for book, size in enumerate(SIZES):
        part = slice(6 * book, 6 * (book + 1))
        centroids = kmeans(np.ascontiguousarray(rotated[:, part]), size, balanced=False, seed=4 + book)[1]
        # the rotation of 16 columns rounds otherwise than that of the 18 filled up
        np.testing.assert_allclose(quantiser.codebooks[book][:, part], centroids, atol=1e-4)


def test_opq_needs_no_more_items_than_codes() -> None:
    points = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
    assert encode(fit_opq(points, (8, 8), seed=0), points).shape == (8, 2)


@pytest.mark.parametrize("fit", ["rqvae", "mpq"])
def test_two_threads_give_the_same_bytes_again(vectors: np.ndarray, fit: str) -> None:
    short = replace(TRAINING, epochs=3, batch_size=512, latent_dim=64)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = [
            fit_rqvae(vectors, SIZES, short)
            if fit == "rqvae"
            else fit_mpq(vectors, SIZES, short, orthogonality=1)
            for _ in range(3)
        ]
    finally:
        torch.set_num_threads(before)
    assert len({b"".join(book.tobytes() for book in run.codebooks) for run in runs}) == 1


@pytest.mark.parametrize(("count", "width", "size"), [(40, 64, 32), (40, 64, 4), (2, 1, 2), (9, 30, 3)])
def test_opq_takes_fewer_items_than_columns(count: int, width: int, size: int) -> None:
    points = np.random.default_rng(4).normal(size=(count, width)).astype(np.float32)
    quantiser = fit_opq(points, (size,) * 3, seed=0)
    rotation = quantiser.encoder.weights[0]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(width), atol=1e-4)  # float32 from faiss
