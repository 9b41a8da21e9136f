"""SASRec trained with full cross-entropy: the sequence model that a generative recommender has to beat.

A small causal Transformer over item embeddings; the score of an item is the product of its embedding with
the last state. Source: Kang and McAuley 2018 (arXiv 1808.09781).

Differs from the paper: the loss is the cross-entropy over the whole catalogue at every position, with which
the model is far stronger than with the paper's one sampled negative (Klenitskiy and Vasilev 2023, arXiv
2309.07602); layers normalise their inputs and have GELU, as `torch.nn.TransformerEncoderLayer` offers them.

Legend: U sequences of a batch, S positions, N items, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gream.data.store import Case
from gream.errors import InputError
from gream.evaluation import metrics
from gream.evaluation.baselines import Sequences, best_items

_USERS_AT_ONCE = 512  # bounds memory of the (U, N) scores


@dataclass(frozen=True)
class SASRecSettings:
    """Shape of the network and settings of its training."""

    hidden_size: int = 128
    num_layers: int = 2
    num_heads: int = 2
    dropout: float = 0.5
    max_history: int = 50  # newest purchases that count
    epochs: int = 60
    patience: int = 5  # epochs without a better NDCG@10 on validation, after which training ends
    batch_size: int = 128  # sequences
    learning_rate: float = 1e-3


class SASRec(nn.Module):
    """The network; `recommend` is the baseline."""

    def __init__(self, num_items: int, settings: SASRecSettings) -> None:
        super().__init__()
        size = settings.hidden_size
        self.settings = settings
        self.items = nn.Embedding(num_items, size)
        self.positions = nn.Embedding(settings.max_history, size)
        layer = nn.TransformerEncoderLayer(
            size,
            settings.num_heads,
            dim_feedforward=4 * size,
            dropout=settings.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, settings.num_layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(settings.dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, items: Tensor) -> Tensor:
        """Encode (U, S) purchases, oldest first, to (U, S, D); what stands after one does not change it."""
        length = items.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=items.device)
        hidden = self.items(items) + self.positions.weight[:length]
        encoded: Tensor = self.norm(self.layers(self.dropout(hidden), mask=mask, is_causal=True))
        return encoded

    @torch.inference_mode()
    def recommend(self, histories: Sequences, k: int, *, exclude_seen: bool = False) -> list[np.ndarray]:
        """Return min(k, N) items for each history, best first; fewer where `exclude_seen` leaves fewer."""
        self.eval()
        answers: list[np.ndarray] = []
        for start in range(0, len(histories), _USERS_AT_ONCE):
            part = histories[start : start + _USERS_AT_ONCE]
            for scores, history in zip(self.scores(part).cpu().numpy(), part, strict=True):
                banned = np.asarray(history if exclude_seen else [], dtype=np.int64)
                scores[banned] = -np.inf
                real = np.flatnonzero(scores > -np.inf)
                answers.append(best_items(real, scores[real], k))
        return answers

    def scores(self, histories: Sequences) -> Tensor:
        """Score all items after each of U histories: (U, N) float32."""
        rows = [np.asarray(h, dtype=np.int64)[-self.settings.max_history :] for h in histories]
        items = _padded(rows).to(self.items.weight.device)
        last = torch.tensor([len(row) - 1 for row in rows], device=items.device)
        states = self(items)[torch.arange(len(rows), device=items.device), last]
        return states @ self.items.weight.T


def fit(
    sequences: Sequences,
    num_items: int,
    cases: Sequence[Case],
    settings: SASRecSettings,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    on_epoch: Any = None,
) -> tuple[SASRec, list[dict[str, float]]]:
    """Train, and keep the epoch with the best NDCG@10 of `cases`; of equals the earliest.

    Args:
        sequences: purchases to learn from, of each user, oldest first.
        num_items: N.
        cases: validation cases that choose the epoch.
        settings: shape and training.
        seed: of weights, dropout and the order of the sequences.
        device: where to train.
        on_epoch: called with the figures of each epoch, for a progress bar.

    Returns:
        The network, and the figures of every epoch: loss, recall@10 and ndcg@10 on the cases.

    Raises:
        InputError: no user has two purchases to learn from, no validation case, or a loss that is no number.
    """
    rows = [np.asarray(s, dtype=np.int64)[-settings.max_history - 1 :] for s in sequences if len(s) > 1]
    if not rows or not cases:
        raise InputError(
            f"SASRec got {len(rows)} users with two purchases and {len(cases)} validation cases, but needs "
            "some of both; run `gream data` on more purchases."
        )
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        model = SASRec(num_items, settings).to(device)
        optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, betas=(0.9, 0.98))
        rng = np.random.default_rng(seed)
        figures: list[dict[str, float]] = []
        best = copy.deepcopy(model.state_dict())
        for epoch in range(1, settings.epochs + 1):
            loss = _train_epoch(model, rows, optimizer, rng)
            figures.append({"epoch": epoch, "loss": loss} | validate(model, cases))
            chosen = best_epoch(figures)
            if chosen is figures[-1]:
                best = copy.deepcopy(model.state_dict())
            if on_epoch is not None:
                on_epoch(figures[-1])
            if epoch - chosen["epoch"] >= settings.patience:
                break
        model.load_state_dict(best)
    return model.eval(), figures


def best_epoch(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    """Choose by NDCG@10; of equals the earliest."""
    return max(figures, key=lambda epoch: epoch["ndcg@10"])


def validate(model: Any, cases: Sequence[Case]) -> dict[str, float]:
    """Return recall@10 and NDCG@10 of a baseline, what was bought left out of its lists."""
    lists = model.recommend([case.history for case in cases], 10, exclude_seen=True)
    ranks = metrics.ranks_of_targets(lists, [case.target for case in cases])
    return {"recall@10": metrics.recall(ranks, 10), "ndcg@10": metrics.ndcg(ranks, 10)}


def _train_epoch(
    model: SASRec, rows: Sequence[np.ndarray], optimizer: torch.optim.Optimizer, rng: np.random.Generator
) -> float:
    """Pass once over all purchases; returns the mean loss of a purchase."""
    model.train()
    device = model.items.weight.device
    batches = _batches(rows, model.settings.batch_size, rng)
    purchases = sum(len(row) - 1 for row in rows)
    total = 0.0
    for batch in batches:
        items = _padded(batch).to(device)
        lengths = torch.tensor([len(row) - 1 for row in batch], device=device)
        real = torch.arange(items.shape[1] - 1, device=device) < lengths[:, None]  # (U, S - 1)
        states = model(items[:, :-1])[real]
        summed = F.cross_entropy(states @ model.items.weight.T, items[:, 1:][real], reduction="sum")
        # batches hold sequences of like length: a mean of their own would favour short ones
        loss = summed * len(batches) / purchases
        if not torch.isfinite(loss):
            raise InputError(
                f"SASRec's loss is {loss.item()}; lower its learning rate "
                f"(it is {model.settings.learning_rate})."
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() / len(batches)
    return total


def _batches(rows: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> list[list[np.ndarray]]:
    """Cut into batches of like length in random order, so that little is padding."""
    order = rng.permutation(len(rows))
    order = order[np.argsort([len(rows[i]) for i in order], kind="stable")]
    starts = rng.permutation(np.arange(0, len(rows), size))
    return [[rows[i] for i in order[start : start + size]] for start in starts]


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    """Lay rows out as (U, S), filled with item 0 at the end, which a causal network never looks at."""
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return torch.from_numpy(padded)
