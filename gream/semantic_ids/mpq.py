"""MPQ: experts side by side, each with its own codebook, a gate, and one decoder; codes have no order.

Source: REG4Rec (arXiv 2508.15308), MoE-based parallel quantisation: every expert quantises the whole vector,
the gate weighs the chosen codewords, one decoder rebuilds the vector, and an orthogonality term keeps the
codebooks apart. What could not be found in the paper and is decided here: the exact form of the
orthogonality term (mean squared cosine between codewords of different codebooks), its weight, the
straight-through or rotated gradient with codebook and commitment losses, a softmax gate, the warm-up
without codebooks, the k-means start and the restart of dead codes.

Legend: B items of a batch, N items, D embedding, d latent, M experts (and codebooks), K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import nn

from gream.semantic_ids.codebook_training import (
    TINY,
    Training,
    as_layers,
    choose,
    codebook_loss,
    learn,
    network,
    quantise,
    restart_dead,
)
from gream.semantic_ids.kmeans import kmeans
from gream.semantic_ids.quantiser import MixtureQuantiser


def fit_mpq(
    vectors: np.ndarray, sizes: Sequence[int], training: Training, *, orthogonality: float
) -> MixtureQuantiser:
    """Train experts, codebooks, gate and decoder.

    Args:
        vectors: (N, D) float32, scaled to a mean squared length of about 1.
        sizes: number of codes of each of the M codebooks, each at most N.
        training: networks (the same shape for every expert) and schedule.
        orthogonality: weight of the overlap between codebooks.

    Returns:
        The quantiser with unordered codes.
    """
    torch.manual_seed(training.seed)
    model = _Model(vectors.shape[1], sizes, training)
    data = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))

    def warm_up_loss(rows: torch.Tensor) -> torch.Tensor:
        rebuilt, outputs = model.plain_loss(data[rows])
        return rebuilt + orthogonality * similarity(outputs)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        rebuilt, outputs = model.loss(data[rows], training.gradient)
        return rebuilt + orthogonality * (similarity(outputs) + overlap(list(model.codebooks)))

    learn(model, data, sizes, training, warm_up_loss, loss, title="mpq")
    return MixtureQuantiser(
        "mpq",
        [book.detach().numpy().copy() for book in model.codebooks],
        experts=[as_layers(expert) for expert in model.parts()],
        gate=as_layers(model.gate),
        decoder=as_layers(model.decoder),
    )


def overlap(codebooks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared cosine between codewords of different codebooks: 0 where all are orthogonal.

    Args:
        codebooks: M tensors (K, d); a single one overlaps with nothing.
    """
    unit = [nn.functional.normalize(book, dim=1) for book in codebooks]
    pairs = [(one @ other.T).square().mean() for one, other in combinations(unit, 2)]
    return torch.stack(pairs).mean() if pairs else codebooks[0].sum() * 0.0


def similarity(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean linear kernel alignment (Kornblith et al. 2019) of the experts: 0 if uncorrelated, 1 if alike.

    Orthogonal codewords alone do not keep experts from cutting the items into the same groups; experts whose
    outputs are uncorrelated over the items say different things of them.

    Args:
        outputs: M tensors (B, d), of the same items.
    """
    centred = [output - output.mean(dim=0) for output in outputs]
    own = [(output.T @ output).norm().clamp(min=TINY) for output in centred]
    pairs = [
        (centred[one].T @ centred[other]).square().sum() / (own[one] * own[other])
        for one, other in combinations(range(len(centred)), 2)
    ]
    return torch.stack(pairs).mean() if pairs else outputs[0].sum() * 0.0


class _Model(nn.Module):
    """Experts, gate, decoder and codebooks."""

    def __init__(self, width: int, sizes: Sequence[int], training: Training) -> None:
        super().__init__()
        widths = [width, *training.hidden, training.latent_dim]
        self.experts = nn.ModuleList(network(widths) for _ in sizes)
        self.gate = network([width, len(sizes)])
        self.decoder = network(widths[::-1])
        self.codebooks = nn.ParameterList(torch.zeros(size, training.latent_dim) for size in sizes)
        self.used = [torch.zeros(size) for size in sizes]

    def parts(self) -> list[nn.Sequential]:
        """Return the experts, in the order of their codebooks."""
        return [expert for expert in self.experts if isinstance(expert, nn.Sequential)]

    def plain_loss(self, vectors: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Reconstruction from the experts' outputs as they are, and these outputs, M times (B, d)."""
        weights = self.gate(vectors).softmax(dim=1)  # (B, M)
        outputs = [expert(vectors) for expert in self.experts]
        decoded = self.decoder((weights.unsqueeze(-1) * torch.stack(outputs, dim=1)).sum(dim=1))
        return (decoded - vectors).square().sum(dim=1).mean(), outputs

    def loss(self, vectors: torch.Tensor, gradient: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Reconstruction from the codewords with the codebook losses, and the outputs of all experts."""
        weights, outputs = self.gate(vectors).softmax(dim=1), []
        total, books = 0.0, vectors.new_zeros(())
        for book, (expert, codebook) in enumerate(zip(self.experts, self.codebooks, strict=True)):
            latents = expert(vectors)
            outputs.append(latents)
            codes = choose(latents, codebook)
            self.used[book] += torch.bincount(codes, minlength=len(codebook))
            codewords = nn.functional.embedding(codes, codebook)  # indexing sums its gradient in any order
            books = books + codebook_loss(latents, codewords)
            total = total + weights[:, book, None] * quantise(latents, codewords, gradient)
        return (self.decoder(total) - vectors).square().sum(dim=1).mean() + books, outputs

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, sizes: Sequence[int], seed: int) -> None:
        """Put every codebook where k-means puts it among the outputs of its expert."""
        for book, (expert, size) in enumerate(zip(self.experts, sizes, strict=True)):
            centroids = kmeans(expert(vectors).numpy(), size, balanced=False, seed=seed + book)[1]
            self.codebooks[book].copy_(torch.from_numpy(centroids))

    @torch.no_grad()
    def restart(self, vectors: torch.Tensor, generator: np.random.Generator) -> None:
        """Bring codes that no item chose in this epoch back among the outputs of their expert."""
        for expert, codebook, used in zip(self.experts, self.codebooks, self.used, strict=True):
            if (used == 0).any():
                restart_dead(codebook, used, expert(vectors), generator)
            used.zero_()
