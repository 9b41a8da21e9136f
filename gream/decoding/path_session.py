"""A search on an engine without beams: every prefix is a question of its own, made cheap by a prefix cache.

So it is on vLLM, in this process or behind a URL.

Legend: B users, W beams, K tokens of a level's block, P prefixes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gream.errors import InputError

IDS_PER_REQUEST = 128  # vLLM's limit for `logprob_token_ids`

# One user's prompt, and the tokens that are added to it.
Prefix = tuple[int, tuple[int, ...]]
# Prefixes of users, without repetition, and a block to (P, K) log-probabilities of its tokens after each.
Score = Callable[[list[Prefix], range], torch.Tensor]


class PathSession:
    """One search over B users, see `gream.decoding.backend.Session`; it remembers the path of every beam."""

    def __init__(self, num_users: int, score: Score) -> None:
        self._score = score
        self._paths: list[list[tuple[int, ...]]] = [[()] for _ in range(num_users)]  # of each user and beam

    def first(self, block: range) -> torch.Tensor:
        """Score `block` after every prompt: (B, K)."""
        return self._score([(user, ()) for user in range(len(self._paths))], block)

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        """Add one token to every beam and score `block` after it: (B, W, K)."""
        self._paths = [
            [paths[parent] + (token,) for parent, token in zip(of_user, added, strict=True)]
            for paths, of_user, added in zip(self._paths, parents.tolist(), tokens.tolist(), strict=True)
        ]
        # Padding repeats a legal path: it is asked for once.
        keys = dict.fromkeys((user, path) for user, paths in enumerate(self._paths) for path in paths)
        asked = {key: row for row, key in enumerate(keys)}
        logps = self._score(list(asked), block)
        rows = [[asked[user, path] for path in paths] for user, paths in enumerate(self._paths)]
        return logps[torch.tensor(rows)]  # (B, W, K)

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Refuse: such an engine takes no `keep_states`, because it returns no states."""
        raise ValueError("the search was started without keep_states, which this engine does not have")


def chunks(block: range) -> list[list[int]]:
    """Cut a block into lists of ids that one request may hold."""
    return [list(block[i : i + IDS_PER_REQUEST]) for i in range(0, len(block), IDS_PER_REQUEST)]


def check_no_states(keep_states: bool) -> None:
    """Refuse to keep the states of prompts.

    Raises:
        InputError: they are asked for.
    """
    if keep_states:
        raise InputError(
            "A scorer that reads the policy's hidden states was given, but vLLM returns none of prompts; "
            "use the engine torch, or a scorer with an encoder of its own."
        )
