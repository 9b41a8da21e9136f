"""What may steer the search beside the policy: a scorer that keeps prefixes, a pruner that drops beams.

`beam_search` knows these two protocols and no paper. PROMISE (arXiv 2601.04674) is a `PathScorer`: the
policy proposes, the scorer keeps. The consistency rule of REG4Rec (arXiv 2508.15308) is a `PathPruner`: a
beam is dropped before it costs another step of the model.

Legend: B users, W beams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from gream.decoding.backend import Session


class PathScorer(Protocol):
    """Scores prefixes of names for a user; higher is better, comparable within one user and level only."""

    @property
    def reads_states(self) -> bool:
        """Whether `context` asks the session for the states of the prompts."""

    def context(self, histories: list[Sequence[int]], session: Session) -> object:
        """Encode B histories once, for all levels of one search; `session` has their prompts' states."""

    def score(self, context: object, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Score trie nodes of one level: (B, W) nodes to (B, W) float32.

        Every node is a real one; where a user has too few, a legal one is repeated and its score ignored.
        """


class PathPruner(Protocol):
    """Says which beams are worth another step of the model."""

    def keep(
        self, level: int, nodes: torch.Tensor, logps: torch.Tensor, reach: torch.Tensor, wanted: int
    ) -> torch.Tensor:
        """Choose among the beams of one level: (B, W) bool. At least one real beam of every user must stay.

        It is called after every level but the last, where there is no further step to save.

        Args:
            level: number of codes of the beams' paths, less one.
            nodes: (B, W) the paths.
            logps: (B, W) their log-probabilities; -inf marks padding.
            reach: (B, W) number of items that each path leads to.
            wanted: number of items that the search is to find for each user.
        """
