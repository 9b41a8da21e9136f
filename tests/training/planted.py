"""Shoppers who follow a rule, names for what they buy, and small scorers that are to find the rule."""

from __future__ import annotations

import numpy as np
import torch

from gream.data.store import TEST, TRAIN, VALIDATION, Case, Interactions
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext
from gream.decoding.scorer_shape import ScorerShape
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout


def new_scorer(names: Names, seed: int = 0, **sizes: int) -> PrefixPathScorer:
    torch.manual_seed(seed)
    shape = ScorerShape(**{"hidden_size": 16, "max_history": 8, **sizes}, dropout=0.1)
    return PrefixPathScorer(TrieConstraint(names), shape)


def grid_names(num_items: int) -> Names:
    """Items 0, 1, 2, ... named by their digits to base 4."""
    layout = SidLayout((4, 4, 4))
    codes = np.stack(np.unravel_index(np.arange(num_items), layout.codebook_sizes), axis=1)
    return Names(layout, codes.astype(np.int32))


def planted(num_users: int, num_items: int, seed: int) -> Interactions:
    """Shoppers whose every purchase is (7 * the one before + 3) mod num_items, from random starts."""
    starts = np.random.default_rng(seed).integers(num_items, size=num_users)
    sequences = []
    for user, start in enumerate(starts):
        items = [int(start)]
        while len(items) < 4 + user % 4:
            items.append((7 * items[-1] + 3) % num_items)
        sequences.append(np.asarray(items))
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions([str(u) for u in range(num_users)], sequences, splits)


def aucs(scorer: PrefixPathScorer, context: ScorerContext, cases: list[Case]) -> list[float]:
    """For each depth the share of wrong prefixes that score below the true one; a tie counts half."""
    found = []
    for level, nodes in enumerate(scorer.level_nodes):
        scores = scorer.score(context, level, torch.tensor(nodes).expand(len(cases), -1))  # (B, V)
        truth = scorer.item_nodes[[c.target for c in cases], level] - nodes.start
        reached = scores.gather(1, truth[:, None])
        below = (scores < reached).sum(1) + ((scores == reached).sum(1) - 1) / 2
        found.append(float((below / (len(nodes) - 1)).mean()))
    return found
