"""PROMISE's path scorer as a reward of every level of an answer.

Source: PROMISE (https://arxiv.org/abs/2601.04674) trains the scorer and uses it in the search only; to reward
each level with it is ours; ProRAG (https://arxiv.org/abs/2601.21912) is a precedent for advantages by step.
The scorer stays as `gream prm` left it. Its logits compare paths of one user and one depth, which is just
what a group is; `advantages.process_advantages` standardises them there, and they mean nothing elsewhere.

Only for ordered names, as the scorer is, and for scorers with an encoder of their own: the states of a policy
that is being trained are not those that a scorer learned to read.

Legend: R completions, L codebooks, B distinct histories, W answers to one history, T tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gream.decoding.path_scorer import PrefixPathScorer
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import SidLayout
from gream.semantic_ids.paths import Constraint


def check_scorer(scorer: PrefixPathScorer, constraint: Constraint) -> TrieConstraint:
    """Return the trie that the scorer's nodes belong to.

    Raises:
        InputError: names without an order, or a scorer that reads the states of a policy.
    """
    if not isinstance(constraint, TrieConstraint):
        raise InputError(
            "The reward `process` needs names with ordered codes, as `gream prm` does, but these have no "
            "order; take it out of `rewards`, or run `gream sids` with residual codes."
        )
    if scorer.reads_states:
        raise InputError(
            "The scorer reads the hidden states of a policy, which change while the policy is trained; give "
            "the reward `process` a scorer that `gream prm` trained with `context: own`."
        )
    return constraint


def process_scores(
    scorer: PrefixPathScorer, constraint: TrieConstraint, histories: Sequence[Sequence[int]], path: Tensor
) -> Tensor:
    """Score every prefix of every answer against the history that was asked about.

    Each distinct history is encoded once.

    Args:
        scorer: a scorer for inference; see `check_scorer`.
        constraint: the trie of its names.
        histories: R lists of dense item ids, oldest first.
        path: (R, L) codes of the answers, -1 in the rows of malformed completions.

    Returns:
        (R, L) float32 logits; NaN where the completion is malformed or the prefix leads to no item.
    """
    device = scorer.rows.weight.device
    places: dict[tuple[int, ...], int] = {}
    users = [places.setdefault(tuple(history), len(places)) for history in histories]
    context = scorer.context([list(history) for history in places])
    rows, columns, nodes = _by_history(users, prefix_nodes(constraint, path))  # nodes: (B, W, L)
    nodes = nodes.to(device)
    levels = [scorer.score(context, level, nodes[..., level]) for level in range(path.shape[1])]
    scores = torch.stack(levels, dim=-1).cpu()[rows, columns]  # (R, L)
    return torch.where(torch.isneginf(scores), torch.nan, scores)


def prefix_nodes(constraint: TrieConstraint, path: Tensor) -> Tensor:
    """Find the node of every prefix: (R, L) codes to (R, L) int64; -1 from where no item goes on."""
    sizes = constraint.names.layout.codebook_sizes
    codes = path.to(constraint.device)
    node = torch.zeros(1, len(path), dtype=torch.int64, device=constraint.device)
    nodes = []
    for level, column in enumerate(codes.unbind(1)):
        # A code outside its codebook would be read as one of another node.
        known = (column >= 0) & (column < sizes[level])
        node = torch.where(known, constraint.follow(node, column.clamp(min=0)[None], level), -1)
        nodes.append(node[0])
    return torch.stack(nodes, dim=1).to(path.device)


def answer_positions(
    completions: Sequence[Sequence[int]], well_formed: Tensor, item_block: range, layout: SidLayout
) -> Tensor:
    """Find the codes of the answers among the tokens: (R, L) int64 by codebook, -1 where malformed.

    A well-formed completion of either mode ends with the L codes of its answer, and markers.

    Args:
        completions: R lists of token ids, without padding.
        well_formed: (R,) bool.
        item_block: token ids of the codes.
        layout: the layout of the names.
    """
    positions = torch.full((len(completions), layout.num_codebooks), -1)
    for row, ids in enumerate(completions):
        if well_formed[row]:
            places = [place for place, token in enumerate(ids) if token in item_block]
            answer = places[-layout.num_codebooks :]
            positions[row] = torch.tensor(sorted(answer, key=lambda place: ids[place]))
    return positions


def _by_history(users: Sequence[int], nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lay (R, L) nodes out by history: (R,) rows and (R,) columns into (B, W, L), padded with -1."""
    rows = torch.tensor(users)
    counts = [0] * (max(users) + 1)
    columns = []
    for user in users:
        columns.append(counts[user])
        counts[user] += 1
    laid = nodes.new_full((len(counts), max(counts), nodes.shape[1]), -1)
    places = torch.tensor(columns)
    laid[rows, places] = nodes
    return rows, places, laid
