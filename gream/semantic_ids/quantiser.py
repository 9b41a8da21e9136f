"""What every quantiser of gream can do once it is fitted, whichever method made it.

Names, collisions, new items and the report ask these few questions and know no method. Nothing here needs
torch: a fitted network is a list of matrices.

Legend: N items, D embedding, d latent, L codebooks, K codes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors.numpy import load_file, save_file

from gream.errors import InputError
from gream.semantic_ids.kmeans import CHUNK, squared_distances

CODEBOOKS_FILE = "codebooks.safetensors"
QUANTISER_FILE = "quantiser.json"


class Quantiser(Protocol):
    """Codebooks, and the way from a vector to a code of each and back."""

    @property
    def method(self) -> str:
        """The setting that chose it, such as "rqvae"."""
        ...

    @property
    def codebooks(self) -> list[np.ndarray]:
        """Codewords: L arrays (K, d)."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether a code means something only after the codes before it."""
        ...

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Bring embeddings (N, D) to where codes are chosen: (N, any width) float32."""
        ...

    def costs(self, latents: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Squared distances (N, K) of projected vectors to all codes of a level.

        Args:
            latents: what `project` returned.
            codes: (N, >= level) codes; those before `level` count if codes are ordered.
            level: the codebook.
        """
        ...

    def reconstruct(self, latents: np.ndarray, codes: np.ndarray, books: Sequence[int]) -> np.ndarray:
        """Return what the codes of the given codebooks say of the embeddings: (N, D)."""
        ...


