"""Tells whether a model's logits are its output embedding's, so that a block of them can be made alone.

Legend: B sequences, T tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

# Tokens that are tried: more than the one that pads, whose embedding is zero in many models.
_PROBE_TOKENS = 8


def gives_plain_logits(model: Any) -> bool:
    """Tell whether the logits are last hidden states times output embedding, to the bit, and no more.

    An adapter on the output embedding may add nothing now and something after training: its type tells.

    Args:
        model: a causal language model of transformers.
    """
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    tokens = torch.arange(min(_PROBE_TOKENS, len(head.weight)), device=model.device)[None]
    with evaluating(model), torch.no_grad():
        states, logits = states_and_logits(model, tokens)
        return torch.equal(logits, F.linear(states, head.weight, head.bias))


def states_and_logits(model: Any, tokens: torch.Tensor, **inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model with its own logits: (B, T) ids to (B, T, H) last hidden states and (B, T, V) logits."""
    found: list[torch.Tensor] = []
    hook = model.get_decoder().register_forward_hook(lambda _, __, out: found.append(out.last_hidden_state))
    try:
        logits: torch.Tensor = model(tokens, **inputs).logits
    finally:
        hook.remove()
    return found[0], logits


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout off for the block, and leave the model as it was."""
    training = model.training
    model.train(False)
    try:
        yield
    finally:
        model.train(training)
