"""What an engine gives to the search: free text, and log-probabilities of listed tokens after listed paths.

Legend: B users, W beams, K tokens of a level's block, T tokens of the longest prompt, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from gream.errors import InputError

# Told of every token while texts are written: the prompt's row, the text's place in it, the tokens that came.
Watch = Callable[[int, int, list[int]], None]


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

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the policy's last hidden states at the prompts' positions, computed with the prompts.

        They are the input of the output embedding, after the final norm: what PROMISE's scorer shares.

        Returns:
            (B, T, H) float32, aligned at the last token of each prompt and 0 where a prompt has no token;
            and (B, T) bool, true where it has one. T is the longest prompt's length.

        Raises:
            ValueError: the search was started without `keep_states`.
        """


class Backend(Protocol):
    """An engine around a causal language model."""

    @property
    def device(self) -> torch.device:
        """Where its numbers are, and where the search keeps its books."""

    def complete(
        self,
        prompts: list[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        stop: int,
        max_tokens: int,
        temperature: float,
        watch: Watch | None = None,
    ) -> list[list[list[int]]]:
        """Write free texts after each prompt, each up to and including `stop`, or cut at `max_tokens`.

        A text is sampled from the full distribution at `temperature`; 0 takes the most probable token. It
        depends on its prompt and its seed, not on the other texts of the call.

        Args:
            prompts: token ids for each user.
            seeds: for each prompt a seed for every text that is wanted; the prompt is computed once for all.
            stop: the token that ends a text.
            max_tokens: tokens after which a text is cut.
            temperature: divides the logits.
            watch: told of the tokens as they come, in the thread that writes; what it raises ends the call.

        Returns:
            For each prompt its texts, in the order of its seeds.
        """

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> Session:
        """Begin one search over these prompts.

        Args:
            prompts: token ids for each user.
            keep_states: keep what `Session.prompt_states` returns, B * T * H numbers of the model's dtype.

        Raises:
            InputError: a prompt without tokens, or an engine that cannot keep the states.
        """

    def close(self) -> None:
        """Give back what the engine holds outside of this object; it cannot be used afterwards."""


def check_prompts(prompts: list[list[int]]) -> None:
    """Refuse prompts that no engine can continue.

    Raises:
        InputError: a prompt has no token.
    """
    empty = [position for position, prompt in enumerate(prompts) if not prompt]
    if empty:
        raise InputError(f"Prompt {empty[0]} has no tokens; give every prompt at least one token.")
