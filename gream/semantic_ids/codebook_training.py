"""What RQ-VAE and MPQ share when they learn: networks, gradients through a choice of code, codes that died.

Sources: van den Oord et al. 2017 (arXiv 1711.00937), codebook and commitment loss and the straight-through
gradient; Fifty et al. 2024 (arXiv 2410.06424), the rotation trick. Restarting dead codes and the start by
k-means are common practice; when and where is decided here.

Legend: B items of a batch, N items, D embedding, d latent, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from gream.semantic_ids.quantiser import Layers

COMMITMENT = 0.25  # weight of the commitment loss; van den Oord et al. 2017, section 3.2
WARM_UP = 0.2  # share of the epochs that train the networks without codebooks; ours
SETTLE = 0.1  # share of the epochs at the end in which no code is restarted; ours
TINY = 1e-8  # length below which a vector has no direction to rotate


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a quantiser with networks learns; the fields are settings of `gream sids`."""

    hidden: Sequence[int]
    latent_dim: int
    epochs: int
    batch_size: int
    learning_rate: float
    gradient: str
    seed: int


def network(widths: Sequence[int]) -> nn.Sequential:
    """Build fully connected layers with ReLU between them, in this order of widths."""
    parts: list[nn.Module] = []
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        parts += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def as_layers(module: nn.Sequential) -> Layers:
    """Take the matrices out of a network of `network`."""
    linear = [part for part in module if isinstance(part, nn.Linear)]
    return Layers([_array(part.weight) for part in linear], [_array(part.bias) for part in linear])


def choose(latents: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """Nearest code (B,) of each latent (B, d) in a codebook (K, d)."""
    with torch.no_grad():
        distances = (
            codebook.square().sum(dim=1) - 2 * latents @ codebook.T
        )  # the latent's own length is the same for all
        codes: torch.Tensor = distances.argmin(dim=1)
    return codes


def quantise(latents: torch.Tensor, codewords: torch.Tensor, gradient: str) -> torch.Tensor:
    """Return the codewords (B, d), with a gradient that flows to the latents as if nothing was chosen.

    Args:
        latents: (B, d), what was quantised.
        codewords: (B, d), the chosen ones.
        gradient: `straight_through` copies the gradient; `rotation` turns and scales it with the rotation
            that takes the latent to the codeword.
    """
    if gradient == "straight_through":
        return latents + (codewords - latents).detach()
    before = torch.linalg.vector_norm(latents, dim=1, keepdim=True).clamp(min=TINY)
    after = torch.linalg.vector_norm(codewords, dim=1, keepdim=True)
    e = (latents / before).detach()
    q = (codewords / after.clamp(min=TINY)).detach()
    r = nn.functional.normalize(e + q, dim=1, eps=TINY)
    # R x = x - 2 r (r.x) + 2 q (e.x), Fifty et al., section 4.2
    turned = latents - 2 * r * (r * latents).sum(1, keepdim=True) + 2 * q * (e * latents).sum(1, keepdim=True)
    rotated: torch.Tensor = turned * (after / before).detach()
    return rotated


def codebook_loss(latents: torch.Tensor, codewords: torch.Tensor) -> torch.Tensor:
    """Draw codewords to latents, and a little the other way round: mean over the batch of summed squares."""
    towards = (latents.detach() - codewords).square().sum(dim=1)
    back = (latents - codewords.detach()).square().sum(dim=1)
    return (towards + COMMITMENT * back).mean()


def restart_dead(
    codebook: torch.Tensor, used: torch.Tensor, latents: torch.Tensor, generator: np.random.Generator
) -> int:
    """Move codes that nobody chose onto latents drawn at random; returns how many they were.

    Args:
        codebook: (K, d), changed in place.
        used: (K,) how often each code was chosen since the last look.
        latents: (N, d) what this codebook quantises.
        generator: seeded random numbers.
    """
    dead = torch.nonzero(used == 0).flatten()
    if len(dead):
        drawn = generator.choice(len(latents), size=len(dead), replace=len(latents) < len(dead))
        with torch.no_grad():
            codebook[dead] = latents[torch.from_numpy(drawn)]
    return len(dead)


class CodebookModel(Protocol):
    """Networks with codebooks, which `learn` trains; both are modules of torch."""

    def start(self, vectors: torch.Tensor, sizes: Sequence[int], seed: int) -> None:
        """Put the codebooks where k-means puts them."""

    def restart(self, vectors: torch.Tensor, generator: np.random.Generator) -> None:
        """Bring codes that no item chose in this epoch back, and count anew."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return everything that learns."""


def learn(
    model: CodebookModel,
    data: torch.Tensor,
    sizes: Sequence[int],
    training: Training,
    warm_up_loss: Callable[[torch.Tensor], torch.Tensor],
    loss: Callable[[torch.Tensor], torch.Tensor],
    *,
    title: str,
) -> None:
    """Train the networks without codebooks, start these by k-means, and train all together.

    Args:
        model: what learns.
        data: (N, D) the vectors.
        sizes: number of codes of each codebook.
        training: schedule and seed.
        warm_up_loss: from the items of a batch (B,) to a scalar, without codebooks.
        loss: the same with them.
        title: of the progress bars.
    """
    generator = np.random.default_rng(training.seed)
    warm_up = max(1, round(WARM_UP * training.epochs))
    remaining = training.epochs - warm_up

    def after_epoch() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining >= SETTLE * training.epochs:
            model.restart(data, generator)

    train(
        model, len(data), warm_up_loss, training,
        epochs=warm_up, generator=generator, after_epoch=lambda: None, title=f"{title}, warm-up",
    )  # fmt: skip
    model.start(data, sizes, training.seed)
    train(
        model, len(data), loss, training,
        epochs=remaining, generator=generator, after_epoch=after_epoch, title=title,
    )  # fmt: skip


def train(
    modules: CodebookModel | nn.Module,
    num_items: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    training: Training,
    *,
    epochs: int,
    generator: np.random.Generator,
    after_epoch: Callable[[], None],
    title: str,
) -> None:
    """Minimise `loss(rows of a batch)` with Adam and a learning rate that falls to zero along a cosine.

    Args:
        modules: holder of the parameters that learn.
        num_items: N.
        loss: from the items of a batch (B,) to a scalar.
        training: batch size and learning rate.
        epochs: passes over all items.
        generator: seeded random numbers for the order of items.
        after_epoch: called at the end of each pass.
        title: of the progress bar.
    """
    optimiser = torch.optim.AdamW(modules.parameters(), lr=training.learning_rate, weight_decay=0.0)
    steps = epochs * -(-num_items // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=max(steps, 1))
    bar = tqdm(range(epochs), desc=title, unit="epoch", disable=None)
    for _ in bar:
        for rows in batches(num_items, training.batch_size, generator):
            value = loss(rows)
            optimiser.zero_grad()
            torch.autograd.backward(value)
            optimiser.step()
            schedule.step()
        bar.set_postfix(loss=f"{value.item():.4f}")
        after_epoch()


def batches(num_items: int, batch_size: int, generator: np.random.Generator) -> Iterator[torch.Tensor]:
    """Yield all items in random order, `batch_size` at a time."""
    order = torch.from_numpy(generator.permutation(num_items))
    for start in range(0, num_items, batch_size):
        yield order[start : start + batch_size]


def _array(parameter: torch.Tensor) -> np.ndarray:
    return np.asarray(parameter.detach().cpu().numpy(), dtype=np.float32)
