"""Write free text with a transformers model: a prompt is prefilled once for all its texts.

The texts of a user are positions of the user's one cached row, as beams are in the search: each step feeds
the newest tokens of W texts as one row of W tokens, and a mask lets each see the prompt, its own text and
itself. A step then reads the prompt's keys once for each user, where rows of their own would read (and
hold) them once for each text. Measured on one core, processor seconds, 16 users with 4 texts of 200 tokens:

| model, prompt | transformers' `generate` | a row for each text | texts as positions |
|---|---|---|---|
| 2 layers of 128, 64 tokens | 2.5 | 2.2 | 2.0 |
| 3 layers of 128, 256 tokens | 4.2 | 4.4 | 2.8 |

A text that is finished leaves; a user's row is fed as wide as the user with the most unfinished texts, which
wasted 4 % of the fed tokens with the chains of the demo. Users without unfinished texts leave the cache.

Every text is drawn from random numbers of its own seed, one number a token, by inverting the cumulated
probabilities. So a text depends on its prompt and its seed, and on nobody else in the batch (but for the
last bits of a sum, which change with the padding), and the global random state is never touched.

Legend: B users, W texts of a user that are still being written, R all texts, T tokens of the longest prompt,
S cached positions, M most tokens of a text, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from gream.decoding.backend import Watch

NONE = -1  # in place of a text's number: the column writes nothing


def write_texts(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    real: torch.Tensor,
    seeds: Sequence[Sequence[int]],
    *,
    stop: int,
    max_tokens: int,
    temperature: float,
    watch: Watch | None = None,
) -> list[list[list[int]]]:
    """Write one text for every seed after each prompt, up to and including `stop`, or cut at `max_tokens`.

    Args:
        model: in evaluation mode; call it under `torch.inference_mode`.
        tokens: (B, T) prompts, aligned at their end.
        real: (B, T) true where a token is no padding.
        seeds: for each prompt the seeds of its texts; as many as are wanted, not the same number for all.
        stop: the token that ends a text.
        max_tokens: tokens after which a text is cut.
        temperature: of the full distribution; 0 takes the most probable token.
        watch: told of every token.

    Returns:
        For each prompt its texts as token ids, in the order of its seeds.
    """
    numbers = _numbers(seeds, tokens.device)  # (B, W)
    draws = _draws(seeds, max_tokens).to(tokens.device)  # (R + 1, M)
    owners = [(row, place) for row, of_user in enumerate(seeds) for place in range(len(of_user))]
    written = torch.full(draws.shape, stop, device=tokens.device)  # (R + 1, M)
    page, logits = _Page.begin(model, tokens, real, numbers, max_tokens)
    for step in range(max_tokens):
        # The number NONE is that of the last row, which belongs to no text.
        chosen = choose(logits, temperature, draws[page.numbers, step])  # (B, W)
        written[page.numbers, step] = chosen
        if watch:
            _tell(watch, page.numbers, chosen, owners)
        chosen = page.leave(chosen, stop)
        if step == max_tokens - 1 or not chosen.numel():
            break
        logits = page.add(chosen)
    rows = iter(written[:-1].tolist())
    return [[_until(next(rows), stop) for _ in of_user] for of_user in seeds]


def choose(logits: torch.Tensor, temperature: float, draws: torch.Tensor) -> torch.Tensor:
    """Choose the next token of every text: (B, W, V) logits and (B, W) draws to (B, W) token ids."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    # Cumulated in float64: a float32 sum over a large vocabulary loses its rare tokens. A draw of 24 bits
    # times the total then stays below the total, and a token without probability is never the first above.
    cumulated = (logits.float() / temperature).softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    thresholds = draws[:, :, None].double() * cumulated[:, :, -1:]
    return torch.searchsorted(cumulated, thresholds, right=True)[:, :, 0]


