"""The engine on a transformers model: a user is prefilled once, its beams are positions of its one row.

At each level the newest tokens of a user's W beams are fed as one row of W tokens. All have the same position
id, and a four-dimensional mask lets each see the prompt, its own ancestors and itself. The key-value cache is
only ever appended to: never repeated for beams, never copied or reordered.

A score needs a block of the vocabulary and one normaliser over all of it. So the logits of the whole
vocabulary are made a slice at a time from the model's last hidden states and its output embedding, and are
never in memory together. A model that does more to its logits (scales or caps them) makes them itself.

The model is not compiled: on two cores torch.compile saved 15 % of the forward passes of one fixed shape,
after 50 seconds of compiling, and every other length of prompts and caches asks for that again.

Legend: B users, W beams, T tokens of the longest prompt, S cached positions, V vocabulary, K tokens of a
block, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedModel

from gream.decoding.backend import Watch, check_prompts
from gream.decoding.plain_logits import evaluating, gives_plain_logits, states_and_logits
from gream.decoding.writer import write_texts
from gream.errors import InputError

_MASKED_ATTENTION = ("sdpa", "eager")  # these take any mask; flash attention knows causal ones only
# A text adds one position a step, where a search adds one for every beam of a user: more fit at once.
_WRITERS = 4
# Logits that the normaliser makes at once: 2 MiB in float32, which a cache holds while they are summed.
_SLICE_LOGITS = 2**19
_GPU_SLICE_LOGITS = 2**26  # there a launch costs more than a cache saves: 256 MiB in float32

# A stretch of the vocabulary, as first id and end, to logits (..., end - first) in the model's dtype.
_LogitsOf = Callable[[int, int], torch.Tensor]


class TorchBackend:
    """A causal language model of transformers as an engine."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int, *, batch_size: int = 64) -> None:
        """Wrap a model; each call uses its weights as they are then, so a model in training can be searched.

        Args:
            model: any causal model with full attention, in any dtype, on any device.
            pad_token_id: fills the left of shorter prompts; never seen by the model's real tokens.
            batch_size: users in one forward pass. It bounds the memory for activations and logits; the caches
                of all users of a session live as long as the session, so search users in groups of this size.

        Raises:
            InputError: the model's attention takes no custom mask, or forgets tokens outside a window.
        """
        attention = model.config._attn_implementation
        if attention not in _MASKED_ATTENTION:
            raise InputError(
                f"The model uses {attention} attention, but the search needs one that takes any mask; "
                f"load it with attn_implementation={_MASKED_ATTENTION[0]!r}."
            )
        if any(DynamicCache(config=model.config).is_sliding):
            raise InputError(
                "The model has sliding-window attention, but the search needs full attention; "
                "load it with a configuration without the window."
            )
        self.model = model
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self._decoder: Any = model.get_decoder()  # transformers does not type it
        self._plain_logits = gives_plain_logits(model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

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
        """Write free texts after each prompt, see `Backend.complete`."""
        check_prompts(prompts)
        texts: list[list[list[int]]] = [[] for _ in prompts]
        most = max((len(of_user) for of_user in seeds), default=1)
        users = max(1, _WRITERS * self.batch_size // max(most, 1))
        with evaluating(self.model), torch.inference_mode():
            for rows in _batches(prompts, users):
                tokens, real = _left_padded(
                    [prompts[row] for row in rows], self.pad_token_id, self.model.device
                )
                written = write_texts(
                    self.model,
                    tokens,
                    real,
                    [seeds[row] for row in rows],
                    stop=stop,
                    max_tokens=max_tokens,
                    temperature=temperature,
                    watch=None if watch is None else _of_rows(watch, rows),
                )
                for row, of_user in zip(rows, written, strict=True):
                    texts[row] = of_user
        return texts

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> TorchSession:
        """Prefill every prompt once, and begin one search over them, see `Backend.start`."""
        check_prompts(prompts)
        return TorchSession(self, prompts, keep_states=keep_states)

    def close(self) -> None:
        """Nothing is held outside of this process: the model's memory goes with the last reference to it."""

    def forward(
        self, tokens: torch.Tensor, cache: DynamicCache, last: int, **inputs: torch.Tensor
    ) -> tuple[torch.Tensor, _LogitsOf]:
        """Feed (B, T) tokens and append them to the cache.

        Args:
            tokens: vocabulary ids.
            cache: what the model has seen before.
            last: positions at the end whose logits are wanted.
            inputs: mask and positions, as the model takes them.

        Returns:
            (B, T, H) last hidden states after the final norm, and the logits (B, last, ...) after `tokens`.
        """
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, **inputs}
        with evaluating(self.model), torch.inference_mode():
            if not self._plain_logits:
                states, logits = states_and_logits(self.model, tokens, logits_to_keep=last, **options)
                return states, lambda start, end: logits[..., start:end]
            states = self._decoder(tokens, **options).last_hidden_state
            ending = states[:, -last:].clone()  # a view would keep the states of all positions in memory
        head = self.model.get_output_embeddings()

        def logits_of(start: int, end: int) -> torch.Tensor:
            bias = None if head.bias is None else head.bias[start:end]
            with torch.inference_mode():
                return F.linear(ending, head.weight[start:end], bias)

        return states, logits_of


class TorchSession:
    """One search over B users, in batches of users with prompts of like length."""

    def __init__(self, backend: TorchBackend, prompts: list[list[int]], *, keep_states: bool) -> None:
        batches = _batches(prompts, backend.batch_size)
        self._batches = [
            (rows, _Batch(backend, [prompts[row] for row in rows], keep_states=keep_states))
            for rows in batches
        ]
        self._order = torch.tensor([row for rows in batches for row in rows]).argsort()

    def first(self, block: range) -> torch.Tensor:
        """Score `block` after every prompt: (B, K)."""
        logps = torch.cat([batch.first(block) for _, batch in self._batches])
        return logps[self._order.to(logps.device)]

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        """Add one token to every beam and score `block` after it: (B, W, K)."""
        logps = torch.cat([batch.step(parents[rows], tokens[rows], block) for rows, batch in self._batches])
        return logps[self._order.to(logps.device)]

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the policy's last hidden states at prompt positions, see `Session.prompt_states`."""
        found = [batch.prompt_states() for _, batch in self._batches]
        longest = max(real.shape[1] for _, real in found)
        states = torch.cat([F.pad(kept, (0, 0, longest - kept.shape[1], 0)) for kept, _ in found])
        real = torch.cat([F.pad(kept, (longest - kept.shape[1], 0)) for _, kept in found])
        order = self._order.to(states.device)
        return states[order], real[order]


class _Batch:
    """The users of one forward pass: their cache, and which of its positions each beam may see."""

    def __init__(self, backend: TorchBackend, prompts: list[list[int]], *, keep_states: bool) -> None:
        self._backend = backend
        self._model = backend.model
        tokens, real = _left_padded(prompts, backend.pad_token_id, self._model.device)  # (B, T)
        self._cache = DynamicCache(config=self._model.config)
        self._visible = real[:, None]  # (B, W, S) true where a beam sees a cached position
        self._position = real.sum(dim=1, keepdim=True)  # (B, 1) of the next token
        # Left padding brings the last tokens into one column, so only one position needs logits.
        states, self._logits_of = backend.forward(
            tokens,
            self._cache,
            last=1,
            attention_mask=real.long(),
            position_ids=(real.cumsum(1) - 1).clamp(min=0),
        )
        self._prompt = (states, real) if keep_states else None

    def first(self, block: range) -> torch.Tensor:
        return self._block_logps(self._logits_of, rows=len(self._position), block=block)[:, 0]

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        parents, tokens = parents.to(self._model.device), tokens.to(self._model.device)
        users, width = tokens.shape
        ancestors = self._visible.gather(1, parents[:, :, None].expand(-1, -1, self._visible.shape[2]))
        itself = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(users, -1, -1)
        self._visible = torch.cat([ancestors, itself], dim=2)  # (B, W, S + W)
        mask = torch.zeros(self._visible.shape, dtype=self._model.dtype, device=tokens.device)
        mask.masked_fill_(~self._visible, -torch.inf)
        _, logits_of = self._backend.forward(
            tokens,
            self._cache,
            last=width,
            attention_mask=mask[:, None],
            position_ids=self._position.expand(-1, width),
        )
        self._position = self._position + 1
        return self._block_logps(logits_of, rows=users * width, block=block)

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self._prompt is None:
            raise ValueError("the search was started without keep_states, so the prompt's states are gone")
        states, real = self._prompt
        return states.float().masked_fill(~real[:, :, None], 0.0), real

    def _block_logps(self, logits_of: _LogitsOf, *, rows: int, block: range) -> torch.Tensor:
        """Normalise over the whole vocabulary, keep the block: (B, W, K) float32."""
        size = self._model.config.vocab_size
        at_once = _SLICE_LOGITS if self._model.device.type == "cpu" else _GPU_SLICE_LOGITS
        width = max(1, at_once // rows)
        sums = [
            logits_of(start, min(start + width, size)).float().logsumexp(dim=-1)
            for start in range(0, size, width)
        ]
        normaliser = torch.stack(sums, dim=-1).logsumexp(dim=-1, keepdim=True)  # (B, W, 1)
        return logits_of(block.start, block.stop).float() - normaliser


def _batches(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    """Group prompts of like length, so that little is padded; each group holds places in `prompts`."""
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _of_rows(watch: Watch, rows: list[int]) -> Watch:
    """Tell the rows of a batch by their places in the call."""
    return lambda row, text, tokens: watch(rows[row], text, tokens)


def _left_padded(
    prompts: list[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Align prompts at their end: (B, T) token ids, and (B, T) true where a token is real."""
    longest = max(len(prompt) for prompt in prompts)
    padded = [[pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    real = [[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(real, device=device)
