"""Score every prefix of an item name against a user's history: the path-level reward model of PROMISE.

Source: PROMISE (arXiv 2601.04674), section on the process reward model. One embedding row per valid
prefix is the query of one cross-attention block over the encoded history, and an MLP gives one logit,
comparable within one user and one depth only. Paths do not attend to each other.

Differs from the paper in (all ours):
- the history is encoded by a small causal Transformer of the scorer itself, so that the scorer works
  beside any generator and engine; PROMISE shares the encoder of its generator;
- the row of a prefix is the sum of its own row and of those of the prefixes before it, so that rare
  items lean on their sub-tree; an item of the history is represented by the row of its whole name;
- the age of a purchase (position from the end) is a learned bias of the attention, not an added
  embedding, so that one pass encodes the history before every purchase of a training sequence;
- a learned start state stands before every history, so that an empty one has a context too;
- the block runs for every path, so it has one head and half the encoder's width (the paper: a quarter
  of the generator's heads), and neither output projection nor dropout;
- the logit is the MLP's output plus the affinity of user and path: the inner product of row and history
  state, and a learned bias by depth and age for every purchase that lies below the path, so that coming
  back to a shelf can count for a path and buying the same thing again against it.

Legend: B users, W paths, T states of a history (start included), L codebooks, N items, D hidden size,
P = D / 2 size of the block, H heads of the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

WEIGHTS_FILE = "scorer.safetensors"
SHAPE_FILE = "scorer.json"


@dataclass(frozen=True, kw_only=True)
class ScorerShape:
    """Size of a path scorer; `max_history` is the number of newest purchases that it looks at."""

    hidden_size: int = 64
    num_layers: int = 1
    num_heads: int = 2
    dropout: float = 0.3
    max_history: int = 50

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise InputError(
                f"`hidden_size` is {self.hidden_size}, but must be even and a multiple of `num_heads` "
                f"({self.num_heads}); choose sizes that divide."
            )
        if self.max_history < 1 or self.num_layers < 1:
            raise InputError("A path scorer needs `max_history` and `num_layers` of at least 1.")


@dataclass(frozen=True)
class ScorerContext:
    """Encoded histories of B users: what every path of a user is scored against."""

    keys: Tensor  # (B, T, P)
    values: Tensor  # (B, T, P)
    bias: Tensor  # (B, T), -inf where the user has no purchase
    state: Tensor  # (B, D)
    bought: Tensor  # (B, T - 1, L) nodes of the prefixes of the purchases
    returns: Tensor  # (B, T - 1, L) what a purchase adds to the paths above it, 0 where there is none


class PrefixPathScorer(nn.Module):
    """PROMISE's path-level reward model for one set of names.

    Args:
        constraint: the trie of the names; its nodes number the rows.
        shape: sizes; stored beside the weights.

    Attributes:
        level_nodes: for each level 0..L-1 the nodes of all valid prefixes of level + 1 codes.
        item_nodes: (N, L) node of every prefix of every item.
    """

    item_nodes: Tensor
    ancestors: Tensor

    def __init__(self, constraint: TrieConstraint, shape: ScorerShape) -> None:
        super().__init__()
        self.shape = shape
        size = shape.hidden_size
        self.level_nodes = [constraint.level_nodes(level + 1) for level in range(constraint.depth)]
        self.register_buffer("item_nodes", constraint.item_nodes.clone(), persistent=False)
        self.register_buffer("ancestors", _ancestors(constraint), persistent=False)
        self.rows = nn.Embedding(constraint.num_nodes, size)  # row 0, the root, stays unused
        self.start = nn.Parameter(torch.zeros(size))
        # biases by age 0..max_history - 1 (0 is the newest purchase), and one more for the start state
        self.encoder_ages = nn.Embedding(shape.max_history + 1, shape.num_heads)
        self.path_ages = nn.Embedding(shape.max_history + 1, 1)
        self.return_ages = nn.Embedding(shape.max_history + 1, constraint.depth)
        self.layers = nn.ModuleList(_EncoderLayer(shape) for _ in range(shape.num_layers))
        self.context_norm = nn.RMSNorm(size)
        self.state = nn.Linear(size, size, bias=False)
        self.path = nn.Sequential(nn.RMSNorm(size), nn.Linear(size, size // 2, bias=False))
        self.query = nn.Linear(size // 2, size // 2, bias=False)
        self.key = nn.Linear(size, size // 2, bias=False)
        self.value = nn.Linear(size, size // 2, bias=False)
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(size // 2), nn.Linear(size // 2, size), nn.GELU(), nn.Linear(size, size // 2)
        )
        self.head = nn.Sequential(nn.Linear(size // 2, size // 2), nn.GELU(), nn.Linear(size // 2, 1))
        self.dropout = nn.Dropout(shape.dropout)
        self._initialise()

    def level_rows(self, level: int) -> Tensor:
        """Return the rows of all valid prefixes of one level: (V, D)."""
        nodes = self.level_nodes[level]
        rows: Tensor = self.rows(self.ancestors[nodes.start : nodes.stop, : level + 1]).sum(dim=1)
        return rows

    def context(self, histories: list[Sequence[int]]) -> ScorerContext:
        """Encode B histories of dense item ids, oldest first; only the newest `max_history` count."""
        recent = [list(history)[-self.shape.max_history :] for history in histories]
        lengths = torch.tensor([len(h) for h in recent], device=self.rows.weight.device)
        items = lengths.new_zeros(len(recent), max(len(h) for h in recent))
        for row, history in zip(items, recent, strict=True):
            row[: len(history)] = torch.as_tensor(np.asarray(history, dtype=np.int64))
        with torch.inference_mode():
            return self.contexts_at(items, torch.arange(len(recent), device=lengths.device), lengths)

    def contexts_at(self, items: Tensor, users: Tensor, counts: Tensor) -> ScorerContext:
        """Encode the first purchases of sequences, for many cuts in one pass.

        Args:
            items: (U, S) item ids of U sequences, oldest first, padded at the end with any item.
            users: (B,) row of `items` that each context belongs to.
            counts: (B,) number of purchases, 0..S, that the context may see.

        Returns:
            B contexts. Purchases from `counts` on do not enter: the encoder is causal.
        """
        states = self._encode(items)  # (U, T, D)
        num_users, width, size = states.shape

        def of_users(projected: Tensor) -> Tensor:
            # a lookup, because the gradient of plain indexing is not deterministic on the CPU
            return F.embedding(users, projected.reshape(num_users, -1)).view(-1, width, size // 2)

        positions = torch.arange(width, device=items.device)
        ages = counts[:, None] - positions  # (B, T)
        returns = self.return_ages(ages[:, 1:].clamp(0, self.shape.max_history))
        last = F.embedding(users * width + counts, states.reshape(-1, size))
        return ScorerContext(
            keys=of_users(self.key(states)),
            values=of_users(self.dropout(self.value(states))),
            bias=_age_bias(self.path_ages, ages, positions).squeeze(-1),
            state=self.state(last),
            bought=self.item_nodes[items[users]],
            returns=returns.masked_fill(ages[:, 1:, None] < 0, 0.0),
        )

    def affinities(self, context: ScorerContext, level: int) -> Tensor:
        """Match user and path without the network: logits of all valid prefixes of a level, (B, V)."""
        inner = context.state @ self.level_rows(level).T
        below = context.bought[:, :, level] - self.level_nodes[level].start
        return inner.scatter_add(1, below, context.returns[:, :, level])

    def score(self, context: object, level: int, nodes: Tensor) -> Tensor:
        """Give one logit to every path, for inference: `logits` without a graph.

        Args:
            context: B encoded histories, from `context`.
            level: level of the nodes, 0 <= level < L.
            nodes: (B, W) trie nodes of that level; -1 is padding.

        Returns:
            (B, W) float32 logits, -inf at padding; comparable within one user and level only.
        """
        assert isinstance(context, ScorerContext)
        with torch.inference_mode():
            return self.logits(context, level, nodes, self.affinities(context, level))

    def logits(self, context: ScorerContext, level: int, nodes: Tensor, affinities: Tensor) -> Tensor:
        """Compute what `score` returns, with a graph, from the affinities of the level."""
        table = self.level_rows(level)
        index = (nodes - self.level_nodes[level].start).clamp_min(0)
        # the rows of a level are fewer than the pairs of user and path: project before looking up
        projected = self.path(table)
        queries = F.embedding(index, self.query(projected))  # (B, W, P)
        weights = queries @ context.keys.transpose(1, 2) * queries.shape[-1] ** -0.5  # (B, W, T)
        weights = (weights + context.bias[:, None]).softmax(dim=-1)
        paths = F.embedding(index, projected) + weights @ context.values
        paths = paths + self.feed_forward(paths)
        logits = self.head(paths).squeeze(-1) + affinities.gather(1, index)
        scores: Tensor = logits.float().masked_fill(nodes < 0, -torch.inf)
        return scores

    def _encode(self, items: Tensor) -> Tensor:
        """Encode (U, S) items to (U, S + 1, D): state s has seen the first s purchases."""
        table = self.level_rows(len(self.level_nodes) - 1)
        leaves = self.item_nodes[items, -1] - self.level_nodes[-1].start
        start = self.start.expand(len(items), 1, -1)
        hidden = self.dropout(torch.cat([start, F.embedding(leaves, table)], dim=1))
        positions = torch.arange(hidden.shape[1], device=items.device)
        bias = _age_bias(self.encoder_ages, positions[:, None] - positions, positions).permute(2, 0, 1)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        encoded: Tensor = self.context_norm(hidden)
        return encoded

    def _initialise(self) -> None:
        """Small rows, no age bias, and an MLP that starts at 0: a plain inner product at first."""
        nn.init.normal_(self.rows.weight, std=0.02)
        nn.init.normal_(self.start, std=0.02)
        nn.init.zeros_(self.encoder_ages.weight)
        nn.init.zeros_(self.path_ages.weight)
        nn.init.zeros_(self.return_ages.weight)
        for weight in self.head[-1].parameters():
            nn.init.zeros_(weight)


class _EncoderLayer(nn.Module):
    """Pre-norm causal self-attention with a bias by age, then a feed-forward network."""

    def __init__(self, shape: ScorerShape) -> None:
        super().__init__()
        self.shape = shape
        self.norm = nn.RMSNorm(shape.hidden_size)
        self.inputs = nn.Linear(shape.hidden_size, 3 * shape.hidden_size, bias=False)
        self.outputs = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.feed_forward = nn.Sequential(
            nn.RMSNorm(shape.hidden_size),
            nn.Linear(shape.hidden_size, 2 * shape.hidden_size),
            nn.GELU(),
            nn.Dropout(shape.dropout),
            nn.Linear(2 * shape.hidden_size, shape.hidden_size),
            nn.Dropout(shape.dropout),
        )

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """Map (U, T, D) states and a (H, T, T) bias to (U, T, D)."""
        users, width, size = hidden.shape
        heads = self.shape.num_heads
        split = self.inputs(self.norm(hidden)).view(users, width, 3, heads, size // heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * (size // heads) ** -0.5 + bias).softmax(dim=-1)
        mixed = (self.dropout(weights) @ value).transpose(1, 2).reshape(users, width, size)
        hidden = hidden + self.dropout(self.outputs(mixed))
        out: Tensor = hidden + self.feed_forward(hidden)
        return out


def save_scorer(folder: Path, scorer: PrefixPathScorer, names: Names) -> None:
    """Write the weights, the shape and the fingerprint of the names into `folder`."""
    save_file({k: v.contiguous().cpu() for k, v in scorer.state_dict().items()}, folder / WEIGHTS_FILE)
    data = {"names": names.checksum(), "items": len(names), "shape": asdict(scorer.shape)}
    (folder / SHAPE_FILE).write_text(json.dumps(data, indent=2) + "\n")


def load_scorer(folder: Path, names: Names) -> PrefixPathScorer:
    """Read a scorer for inference; it goes on with items that were named after it was trained.

    Raises:
        InputError: the folder holds no scorer, or one that was made for other names.
    """
    if not (folder / SHAPE_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} holds no path scorer; run `gream prm`, or correct the path.")
    data = json.loads((folder / SHAPE_FILE).read_text())
    known = Names(names.layout, names.codes[: data["items"]])
    if len(known) != data["items"] or known.checksum() != data["names"]:
        raise InputError(
            f"The path scorer in {folder} was made for the names {data['names']}, but these are "
            f"{names.checksum()}; run `gream prm` again, or pass the names that it was trained with."
        )
    scorer = PrefixPathScorer(TrieConstraint(names), ScorerShape(**data["shape"]))
    weights = load_file(folder / WEIGHTS_FILE)
    if len(known) < len(names):
        weights["rows.weight"] = _rows_of_more_names(weights["rows.weight"], known, scorer.item_nodes)
    scorer.load_state_dict(weights)
    return scorer.eval().requires_grad_(False)


def _rows_of_more_names(rows: Tensor, known: Names, item_nodes: Tensor) -> Tensor:
    """Move the rows of known prefixes to their nodes in the trie of all names.

    A prefix that came later gets a row of zeros, so that it stands for the prefixes above it.
    """
    nodes = TrieConstraint(known).item_nodes  # (known items, L)
    moved = rows.new_zeros(int(item_nodes.max()) + 1, rows.shape[1])
    moved[item_nodes[: len(known)]] = rows[nodes]
    return moved


def _ancestors(constraint: TrieConstraint) -> Tensor:
    """List the nodes of every prefix on the way to each node: (num_nodes, L), root excluded, rest 0."""
    nodes = constraint.item_nodes
    ancestors = nodes.new_zeros(constraint.num_nodes, constraint.depth)
    for level in range(constraint.depth):
        ancestors[nodes[:, level], : level + 1] = nodes[:, : level + 1]
    return ancestors


def _age_bias(biases: nn.Embedding, ages: Tensor, positions: Tensor) -> Tensor:
    """Look up (R, T) ages to (R, T, H) attention biases; -inf where the age is negative, the future."""
    last = biases.num_embeddings - 1
    index = torch.where(positions > 0, ages.clamp(0, last - 1), last)
    found: Tensor = biases(index).masked_fill((ages < 0)[..., None], -torch.inf)
    return found