@dataclass(frozen=True)
class Layers:
    """Fully connected layers with ReLU between them; no layer is the identity."""

    weights: list[np.ndarray] = field(default_factory=list)  # (out, in)
    biases: list[np.ndarray] = field(default_factory=list)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Apply all layers to (N, in)."""
        values = inputs
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            values = values @ weight.T + bias
            if place < len(self.weights) - 1:
                values = np.maximum(values, 0)
        return values


@dataclass(frozen=True)
class SumQuantiser:
    """A vector is the sum of one codeword from each codebook, after an encoder and before a decoder.

    Residual k-means has neither; RQ-VAE has networks; product quantisation has a rotation, and codewords
    that are zero outside their own slice, so that what the other codebooks take away changes nothing.
    """

    method: str
    codebooks: list[np.ndarray]
    parallel: bool = False
    encoder: Layers = Layers()
    decoder: Layers = Layers()

    @property
    def ordered(self) -> bool:
        """Residual codes are ordered, those of slices are not."""
        return not self.parallel

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Encode embeddings: (N, D) to (N, d)."""
        return np.asarray(self.encoder(np.asarray(vectors, dtype=np.float32)), dtype=np.float32)

    def costs(self, latents: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Distances (N, K) of what the levels before left over."""
        return squared_distances(latents - self._sum(codes, range(level)), self.codebooks[level])

    def reconstruct(self, latents: np.ndarray, codes: np.ndarray, books: Sequence[int]) -> np.ndarray:
        """Decode the sum of the codewords: (N, D)."""
        return np.asarray(self.decoder(self._sum(codes, books)), dtype=np.float32)

    def _sum(self, codes: np.ndarray, books: Sequence[int]) -> np.ndarray:
        total = np.zeros((len(codes), self.codebooks[0].shape[1]), dtype=np.float32)
        for book in books:
            total += self.codebooks[book][codes[:, book]]
        return total


@dataclass(frozen=True)
class MixtureQuantiser:
    """Experts side by side, each with its own codebook; a gate weighs their codewords before one decoder.

    REG4Rec's MPQ (arXiv 2508.15308); mpq.py fits it. The gate reads the embedding itself, so a
    reconstruction needs the latents, which carry the gate's weights in their last L columns.
    """

    method: str
    codebooks: list[np.ndarray]
    experts: list[Layers]
    gate: Layers
    decoder: Layers

    @property
    def ordered(self) -> bool:
        """Every expert reads the whole vector: no code depends on another."""
        return False

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Outputs of all experts and the gate's weights, side by side: (N, L d + L)."""
        vectors = np.asarray(vectors, dtype=np.float32)
        scores = self.gate(vectors)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        return np.concatenate([*(expert(vectors) for expert in self.experts), weights], axis=1)

    def gate_weights(self, latents: np.ndarray) -> np.ndarray:
        """Weights (N, L) of the experts, each row a distribution."""
        return latents[:, -len(self.codebooks) :]

    def costs(self, latents: np.ndarray, codes: np.ndarray, level: int) -> np.ndarray:
        """Distances (N, K) of the expert's output; other codes do not matter."""
        width = self.codebooks[level].shape[1]
        return squared_distances(latents[:, level * width : (level + 1) * width], self.codebooks[level])

    def reconstruct(self, latents: np.ndarray, codes: np.ndarray, books: Sequence[int]) -> np.ndarray:
        """Decode the weighted sum of the codewords: (N, D)."""
        weights = self.gate_weights(latents)
        total = np.zeros((len(codes), self.codebooks[0].shape[1]), dtype=np.float32)
        for book in books:
            total += weights[:, book, None] * self.codebooks[book][codes[:, book]]
        return np.asarray(self.decoder(total), dtype=np.float32)


def encode(quantiser: Quantiser, vectors: np.ndarray) -> np.ndarray:
    """Give every vector the nearest code of each codebook, in their order; ties go to the lower code.

    Returns:
        Codes (N, L) int32; two vectors may get the same.
    """
    codes = np.zeros((len(vectors), len(quantiser.codebooks)), dtype=np.int32)
    for start in range(0, len(vectors), CHUNK):
        part = slice(start, start + CHUNK)
        latents = quantiser.project(vectors[part])
        for level in range(len(quantiser.codebooks)):
            codes[part, level] = quantiser.costs(latents, codes[part], level).argmin(axis=1)
    return codes


def save_quantiser(folder: Path, quantiser: Quantiser) -> None:
    """Write `quantiser.json` and `codebooks.safetensors` into `folder`."""
    tensors = {f"level_{level}": book for level, book in enumerate(quantiser.codebooks)}
    networks: dict[str, int] = {}
    for name, layers in _networks(quantiser).items():
        networks[name] = len(layers.weights)
        for place, (weight, bias) in enumerate(zip(layers.weights, layers.biases, strict=True)):
            tensors[f"{name}.{place}.weight"] = weight
            tensors[f"{name}.{place}.bias"] = bias
    data = {
        "method": quantiser.method,
        "ordered": quantiser.ordered,
        "num_codebooks": len(quantiser.codebooks),
        "layers": networks,
    }
    (folder / QUANTISER_FILE).write_text(json.dumps(data, indent=2) + "\n")
    save_file({k: np.ascontiguousarray(v, np.float32) for k, v in tensors.items()}, folder / CODEBOOKS_FILE)


def load_quantiser(folder: Path) -> Quantiser:
    """Read the quantiser that `gream sids` fitted.

    Raises:
        InputError: the folder has none, as is so for names that were imported.
    """
    if not (folder / QUANTISER_FILE).is_file():
        raise InputError(
            f"{folder} has no quantiser ({QUANTISER_FILE} is missing); run `gream sids` again, or correct "
            "the path."
        )
    data = json.loads((folder / QUANTISER_FILE).read_text())
    tensors = load_file(folder / CODEBOOKS_FILE)
    codebooks = [tensors[f"level_{level}"] for level in range(data["num_codebooks"])]
    networks = {
        name: Layers(
            [tensors[f"{name}.{place}.weight"] for place in range(count)],
            [tensors[f"{name}.{place}.bias"] for place in range(count)],
        )
        for name, count in data["layers"].items()
    }
    if "gate" in networks:
        experts = [networks[f"expert_{book}"] for book in range(len(codebooks))]
        return MixtureQuantiser(data["method"], codebooks, experts, networks["gate"], networks["decoder"])
    return SumQuantiser(
        data["method"], codebooks, not data["ordered"], networks["encoder"], networks["decoder"]
    )


def _networks(quantiser: Quantiser) -> dict[str, Layers]:
    if isinstance(quantiser, MixtureQuantiser):
        experts = {f"expert_{book}": expert for book, expert in enumerate(quantiser.experts)}
        return {**experts, "gate": quantiser.gate, "decoder": quantiser.decoder}
    if isinstance(quantiser, SumQuantiser):
        return {"encoder": quantiser.encoder, "decoder": quantiser.decoder}
    raise TypeError(f"{type(quantiser).__name__} is no quantiser that can be saved.")
