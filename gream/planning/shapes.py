"""The shape and size of a language model, from its configuration alone: no weights are read or made.

Legend: h hidden size, f width of the feed-forward layers, q and k widths of all query and all key heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen3Config

from gream.errors import InputError
from gream.language.vocab import VocabConfig, build_model

# config.json of the models on huggingface.co: hidden size, feed-forward size, layers, heads. All have 8 key
# heads, heads of 128, one table of 151,936 rows for both ends, and bfloat16 weights.
_PUBLISHED = {
    "Qwen/Qwen3-0.6B": (1024, 3072, 28, 16),
    "Qwen/Qwen3-1.7B": (2048, 6144, 28, 16),
    "Qwen/Qwen3-4B-Instruct-2507": (2560, 9728, 36, 32),
}
_PUBLISHED_ROWS, _PUBLISHED_ENTRIES = 151_936, 151_669  # of the table, and of the tokenizer
_PADDED_TO = 64  # rows of a table that was extended, as `gream vocab` makes it


@dataclass(frozen=True)
class ModelShape:
    """What memory and time follow from."""

    hidden: int  # h
    feed_forward: int  # f
    layers: int
    heads: int
    query: int  # q
    key: int  # k
    vocabulary: int  # rows of the table, those of names and padding among them
    tied: bool  # whether one table serves both ends
    parameters: int
    bytes: int  # of a weight as it is stored

    @property
    def table(self) -> int:
        """Weights of one table of embeddings."""
        return self.vocabulary * self.hidden

    @property
    def in_blocks(self) -> int:
        """Weights outside the tables: those that every token passes."""
        return self.parameters - self.table * (1 if self.tied else 2)

    @property
    def cache_values(self) -> int:
        """Numbers that the cache keeps of a token: keys and values of every layer."""
        return 2 * self.layers * self.key

    def adapters(self, rank: int) -> int:
        """Weights of low-rank adapters on the seven linear layers of every block.

        Each has `rank` rows of its input's width and as many of its output's (arXiv 2106.09685): query and
        output (h, q), key and value (h, k), gate, up and down (h, f).
        """
        ends = 2 * (self.hidden + self.query) + 2 * (self.hidden + self.key)
        return self.layers * rank * (ends + 3 * (self.hidden + self.feed_forward))


def configuration(vocab: VocabConfig, vocabulary: int) -> Any:
    """Return the transformers configuration of the model that a `vocab` file asks for, before it is extended.

    Args:
        vocab: the stage's settings.
        vocabulary: entries of the tokenizer; what the small model's table is made for.

    Raises:
        InputError: the model is neither here nor one whose shape is known.
    """
    name = vocab.base_model
    if not name:
        width = {"hidden_size": vocab.hidden_size, "num_layers": vocab.num_layers}
        with torch.device("meta"):
            return build_model(vocabulary, **width, num_heads=vocab.num_heads, seed=0).config
    return named_configuration(name, "base_model")


def named_configuration(name: str, setting: str) -> Any:
    """Return the configuration of a model by name or folder.

    Raises:
        InputError: as `configuration`; it names the setting.
    """
    if name in _PUBLISHED:
        return _published(*_PUBLISHED[name])
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{setting} {name!r} has no configuration here ({str(error).splitlines()[0]}); give a folder, a "
            f"name that can be downloaded, or one whose shape is known: {', '.join(_PUBLISHED)}."
        ) from error


def published_entries(name: str) -> int:
    """Return the entries of a published model's tokenizer; 0 of any other model."""
    return _PUBLISHED_ENTRIES if name in _PUBLISHED else 0


def stored_configuration(folder: Path) -> Any:
    """Return the configuration of a model folder of gream, which is extended already."""
    return AutoConfig.from_pretrained(folder)


def shape_of(config: Any, extended_to: int = 0) -> ModelShape:
    """Build the model on the `meta` device, with room for the names, and measure it.

    Args:
        config: a transformers configuration.
        extended_to: entries of the tokenizer with markers and names; 0 leaves the table as it is.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    if extended_to:
        model.resize_token_embeddings(extended_to, pad_to_multiple_of=_PADDED_TO, mean_resizing=False)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return ModelShape(
        hidden=config.hidden_size,
        feed_forward=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        query=config.num_attention_heads * width,
        key=key_heads * width,
        vocabulary=table.shape[0],
        tied=head is table,
        parameters=sum(p.numel() for p in model.parameters()),
        bytes=torch.finfo(config.dtype or torch.float32).bits // 8,
    )


def _published(hidden: int, feed_forward: int, layers: int, heads: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=_PUBLISHED_ROWS,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
