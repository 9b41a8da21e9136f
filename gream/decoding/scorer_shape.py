"""Size of a path scorer: what is stored beside its weights."""

from __future__ import annotations

from dataclasses import dataclass

from gream.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ScorerShape:
    """Size of a path scorer.

    `max_history` is the number of newest purchases that it looks at. `policy_size` is the width of the
    policy's hidden states that it reads; 0 is an encoder of its own, the only user of layers and heads.
    `neighbours` is how many items that others bought near a purchase count as evidence, `lookalikes` how many
    that read like it; 0 is none.
    """

    hidden_size: int = 64
    num_layers: int = 1
    num_heads: int = 2
    dropout: float = 0.3
    max_history: int = 50
    policy_size: int = 0
    neighbours: int = 0
    lookalikes: int = 0

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "max_history"):
            if getattr(self, name) < 1:
                raise InputError(f"`{name}` is {getattr(self, name)}; a path scorer needs at least 1.")
        for name in ("neighbours", "lookalikes"):
            if getattr(self, name) < 0:
                raise InputError(f"`{name}` is {getattr(self, name)}; give at least 0.")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"`dropout` is {self.dropout}; give a share from 0 to less than 1.")
        if self.hidden_size % self.num_heads or self.hidden_size % 2:
            raise InputError(
                f"`hidden_size` is {self.hidden_size}, but must be even and a multiple of `num_heads` "
                f"({self.num_heads}); choose sizes that divide."
            )
