"""Any Hugging Face model as an encoder of texts; only data is read from it, never code or pickles.

- A folder or repository with `modules.json` is a sentence-transformers model, used as its authors built it.
- A causal language model without one gets mask-weighted mean pooling (`pooling`; GREAM, arXiv 2510.20815).
- Everything else is an encoder that sentence-transformers gives mean pooling.

Legend: B texts of a batch, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import load_file_path
from transformers import AutoConfig

from gream.errors import InputError
from gream.semantic_ids.pooling import MeanPooling, load_mean_pooling

MODULES_FILE = "modules.json"
OWN_MODULES = "sentence_transformers."
_CAUSAL = ("ForCausalLM", "LMHeadModel")  # how the names of causal architectures end


class Encoder(Protocol):
    """Texts to vectors, one batch at a time."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed a batch: (B, D) float32."""
        ...


class SentenceEncoder:
    """A sentence-transformers model; longer texts are cut at its own limit or `max_tokens`."""

    def __init__(self, model: SentenceTransformer, max_tokens: int) -> None:
        self._model = model
        self._options: dict[str, Any] = {}
        if isinstance(model[0], Transformer):  # others, such as static word vectors, read whole texts
            model.max_seq_length = min(model.max_seq_length or max_tokens, max_tokens)
            # Special tokens that stand in a title are text, and must not act as special tokens.
            self._options["processing_kwargs"] = {"text": {"split_special_tokens": True}}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed a batch: (B, D) float32."""
        vectors = self._model.encode(
            list(texts), batch_size=max(1, len(texts)), show_progress_bar=False, **self._options
        )
        return np.asarray(vectors, dtype=np.float32)


def load_encoder(name: str, *, max_tokens: int) -> Encoder:
    """Load an encoder: safetensors only, no code from the model's folder, float32 on a CPU.

    Args:
        name: name or folder of a model.
        max_tokens: longer texts are cut; earlier where the model's own limit is lower.

    Raises:
        InputError: the model cannot be loaded, brings code or pickled weights, or is an encoder-decoder.
    """
    try:
        modules = load_file_path(name, MODULES_FILE)
        if modules is not None:
            _check_modules(name, Path(modules))
            return _sentence_encoder(name, max_tokens)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise InputError(
                f"Encoder {name} is an encoder-decoder model, but an encoder or a causal language model "
                "is needed; choose another `encoder`."
            )
        if any(architecture.endswith(_CAUSAL) for architecture in config.architectures or []):
            return _mean_pooling(name, max_tokens)
        return _sentence_encoder(name, max_tokens)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        told = " ".join(str(error).split())
        raise InputError(
            f"Encoder {name} cannot be loaded as a Hugging Face model with safetensors ({told}); correct "
            "the name or folder, or use `tfidf`."
        ) from error


def _sentence_encoder(name: str, max_tokens: int) -> SentenceEncoder:
    device, dtype = _placement()
    model = SentenceTransformer(
        name,
        device=device,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True, "dtype": dtype},
    )
    return SentenceEncoder(model, max_tokens)


def _mean_pooling(name: str, max_tokens: int) -> MeanPooling:
    device, dtype = _placement()
    return load_mean_pooling(name, max_tokens=max_tokens, device=device, dtype=dtype)


def _placement() -> tuple[str, torch.dtype | str]:
    """Device and dtype: half precision is slow on most processors; a GPU takes what the weights are in."""
    return ("cuda", "auto") if torch.cuda.is_available() else ("cpu", torch.float32)


def _check_modules(name: str, file: Path) -> None:
    """Refuse modules that are no classes of sentence-transformers, and weights that are pickled.

    Raises:
        InputError: names the class or the file.
    """
    modules = json.loads(file.read_text(encoding="utf-8"))
    for module in modules:
        kind, place = str(module["type"]), str(module["path"])
        if not kind.startswith(OWN_MODULES):
            raise InputError(
                f"Encoder {name} asks in {MODULES_FILE} for the class `{kind}`, but only classes of "
                "sentence-transformers are run, no code that a model brings; choose another `encoder`."
            )
        pickled = load_file_path(name, "pytorch_model.bin", subfolder=place)
        if pickled is not None and load_file_path(name, "model.safetensors", subfolder=place) is None:
            raise InputError(
                f"Encoder {name} has the weights {place or '.'}/pytorch_model.bin, but only safetensors are "
                "read; convert them, or choose another `encoder`."
            )
