"""Texts to vectors with any Hugging Face encoder or causal language model.

Source: GREAM (arXiv 2510.20815), mask-weighted mean pooling of the last hidden layer of a model as it is.
Legend: N texts, B texts of a batch, T tokens, D width of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from gream.errors import InputError


def encode_texts(texts: Sequence[str], encoder: str, *, max_tokens: int, batch_size: int) -> np.ndarray:
    """Embed texts with a pretrained model, longest texts first so that a batch has little padding.

    Args:
        texts: N texts.
        encoder: name or folder of the model; safetensors only, no code from the model's folder.
        max_tokens: longer texts are cut; also where the model's own limit is lower.
        batch_size: B.

    Returns:
        (N, D) float32.

    Raises:
        InputError: the model cannot be loaded, or is neither encoder nor causal language model.
    """
    model, tokenizer = _load(encoder)
    limit = min(
        max_tokens,
        tokenizer.model_max_length,
        model.config.to_dict().get("max_position_embeddings", max_tokens),
    )
    # Special tokens that stand in a title are text, and must not act as special tokens.
    tokens = [
        tokenizer(text, truncation=True, max_length=limit, split_special_tokens=True)["input_ids"]
        for text in texts
    ]
    order = np.argsort([-len(ids) for ids in tokens], kind="stable")
    vectors = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with torch.inference_mode():
        for start in tqdm(range(0, len(texts), batch_size), desc="embed", unit="batch", disable=None):
            chosen = order[start : start + batch_size]
            vectors[chosen] = _pool(model, [tokens[item] for item in chosen]).cpu().numpy()
    return vectors


def _pool(model: PreTrainedModel, tokens: list[list[int]]) -> torch.Tensor:
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


def _load(encoder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        config = AutoConfig.from_pretrained(encoder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(encoder, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise InputError(
                f"Encoder {encoder} is an encoder-decoder model, but an encoder or a causal language model "
                "is needed; choose another `encoder`."
            )
        # Half precision is slow on most processors; a GPU takes what the weights were saved in.
        dtype = torch.float32 if device == "cpu" else "auto"
        model = AutoModel.from_pretrained(
            encoder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except InputError:
        raise
    except (OSError, ValueError) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"Encoder {encoder} cannot be loaded as a Hugging Face model with safetensors ({told}); correct "
            "the name or folder, or use `tfidf`."
        ) from error
    return model.to(device).eval(), tokenizer
