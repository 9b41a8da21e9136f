"""Texts to vectors with a causal language model as it is.

Source: GREAM (arXiv 2510.20815), mask-weighted mean pooling of the last hidden layer.
Legend: B texts of a batch, T tokens, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


class MeanPooling:
    """A model whose last hidden layer is averaged over the tokens of a text."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        limit = model.config.to_dict().get("max_position_embeddings", max_tokens)
        self._limit = min(max_tokens, tokenizer.model_max_length, limit)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed a batch: (B, D) float32; zero for a text without tokens."""
        # Special tokens that stand in a title are text, and must not act as special tokens.
        tokens = [
            self._tokenizer(
                text, truncation=True, max_length=self._limit, split_special_tokens=True
            ).input_ids
            for text in texts
        ]
        with torch.inference_mode():
            vectors: np.ndarray = mean_of_last_layer(self._model, tokens).cpu().numpy()
        return vectors


def load_mean_pooling(name: str, *, max_tokens: int, device: str, dtype: torch.dtype | str) -> MeanPooling:
    """Load model and tokenizer: safetensors only, no code from the model's folder.

    Raises:
        OSError: no such model, or no safetensors in it.
        ValueError: it needs code of its own, or its architecture is unknown.
    """
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return MeanPooling(model.to(device).eval(), tokenizer, max_tokens)


def mean_of_last_layer(model: PreTrainedModel, tokens: list[list[int]]) -> torch.Tensor:
    """Mean of the last hidden layer over the real tokens: (B, D) float32; zero for a text without tokens."""
    width = max(1, max(map(len, tokens)))
    # Id 0 exists in every vocabulary, and the mask hides padding, whichever token it is.
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    mask = torch.zeros(len(tokens), width, dtype=torch.long)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        mask[row, : len(text)] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()  # (B, T, D)
    weights = mask.unsqueeze(-1).float()
    # Only real positions are summed: padding may hold NaN where a row has nothing to attend to.
    summed = torch.where(weights > 0, hidden, 0).sum(dim=1)
    return summed / weights.sum(dim=1).clamp(min=1)
