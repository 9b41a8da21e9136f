"""Score every prefix of an item name against a user's history: the path-level reward model of PROMISE.

Source: PROMISE (arXiv 2601.04674), section on the process reward model. One embedding row per valid
prefix is the query of one cross-attention block over the encoded history, and an MLP gives one logit,
comparable within one user and one depth only. Paths do not attend to each other.

Keys and values are one of two contexts:
- `policy`, the paper's sharing: projections of the policy's last hidden states at the positions of its
  prompt. The policy is a decoder, so its states are causal; those of the paper's encoder see both ways;
- `own` (ours): a small encoder of the scorer itself over the history's names (`history_encoder`), for engines
  that give no hidden states.

Differs from the paper (all ours):
- the row of a prefix is the sum of its own row and of those of the prefixes before it, so that rare items
  lean on their sub-tree; in the own context an item of the history is the row of its whole name;
- the block runs for every path, so it has one head and half the scorer's width (the paper: a quarter of the
  generator's heads), and neither output projection nor dropout;
- the logit is the MLP's output plus the affinity of user and path: the inner product of row and the user's
  last state, a learned bias by depth and age for every purchase below the path, so that coming back to a
  shelf can count for it and buying the same again against it, and what the neighbours of the history say:
  items that others bought nearby, and items that read alike (`evidence`).

Legend: B users, W paths, T states of a context, M purchases, L codebooks, N items, V valid prefixes of a
level, D hidden size, P = D / 2 size of the block, H width of the policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gream.decoding.backend import Session
from gream.decoding.evidence import Evidence, NeighbourEvidence
from gream.decoding.history_encoder import HistoryEncoder, age_bias
from gream.decoding.neighbours import HeldOut
from gream.decoding.scorer_context import ScorerContext
from gream.decoding.scorer_shape import ScorerShape
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint


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
        if self.reads_states:
            # a norm of its own, because the states come at whatever scale the policy was trained to
            self.reader = nn.Sequential(
                nn.RMSNorm(shape.policy_size), nn.Linear(shape.policy_size, size, bias=False)
            )
        else:
            self.encoder = HistoryEncoder(
                size, shape.num_layers, shape.num_heads, shape.dropout, shape.max_history
            )
            self.path_ages = nn.Embedding(shape.max_history + 1, 1)
        # biases by age 0..max_history - 1, 0 is the newest purchase; the encoder's start state has the last
        self.return_ages = nn.Embedding(shape.max_history + 1, constraint.depth)
        self.evidence = nn.ModuleDict()
        for name, most in (("copurchases", shape.neighbours), ("lookalikes", shape.lookalikes)):
            if most:
                stored = name == "lookalikes"
                self.evidence[name] = NeighbourEvidence(constraint, shape.max_history, most, stored=stored)
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

    @property
    def reads_states(self) -> bool:
        """Whether the context is the policy's: `context` then asks the session for its states."""
        return self.shape.policy_size > 0

    @property
    def sources(self) -> dict[str, NeighbourEvidence]:
        """The tables of neighbours that it looks into by name, in the order of a context's evidence."""
        return dict(self.evidence.items())  # type: ignore[arg-type]

    def level_rows(self, level: int) -> Tensor:
        """Return the rows of all valid prefixes of one level: (V, D)."""
        nodes = self.level_nodes[level]
        return self._rows_of(torch.arange(nodes.start, nodes.stop, device=self.ancestors.device), level)

    def context(self, histories: Sequence[Sequence[int]], session: Session | None = None) -> ScorerContext:
        """Encode B histories of dense item ids, oldest first; only the newest `max_history` count.

        Args:
            histories: the purchases of every user.
            session: the search over these users' prompts, whose hidden states the policy context reads; an
                encoder of its own ignores it.
        """
        items, counts = self.newest(histories)
        with torch.inference_mode():
            if not self.reads_states:
                return self.contexts_at(items, torch.arange(len(items), device=items.device), counts)
            assert session is not None
            return self.policy_contexts(*session.prompt_states(), items, counts)

    def contexts_at(
        self, items: Tensor, users: Tensor, counts: Tensor, held_out: HeldOut | None = None
    ) -> ScorerContext:
        """Encode the first purchases of sequences, for many cuts in one pass.

        Args:
            items: (U, S) item ids of U sequences, oldest first, padded at the end with any item.
            users: (B,) row of `items` that each context belongs to.
            counts: (B,) number of purchases, 0..S, that the context may see.
            held_out: for training, counts of co-purchases without those of the users.

        Returns:
            B contexts. Purchases from `counts` on do not enter: the encoder is causal.
        """
        states = self.encoder(
            self._rows_of(self.item_nodes[items, -1], len(self.level_nodes) - 1)
        )  # (U, T, D)
        num_users, width, size = states.shape

        def of_users(projected: Tensor) -> Tensor:
            # a lookup, because the gradient of plain indexing is not deterministic on the CPU
            return F.embedding(users, projected.reshape(num_users, -1)).view(-1, width, size // 2)

        positions = torch.arange(width, device=items.device)
        bias = age_bias(self.path_ages, counts[:, None] - positions, positions)
        return ScorerContext(
            keys=of_users(self.key(states)),
            values=of_users(self.dropout(self.value(states))),
            bias=bias.squeeze(-1),
            state=self.state(F.embedding(users * width + counts, states.reshape(-1, size))),
            bought=self.item_nodes[items[users]],
            returns=self._returns(_ages(counts, width - 1)),
            evidence=self._evidence(items[users], counts, held_out),
        )

    def policy_contexts(
        self,
        states: Tensor,
        real: Tensor,
        items: Tensor,
        counts: Tensor,
        held_out: HeldOut | None = None,
    ) -> ScorerContext:
        """Read the policy's hidden states as the context of B users.

        Args:
            states: (B, T, H) last hidden states at the positions of the prompts.
            real: (B, T) bool, false where a position is padding, on either side.
            items: (B, M) the users' newest purchases, oldest first, padded at the end with any item.
            counts: (B,) number of real purchases.
            held_out: as in `contexts_at`.

        Raises:
            InputError: states of another width than those that it was trained on.
        """
        if states.shape[2] != self.shape.policy_size:
            raise InputError(
                f"The path scorer reads hidden states of width {self.shape.policy_size}, but this model's "
                f"have {states.shape[2]}; give the model that `gream prm` trained it with."
            )
        states = self.dropout(self.reader(states.to(self.rows.weight)))  # (B, T, D)
        real = real.to(states.device)
        last = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(dim=1)
        return ScorerContext(
            keys=self.key(states),
            values=self.value(states),
            bias=torch.zeros_like(states[..., 0]).masked_fill(~real, -torch.inf),
            state=self.state(states.gather(1, last[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]),
            bought=self.item_nodes[items],
            returns=self._returns(_ages(counts, items.shape[1])),
            evidence=self._evidence(items, counts, held_out),
        )

    def affinities(self, context: ScorerContext, level: int) -> Tensor:
        """Match user and path without the network: logits of all valid prefixes of a level, (B, V)."""
        inner = context.state @ self.level_rows(level).T
        below = context.bought[:, :, level] - self.level_nodes[level].start
        affinities = inner.scatter_add(1, below, context.returns[:, :, level])
        for source, evidence in zip(self.sources.values(), context.evidence, strict=True):
            affinities = affinities + source.level(evidence, level)
        return affinities

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
            rows = self._rows_of(nodes.clamp_min(0), level)  # (B, W, D), of a catalogue with many more
            again = context.bought[:, None, :, level] == nodes[:, :, None]  # (B, W, M)
            returns = torch.where(again, context.returns[:, None, :, level], 0.0).sum(dim=2)
            affinities = (rows @ context.state[:, :, None]).squeeze(-1) + returns
            for source, evidence in zip(self.sources.values(), context.evidence, strict=True):
                affinities = affinities + source.of_nodes(evidence, level, nodes)
            paths = self.path(rows)
            return self._judged(context, paths, self.query(paths), affinities, nodes)

    def logits(self, context: ScorerContext, level: int, nodes: Tensor, affinities: Tensor) -> Tensor:
        """Compute what `score` returns, with a graph, from the affinities of the level."""
        index = (nodes - self.level_nodes[level].start).clamp_min(0)
        # in training the rows of a level are fewer than the pairs of user and path: project before looking up
        projected = self.path(self.level_rows(level))
        paths, queries = F.embedding(index, projected), F.embedding(index, self.query(projected))
        return self._judged(context, paths, queries, affinities.gather(1, index), nodes)

    def _judged(
        self, context: ScorerContext, paths: Tensor, queries: Tensor, affinities: Tensor, nodes: Tensor
    ) -> Tensor:
        """Let paths (B, W, P) with their queries look at the context: (B, W) logits."""
        weights = queries @ context.keys.transpose(1, 2) * queries.shape[-1] ** -0.5  # (B, W, T)
        weights = (weights + context.bias[:, None]).softmax(dim=-1)
        paths = paths + weights @ context.values
        paths = paths + self.feed_forward(paths)
        logits = self.head(paths).squeeze(-1) + affinities
        scores: Tensor = logits.float().masked_fill(nodes < 0, -torch.inf)
        return scores

    def _rows_of(self, nodes: Tensor, level: int) -> Tensor:
        """Add the row of a prefix of `level` + 1 codes to those of the shorter ones: (..., ) to (..., D)."""
        rows: Tensor = self.rows(self.ancestors[nodes, : level + 1]).sum(dim=-2)
        return rows

    def newest(self, histories: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Pad the newest purchases at the end with item 0: (B, M), and their numbers (B,)."""
        newest = [list(history)[-self.shape.max_history :] for history in histories]
        counts = torch.tensor([len(h) for h in newest], device=self.rows.weight.device)
        items = counts.new_zeros(len(newest), max(len(h) for h in newest))
        for row, history in zip(items, newest, strict=True):
            row[: len(history)] = torch.as_tensor(np.asarray(history, dtype=np.int64))
        return items, counts

    def _returns(self, ages: Tensor) -> Tensor:
        """Look up what purchases of (B, M) ages add to the paths above them: (B, M, L), 0 at padding."""
        found: Tensor = self.return_ages(ages.clamp(0, self.shape.max_history))
        return found.masked_fill(ages[..., None] < 0, 0.0)

    def _evidence(self, items: Tensor, counts: Tensor, held_out: HeldOut | None) -> tuple[Evidence, ...]:
        ages = _ages(counts, items.shape[1])
        return tuple(source.evidence(items, ages, held_out) for source in self.sources.values())

    def _initialise(self) -> None:
        """Small rows, no age bias, and an MLP that starts at 0: a plain inner product at first."""
        nn.init.normal_(self.rows.weight, std=0.02)
        nn.init.zeros_(self.return_ages.weight)
        if not self.reads_states:
            nn.init.zeros_(self.path_ages.weight)
        for weight in self.head[-1].parameters():
            nn.init.zeros_(weight)


def _ages(counts: Tensor, width: int) -> Tensor:
    """Say how old each of `width` purchases is: (B, M), 0 for the newest, negative at padding."""
    return counts[:, None] - torch.arange(1, width + 1, device=counts.device)


def _ancestors(constraint: TrieConstraint) -> Tensor:
    """List the nodes of every prefix on the way to each node: (num_nodes, L), root excluded, rest 0."""
    nodes = constraint.item_nodes
    ancestors = nodes.new_zeros(constraint.num_nodes, constraint.depth)
    for level in range(constraint.depth):
        ancestors[nodes[:, level], : level + 1] = nodes[:, : level + 1]
    return ancestors
