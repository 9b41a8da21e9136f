"""Folders of a run, and encoders of a few thousand parameters built from configs: no download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.semantic_ids import item_text

WORDS = [
    "red lamp for the tent",
    "a blue ink printer good every day model < end >",
    "office camping . [ SEP ]",
]
LIMIT = 12  # positions of every model


@pytest.fixture
def prepare() -> Callable[[Path, Catalogue, Interactions], None]:
    """Writes the data and text folders of a run."""

    def write(run_dir: Path, catalogue: Catalogue, interactions: Interactions) -> None:
        with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
            save_dataset(draft.path, catalogue, interactions)
        item_text.run(item_text.TextConfig(run_dir=str(run_dir)))

    return write


@pytest.fixture
def save_model() -> Callable[[Path, str], Path]:
    """Saves a model of the kind `encoder`, `causal` or `encoder-decoder` with its tokenizer."""
    return _save_model


def _save_model(folder: Path, kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _wordpiece() if kind == "encoder" else _word_level()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_attention_heads": 2}
    layers = {"num_hidden_layers": 2, "intermediate_size": 24, "max_position_embeddings": LIMIT}
    if kind == "encoder":
        BertModel(BertConfig(**shape, **layers)).save_pretrained(folder)
    elif kind == "causal":
        Qwen3ForCausalLM(Qwen3Config(**shape, **layers, num_key_value_heads=1, head_dim=8)).save_pretrained(
            folder
        )
    else:
        config = T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2)
        T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer as BERT's: word pieces, [CLS] before and [SEP] behind a text."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(WORDS, trainers.WordPieceTrainer(special_tokens=special, show_progress=False))
    ends = [(token, backend.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    backend.post_processor = processors.BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LIMIT,
    )


def _word_level() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that adds nothing to a text and has no token for padding."""
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.train_from_iterator(WORDS, trainers.WordLevelTrainer(special_tokens=["<unk>", "<end>"]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<end>")
