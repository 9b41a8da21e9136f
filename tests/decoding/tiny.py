"""The tiny model of the tests of engines and writers."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

VOCAB = 64


def tiny_model(seed: int = 0, **options: object) -> Qwen3ForCausalLM:
    """Two layers drawn by seed; `options` go to the configuration."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.3,  # far from uniform, so that a wrong mask or position shows
        **options,
    )
    return Qwen3ForCausalLM(config)
