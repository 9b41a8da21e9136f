"""What a path scorer knows of the users whose paths it judges.

Legend: B users, T states of a context, M purchases, L codebooks, D hidden size, P = D / 2 size of the block.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gream.decoding.evidence import Evidence


@dataclass(frozen=True)
class ScorerContext:
    """Encoded histories of B users: what every path of a user is scored against."""

    keys: Tensor  # (B, T, P)
    values: Tensor  # (B, T, P)
    bias: Tensor  # (B, T), -inf where the user has no state
    state: Tensor  # (B, D)
    bought: Tensor  # (B, M, L) nodes of the prefixes of the purchases
    returns: Tensor  # (B, M, L) what a purchase adds to the paths above it, 0 where there is none
    evidence: tuple[Evidence, ...] = ()  # one of each table of neighbours that the scorer looks into
