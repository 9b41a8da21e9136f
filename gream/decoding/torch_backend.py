"""The engine on a transformers model: a user is prefilled once, its beams are positions of its one row.

At each level the newest tokens of a user's W beams are fed as one row of W tokens. All have the same position
id, and a four-dimensional mask lets each see the prompt, its own ancestors and itself. The key-value cache is
only ever appended to: never repeated for beams, never copied or reordered.

Legend: B users, W beams, T tokens of the longest prompt, S cached positions, V vocabulary, K tokens of a
block.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from gream.decoding.backend import check_prompts
from gream.errors import InputError

_MASKED_ATTENTION = ("sdpa", "eager")  # these take any mask; flash attention knows causal ones only
# Free text adds one position a step to each prompt, where a search adds one for every beam: more fit at once.
_WRITERS = 4


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

    def complete(
        self, prompts: list[list[int]], *, stop: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[int]]:
        """Write free text after each prompt, see `Backend.complete`."""
        check_prompts(prompts)
        device = self.model.device
        texts: list[list[int]] = [[]] * len(prompts)
        # All are named, because `generate` fills what is missing from the model folder's own defaults.
        sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if temperature > 0:
            sampling = {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        generate: Any = self.model.generate  # its type is lost in transformers' decorators
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), _evaluating(self.model), torch.inference_mode():
            torch.manual_seed(seed)
            for rows in _batches(prompts, _WRITERS * self.batch_size):
                tokens, mask = _left_padded([prompts[row] for row in rows], self.pad_token_id, device)
                output = generate(
                    tokens,
                    attention_mask=mask.long(),
                    max_new_tokens=max_tokens,
                    eos_token_id=stop,
                    pad_token_id=self.pad_token_id,
                    repetition_penalty=1.0,
                    **sampling,
                )
                for row, text in zip(rows, output[:, tokens.shape[1] :].tolist(), strict=True):
                    texts[row] = text[: text.index(stop) + 1] if stop in text else text
        return texts

    def start(self, prompts: list[list[int]]) -> TorchSession:
        """Prefill every prompt once, and begin one search over them."""
        check_prompts(prompts)
        return TorchSession(self, prompts)


class TorchSession:
    """One search over B users, in batches of users with prompts of like length."""

    def __init__(self, backend: TorchBackend, prompts: list[list[int]]) -> None:
        batches = _batches(prompts, backend.batch_size)
        self._batches = [(rows, _Batch(backend, [prompts[row] for row in rows])) for rows in batches]
        self._order = torch.tensor([row for rows in batches for row in rows]).argsort()

    def first(self, block: range) -> torch.Tensor:
        """Score `block` after every prompt: (B, K)."""
        logps = torch.cat([batch.first(block) for _, batch in self._batches])
        return logps[self._order.to(logps.device)]

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        """Add one token to every beam and score `block` after it: (B, W, K)."""
        logps = torch.cat([batch.step(parents[rows], tokens[rows], block) for rows, batch in self._batches])
        return logps[self._order.to(logps.device)]


class _Batch:
    """The users of one forward pass: their cache, and which of its positions each beam may see."""

    def __init__(self, backend: TorchBackend, prompts: list[list[int]]) -> None:
        self._model = backend.model
        device = self._model.device
        tokens, real = _left_padded(prompts, backend.pad_token_id, device)  # (B, T)
        self._cache = DynamicCache(config=self._model.config)
        self._visible = real[:, None]  # (B, W, S) true where a beam sees a cached position
        self._position = real.sum(dim=1, keepdim=True)  # (B, 1) of the next token
        # Left padding brings the last tokens into one column, so only one position needs logits.
        self._last = self._forward(
            tokens,
            attention_mask=real.long(),
            position_ids=(real.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=1,
        )[:, 0]  # (B, V)

    def first(self, block: range) -> torch.Tensor:
        return _block_logps(self._last, block)

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        parents, tokens = parents.to(self._model.device), tokens.to(self._model.device)
        users, width = tokens.shape
        ancestors = self._visible.gather(1, parents[:, :, None].expand(-1, -1, self._visible.shape[2]))
        itself = torch.eye(width, dtype=torch.bool, device=tokens.device).expand(users, -1, -1)
        self._visible = torch.cat([ancestors, itself], dim=2)  # (B, W, S + W)
        mask = torch.zeros(self._visible.shape, dtype=self._model.dtype, device=tokens.device)
        mask = mask.masked_fill(~self._visible, -torch.inf)
        logits = self._forward(
            tokens, attention_mask=mask[:, None], position_ids=self._position.expand(-1, width)
        )
        self._position = self._position + 1
        return _block_logps(logits, block)

    def _forward(self, tokens: torch.Tensor, **inputs: torch.Tensor | int) -> torch.Tensor:
        with _evaluating(self._model), torch.inference_mode():
            output = self._model(tokens, past_key_values=self._cache, use_cache=True, **inputs)
        logits: torch.Tensor = output.logits
        return logits


def _block_logps(logits: torch.Tensor, block: range) -> torch.Tensor:
    """Normalise over the whole vocabulary, keep the block: (..., V) logits to (..., K) float32."""
    logits = logits.float()
    return logits[..., block.start : block.stop] - logits.logsumexp(dim=-1, keepdim=True)


def _batches(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    """Group prompts of like length, so that little is padded; each group holds places in `prompts`."""
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row]), row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _left_padded(
    prompts: list[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Align prompts at their end: (B, T) token ids, and (B, T) true where a token is real."""
    longest = max(len(prompt) for prompt in prompts)
    padded = [[pad_token_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    real = [[False] * (longest - len(prompt)) + [True] * len(prompt) for prompt in prompts]
    return torch.tensor(padded, device=device), torch.tensor(real, device=device)


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Switch dropout off for the block, and leave the model as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
