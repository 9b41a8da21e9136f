"""What an engine gives to the search: free text, and log-probabilities of listed tokens after listed paths.

Legend: B users, W beams, K tokens of a level's block.
"""

from __future__ import annotations

from typing import Protocol

import torch

from gream.errors import InputError


class Session(Protocol):
    """One search over B users, each with a prompt of its own.

    Every number is a float32 log-probability at temperature 1, normalised over the full vocabulary.
    """

    def first(self, block: range) -> torch.Tensor:
        """Score the tokens of `block` as the next token of every prompt: (B, K)."""

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        """Add one token to every beam, then score the tokens of `block` after it: (B, W, K).

        Args:
            parents: (B, W) which beam of the previous step each new beam continues; all 0 in the first step,
                where the prompt is the only beam.
            tokens: (B, W) vocabulary ids of the tokens that are added.
            block: the vocabulary ids to score.
        """


class Backend(Protocol):
    """An engine around a causal language model."""

    def complete(
        self, prompts: list[list[int]], *, stop: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[int]]:
        """Write free text after each prompt, up to and including `stop`, or cut at `max_tokens`.

        The text is sampled from the full distribution at `temperature`; 0 takes the most probable token.
        The same call with the same seed gives the same text; equal prompts in one call give different texts.
        """

    def start(self, prompts: list[list[int]]) -> Session:
        """Begin one search over these prompts."""


def check_prompts(prompts: list[list[int]]) -> None:
    """Refuse prompts that no engine can continue.

    Raises:
        InputError: a prompt has no token.
    """
    empty = [position for position, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise InputError(f"Prompt {empty[0]} has no tokens; give every prompt at least one token.")
