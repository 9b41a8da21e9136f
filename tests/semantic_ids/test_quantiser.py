"""A fitted quantiser: nearest codes, reconstruction, and the same after a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gream.errors import InputError
from gream.semantic_ids import quantiser as quantiser_module
from gream.semantic_ids.quantiser import (
    Layers,
    MixtureQuantiser,
    SumQuantiser,
    encode,
    load_quantiser,
    save_quantiser,
)
from gream.semantic_ids.residual import residual_kmeans

LINE = SumQuantiser(
    "residual_kmeans",
    [np.array([[0.0], [10.0]], np.float32), np.array([[-1.0], [0.0], [2.0]], np.float32)],
)


def random_layers(generator: np.random.Generator, *widths: int) -> Layers:
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    return Layers(
        [generator.normal(size=(after, before)).astype(np.float32) for before, after in pairs],
        [generator.normal(size=after).astype(np.float32) for _, after in pairs],
    )


def mixture(seed: int) -> MixtureQuantiser:
    generator = np.random.default_rng(seed)
    return MixtureQuantiser(
        "mpq",
        [generator.normal(size=(size, 3)).astype(np.float32) for size in (4, 2, 5)],
        experts=[random_layers(generator, 6, 4, 3) for _ in range(3)],
        gate=random_layers(generator, 6, 3),
        decoder=random_layers(generator, 3, 4, 6),
    )


def test_encoding_takes_the_nearest_codeword_of_what_is_left() -> None:
    # 9 -> 10, rest -1 -> -1; 3 -> 0, rest 3 -> 2; 5 is as far from 0 as from 10 -> code 0, rest 5 -> 2
    assert encode(LINE, np.array([[9.0], [3.0], [5.0]])).tolist() == [[1, 0], [0, 2], [0, 2]]


def test_unbalanced_codes_are_found_again_by_encoding() -> None:
    vectors = np.random.default_rng(9).normal(size=(60, 4)).astype(np.float32)
    codes, codebooks = residual_kmeans(vectors, [5], balanced=False, seed=0)
    # Lloyd's iterations stop a little before the last point has settled.
    assert (encode(SumQuantiser("x", codebooks), vectors) == codes).mean() > 0.9


def test_a_reconstruction_is_the_sum_of_the_chosen_books() -> None:
    codes = np.array([[1, 0], [0, 2]], np.int32)
    latents = LINE.project(np.zeros((2, 1)))
    assert LINE.reconstruct(latents, codes, [0, 1]).tolist() == [[9.0], [2.0]]
    assert LINE.reconstruct(latents, codes, [1]).tolist() == [[-1.0], [2.0]]


def test_layers_apply_relu_between_but_not_after() -> None:
    layers = Layers(
        [np.array([[1.0], [-1.0]], np.float32), np.array([[1.0, -2.0]], np.float32)],
        [np.zeros(2, np.float32), np.array([0.5], np.float32)],
    )
    # 3 -> relu (3, -3) = (3, 0) -> 3.5; -3 -> (0, 3) -> -5.5
    assert layers(np.array([[3.0], [-3.0]], np.float32)).tolist() == [[3.5], [-5.5]]
    assert Layers()(np.array([[7.0]])).tolist() == [[7.0]]


def test_a_mixture_takes_the_nearest_codeword_of_every_expert() -> None:
    quantiser = mixture(1)
    vectors = np.random.default_rng(2).normal(size=(7, 6)).astype(np.float32)
    codes = encode(quantiser, vectors)
    for book, (expert, codebook) in enumerate(zip(quantiser.experts, quantiser.codebooks, strict=True)):
        slow = ((expert(vectors)[:, None] - codebook[None]) ** 2).sum(axis=-1).argmin(axis=1)
        assert codes[:, book].tolist() == slow.tolist()


def test_a_mixture_weighs_its_codewords_with_the_gate() -> None:
    quantiser = mixture(3)
    vectors = np.random.default_rng(4).normal(size=(5, 6)).astype(np.float32)
    latents, codes = quantiser.project(vectors), encode(quantiser, vectors)
    scores = np.exp(quantiser.gate(vectors))
    weights = scores / scores.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(quantiser.gate_weights(latents), weights, rtol=1e-5)
    summed = sum(weights[:, [b]] * quantiser.codebooks[b][codes[:, b]] for b in (0, 2))
    found = quantiser.reconstruct(latents, codes, [0, 2])
    np.testing.assert_allclose(found, quantiser.decoder(np.asarray(summed, np.float32)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "quantiser",
    [
        LINE,
        SumQuantiser("opq", LINE.codebooks, parallel=True),
        SumQuantiser(
            "rqvae",
            [np.ones((2, 3), np.float32)],
            encoder=random_layers(np.random.default_rng(5), 6, 4, 3),
            decoder=random_layers(np.random.default_rng(6), 3, 6),
        ),
        mixture(7),
    ],
    ids=["residual", "parallel", "networks", "mixture"],
)
def test_a_quantiser_is_the_same_after_a_folder(tmp_path: Path, quantiser: SumQuantiser) -> None:
    save_quantiser(tmp_path, quantiser)
    again = load_quantiser(tmp_path)
    assert (again.method, again.ordered) == (quantiser.method, quantiser.ordered)
    vectors = np.random.default_rng(8).normal(size=(9, 1 if quantiser.codebooks[0].shape[1] == 1 else 6))
    codes = encode(quantiser, vectors)
    assert encode(again, vectors).tolist() == codes.tolist()
    books = range(len(quantiser.codebooks))
    found = [q.reconstruct(q.project(vectors), codes, books) for q in (quantiser, again)]
    assert found[0].tobytes() == found[1].tobytes()


def test_a_folder_without_a_quantiser_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no quantiser"):
        load_quantiser(tmp_path)


def test_encoding_is_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(10).normal(size=(20, 6))
    whole = encode(mixture(11), vectors)
    monkeypatch.setattr(quantiser_module, "CHUNK", 7)
    assert encode(mixture(11), vectors).tolist() == whole.tolist()


def test_large_scores_of_the_gate_are_still_weights() -> None:
    gate = Layers([np.zeros((3, 6), np.float32)], [np.array([1000.0, 0.0, 1000.0], np.float32)])
    quantiser = replace(mixture(12), gate=gate)
    weights = quantiser.gate_weights(quantiser.project(np.ones((1, 6), np.float32)))
    assert weights.tolist() == [[0.5, 0.0, 0.5]]