class GrowingLayer(DynamicLayer):
    """A layer of the cache with room at its end: a step writes its columns and moves nothing else.

    The layer of transformers copies all it holds at every step.
    """

    _room: tuple[torch.Tensor, torch.Tensor]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the keys and values of new positions; return those of all positions."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = (key_states, value_states)
            start = 0
        else:
            start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        if stop > self._room[0].shape[-2]:
            keys, values = self._room
            self._room = (_wider(keys[:, :, :start], stop), _wider(values[:, :, :start], stop))
        for room, states in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:stop] = states
        return self._show(stop)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows of the batch."""
        stop = self.get_seq_length()
        self._room = (self._room[0][indices], self._room[1][indices])
        self._show(stop)

    def _show(self, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (room[:, :, :stop] for room in self._room)
        self.keys, self.values = keys, values
        return keys, values


@dataclass
class _Page:
    """What is being written: users in rows, texts in columns."""

    model: PreTrainedModel
    cache: Cache
    mask: torch.Tensor  # (B, W, room) 0 where a text sees a position, -inf elsewhere
    numbers: torch.Tensor  # (B, W) text that each column writes
    position: torch.Tensor  # (B, 1) of the next token

    @classmethod
    def begin(
        cls,
        model: PreTrainedModel,
        tokens: torch.Tensor,
        real: torch.Tensor,
        numbers: torch.Tensor,
        max_tokens: int,
    ) -> tuple[_Page, torch.Tensor]:
        """Prefill the prompts; return the page, and the logits of every text's first token (B, W, V)."""
        (users, longest), width = tokens.shape, numbers.shape[1]
        cache = Cache(layer_class_to_replicate=GrowingLayer)
        output = model(
            tokens,
            attention_mask=real.long(),
            position_ids=(real.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        room = longest + width * max_tokens
        mask = torch.full((users, width, room), -torch.inf, dtype=model.dtype, device=tokens.device)
        mask[:, :, :longest].masked_fill_(real[:, None], 0.0)
        page = cls(model, cache, mask, numbers, real.sum(dim=1, keepdim=True))
        return page, output.logits.expand(-1, width, -1)

    def leave(self, chosen: torch.Tensor, stop: int) -> torch.Tensor:
        """Let texts that ended with `stop` go, and users without texts; return the other tokens (B, W)."""
        self.numbers = self.numbers.masked_fill(chosen == stop, NONE)
        writing = self.numbers != NONE  # (B, W)
        counts = writing.sum(dim=1)
        users, width = counts.nonzero()[:, 0], int(counts.max())
        if len(users) < len(counts):
            self.cache.batch_select_indices(users)
            self.mask, self.position = self.mask[users], self.position[users]
            self.numbers, chosen, writing = self.numbers[users], chosen[users], writing[users]
        if width < writing.shape[1]:
            columns = writing.long().argsort(dim=1, descending=True, stable=True)[:, :width]
            self.mask = self.mask.gather(1, columns[:, :, None].expand(-1, -1, self.mask.shape[2]))
            self.numbers, chosen = self.numbers.gather(1, columns), chosen.gather(1, columns)
        return chosen

    def add(self, chosen: torch.Tensor) -> torch.Tensor:
        """Add one token to every text; return the logits of the next (B, W, V)."""
        start, width = self.cache.get_seq_length(), chosen.shape[1]
        self.mask[:, :, start : start + width].diagonal(dim1=1, dim2=2).zero_()
        output = self.model(
            chosen,
            attention_mask=self.mask[:, None, :, : start + width],
            position_ids=self.position.expand(-1, width),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        logits: torch.Tensor = output.logits
        return logits


def _numbers(seeds: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Number all texts through, a user's in one row, filled up with `NONE`: (B, W)."""
    counts = torch.tensor([len(of_user) for of_user in seeds], device=device)
    columns = torch.arange(int(counts.max()), device=device)
    numbers = (counts.cumsum(0) - counts)[:, None] + columns
    return numbers.masked_fill(columns >= counts[:, None], NONE)


def _draws(seeds: Sequence[Sequence[int]], max_tokens: int) -> torch.Tensor:
    """Draw one number of [0, 1) for each token of each text: (R + 1, M) float32, the last row unused."""
    draws = [
        torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed))
        for of_user in seeds
        for seed in of_user
    ]
    return torch.stack([*draws, torch.zeros(max_tokens)])


def _tell(
    watch: Watch, numbers: torch.Tensor, chosen: torch.Tensor, owners: Sequence[tuple[int, int]]
) -> None:
    """Tell the newest token (B, W) of every text that is still written."""
    for number, token in zip(numbers.flatten().tolist(), chosen.flatten().tolist(), strict=True):
        if number != NONE:
            row, place = owners[number]
            watch(row, place, [token])


def _wider(states: torch.Tensor, stop: int) -> torch.Tensor:
    """Copy (B, heads, S, size) to the front of a tensor with room for `stop` positions and more."""
    users, heads, filled, size = states.shape
    # A quarter more: every position is copied about four times over a whole text, however long.
    room = states.new_empty(users, heads, stop + stop // 4, size)
    room[:, :, :filled] = states
    return room


def _until(text: list[int], stop: int) -> list[int]:
    return text[: text.index(stop) + 1] if stop in text else text
