"""RQ-VAE: residual quantisation of a learnt latent, with the autoencoder and the codebooks trained together.

Source: TIGER (arXiv 2305.05065) for items, after Lee et al. 2022 (arXiv 2203.01941). The optional alignment
loss draws the quantised latent of an item to its collaborative vector, against those of the other items of
the batch, in the sense of LETTER (arXiv 2405.07314). Differs from these in: the autoencoder is trained
without codebooks first, so that their k-means start sees a latent that means something; dead codes restart
after every epoch but the last tenth; a linear map brings the latent to the width of the collaborative
vector, and both are compared by cosine with a temperature.

Legend: B items of a batch, N items, D embedding, d latent, L codebooks, K codes, C collaborative width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gream.semantic_ids.codebook_training import (
    Training,
    as_layers,
    choose,
    codebook_loss,
    learn,
    network,
    quantise,
    restart_dead,
)
from gream.semantic_ids.quantiser import SumQuantiser
from gream.semantic_ids.residual import residual_kmeans

TEMPERATURE = 0.1  # of the alignment's cosines; ours


def fit_rqvae(
    vectors: np.ndarray,
    sizes: Sequence[int],
    training: Training,
    *,
    collaborative: np.ndarray | None = None,
    alignment: float = 0.0,
) -> SumQuantiser:
    """Train an RQ-VAE.

    Args:
        vectors: (N, D) float32, scaled to a mean squared length of about 1.
        sizes: number of codes of each level, each at most N.
        training: networks and schedule.
        collaborative: (N, C) unit vectors, zero for items without one; needed if `alignment` is above 0.
        alignment: weight of the collaborative alignment loss.

    Returns:
        The quantiser with ordered codes.
    """
    torch.manual_seed(training.seed)
    model = _Model(vectors.shape[1], sizes, training, 0 if collaborative is None else collaborative.shape[1])
    data = torch.from_numpy(np.ascontiguousarray(vectors, dtype=np.float32))
    bought = None if collaborative is None else torch.from_numpy(collaborative)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        total, summed = model.loss(data[rows], training.gradient)
        if alignment > 0 and bought is not None:
            total = total + alignment * alignment_loss(model.to_collaborative(summed), bought[rows])
        return total

    learn(model, data, sizes, training, lambda rows: model.plain_loss(data[rows]), loss, title="rqvae")
    return SumQuantiser(
        "rqvae",
        [book.detach().numpy().copy() for book in model.codebooks],
        encoder=as_layers(model.encoder),
        decoder=as_layers(model.decoder),
    )


def alignment_loss(predicted: torch.Tensor, collaborative: torch.Tensor) -> torch.Tensor:
    """InfoNCE of each item's prediction (B, C) against the collaborative vectors (B, C) of the batch.

    Items without a collaborative vector (zeros) neither count nor serve as negatives; a batch without any
    gives 0.
    """
    known = collaborative.any(dim=1)
    if not known.any():
        return predicted.sum() * 0.0
    predicted = nn.functional.normalize(predicted[known], dim=1)
    cosines = predicted @ nn.functional.normalize(collaborative[known], dim=1).T
    return nn.functional.cross_entropy(cosines / TEMPERATURE, torch.arange(len(cosines)))


class _Model(nn.Module):
    """Encoder, decoder, codebooks, and the map from the latent to the collaborative vectors."""

    def __init__(self, width: int, sizes: Sequence[int], training: Training, collaborative: int) -> None:
        super().__init__()
        widths = [width, *training.hidden, training.latent_dim]
        self.encoder, self.decoder = network(widths), network(widths[::-1])
        self.codebooks = nn.ParameterList(torch.zeros(size, training.latent_dim) for size in sizes)
        self.to_collaborative = nn.Linear(training.latent_dim, max(collaborative, 1))
        self.used = [torch.zeros(size) for size in sizes]

    def plain_loss(self, vectors: torch.Tensor) -> torch.Tensor:
        """Reconstruction without any quantisation."""
        return _squared_error(self.decoder(self.encoder(vectors)), vectors)

    def loss(self, vectors: torch.Tensor, gradient: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and codebook losses, and the quantised latents (B, d)."""
        latents = self.encoder(vectors)
        residuals, summed, books = latents, torch.zeros_like(latents), latents.new_zeros(())
        for level, codebook in enumerate(self.codebooks):
            codes = choose(residuals, codebook)
            self.used[level] += torch.bincount(codes, minlength=len(codebook))
            codewords = nn.functional.embedding(codes, codebook)  # indexing sums its gradient in any order
            books = books + codebook_loss(residuals, codewords)
            summed = summed + codewords
            # Later levels shape the encoder as well; the codeword taken away is a constant to them.
            residuals = residuals - codewords.detach()
        quantised = quantise(latents, summed, gradient)
        return _squared_error(self.decoder(quantised), vectors) + books, quantised

    @torch.no_grad()
    def start(self, vectors: torch.Tensor, sizes: Sequence[int], seed: int) -> None:
        """Put the codebooks where residual k-means puts them."""
        latents = self.encoder(vectors).numpy()
        for parameter, centroids in zip(
            self.codebooks, residual_kmeans(latents, sizes, balanced=False, seed=seed)[1], strict=True
        ):
            parameter.copy_(torch.from_numpy(centroids))

    @torch.no_grad()
    def restart(self, vectors: torch.Tensor, generator: np.random.Generator) -> None:
        """Bring codes that no item chose in this epoch back among the residuals of their level."""
        if any((used == 0).any() for used in self.used):
            residuals = self.encoder(vectors)
            for codebook, used in zip(self.codebooks, self.used, strict=True):
                restart_dead(codebook, used, residuals, generator)
                residuals = residuals - codebook[choose(residuals, codebook)]
        for used in self.used:
            used.zero_()


def _squared_error(rebuilt: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of squared distances."""
    return (rebuilt - vectors).square().sum(dim=1).mean()
