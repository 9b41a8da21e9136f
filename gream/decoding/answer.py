"""The answer of a recommendation: one list of items for one user, and in reasoning mode how it was found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Answer:
    """The recommendations for one user, best first.

    `chains` are the texts that were really written, which early stopping makes fewer for some users;
    `chain_of[i]` is the chain that gave item i its highest probability (the chosen one, where one was
    chosen); `chain_tops` the best item of each chain alone, `chain_lists` all that its search found and
    `chain_logps` their log-probabilities; `tokens` what was generated: the sampled tokens of all chains, and
    the codes of a name for each list that was searched, which `chain_tokens` gives for each chain.

    Which nodes of each level were kept and pruned is told as in `BeamResult`: in direct mode by `kept` and
    `pruned`, in reasoning mode for the search after each chain by `chain_kept` and `chain_pruned`.
    """

    items: np.ndarray  # (k',) int64
    logps: np.ndarray  # (k',) float32
    scores: np.ndarray | None  # (k',) float32, the scorer's
    chains: list[str] = field(default_factory=list)
    chain_of: list[int] = field(default_factory=list)
    chain_tops: list[int] = field(default_factory=list)
    chain_lists: list[np.ndarray] = field(default_factory=list)  # (W,) int64 of each chain
    chain_logps: list[np.ndarray] = field(default_factory=list)  # (W,) float32 of each chain
    chain_tokens: list[int] = field(default_factory=list)
    chain_kept: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    chain_pruned: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    tokens: int = 0
    kept: tuple[np.ndarray, ...] = ()
    pruned: tuple[np.ndarray, ...] = ()
