"""Encode a user's purchases for the path scorer: a small causal Transformer with a bias by age.

Source: PROMISE (arXiv 2601.04674) attends to the encoder of its generator. This encoder is ours, for a
scorer that must work beside any generator and engine.

Legend: U sequences, S purchases, T = S + 1 states (start included), D hidden size, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HistoryEncoder(nn.Module):
    """State s has seen the first s purchases; a learned start state stands before every history.

    The age of a purchase (position from the end) is a learned bias of the attention, not an added embedding,
    so that one pass encodes the history before every purchase of a training sequence.

    Args:
        size: width D of purchases and states.
        num_layers: layers of self-attention.
        num_heads: heads H of each.
        dropout: share of inputs, attention weights and outputs that training drops.
        max_history: ages that have a bias of their own; older purchases share the last one.
    """

    def __init__(self, size: int, num_layers: int, num_heads: int, dropout: float, max_history: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(size))
        # biases by age 0..max_history - 1 (0 is the newest purchase), and one more for the start state
        self.ages = nn.Embedding(max_history + 1, num_heads)
        self.layers = nn.ModuleList(_Layer(size, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.RMSNorm(size)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.start, std=0.02)
        nn.init.zeros_(self.ages.weight)

    def forward(self, purchases: Tensor) -> Tensor:
        """Encode (U, S, D) vectors of purchases, oldest first, to (U, T, D) states."""
        start = self.start.expand(len(purchases), 1, -1)
        hidden = self.dropout(torch.cat([start, purchases], dim=1))
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        bias = age_bias(self.ages, positions[:, None] - positions, positions).permute(2, 0, 1)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        encoded: Tensor = self.norm(hidden)
        return encoded


class _Layer(nn.Module):
    """Pre-norm causal self-attention with a bias by age, then a feed-forward network."""

    def __init__(self, size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.RMSNorm(size)
        self.inputs = nn.Linear(size, 3 * size, bias=False)
        self.outputs = nn.Linear(size, size, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(size),
            nn.Linear(size, 2 * size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(2 * size, size),
            nn.Dropout(dropout),
        )

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map (U, T, D) states and a (H, T, T) bias to (U, T, D)."""
        users, width, size = hidden.shape
        split = self.inputs(self.norm(hidden)).view(users, width, 3, self.num_heads, size // self.num_heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5 + bias).softmax(dim=-1)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).reshape(users, width, size)
        hidden = hidden + self.dropout(self.outputs(mixed))
        out: Tensor = hidden + self.feed_forward(hidden)
        return out


def age_bias(biases: nn.Embedding, ages: Tensor, positions: Tensor) -> Tensor:
    """Look up (R, T) ages to (R, T, H) attention biases; -inf where the age is negative, the future."""
    last = biases.num_embeddings - 1
    index = torch.where(positions > 0, ages.clamp(0, last - 1), last)
    found: Tensor = biases(index).masked_fill((ages < 0)[..., None], -torch.inf)
    return found
