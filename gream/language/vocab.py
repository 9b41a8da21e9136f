"""Stage `vocab`: a causal language model that knows the item tokens.

Any model by name or folder is taken as it is, or a small Qwen3-shaped one is built from a config with a
tokenizer trained on the catalogue's own text. The item tokens are one contiguous block of normal added
tokens; their rows start from the centroids of the codebooks.

GREAM (reference implementation, `construct_model`) registers the tokens as special ones and leaves their
rows to the library's default. Starting from the centroids is ours.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

from gream.arguments import StageConfig, input_folder, option
from gream.artifacts import check_whole, writing
from gream.errors import InputError
from gream.language.prompting import MARKERS, prompts_folder
from gream.semantic_ids.build import load_codebooks
from gream.semantic_ids.item_text import load_item_text
from gream.semantic_ids.layout import Names, SidLayout, load_names

logger = logging.getLogger(__name__)

STAGE = "vocab"
MODEL_FILE = "gream.json"  # which names a model folder was made for

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(kw_only=True)
class VocabConfig(StageConfig):
    """Settings of `gream vocab`."""

    output: str = option("base", doc="name of the folder that this stage writes inside run_dir")
    sids: str = input_folder("sids", doc="folder of the names")
    text: str = input_folder(
        "text", doc="folder of the item texts; the small model's tokenizer learns from them"
    )
    base_model: str = option(
        "", doc="name or folder of a causal language model; empty builds a small one", from_environment=True
    )
    hidden_size: int = option(128, doc="width of the small model")
    num_layers: int = option(4, doc="layers of the small model")
    num_heads: int = option(4, doc="attention heads of the small model")
    text_tokens: int = option(1200, doc="vocabulary of the small model's tokenizer before the item tokens")


CONFIG = VocabConfig


def run(config: VocabConfig) -> None:
    """Load or build the model, add the item tokens, write model and tokenizer."""
    names = load_names(config.locate("sids"))
    codebooks = load_codebooks(config.locate("sids"))
    with writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        if config.base_model:
            model, tokenizer = _pretrained(config.base_model)
        else:
            tokenizer = train_tokenizer(load_item_text(config.locate("text")), config.text_tokens)
            model = build_model(
                len(tokenizer),
                hidden_size=config.hidden_size,
                num_layers=config.num_layers,
                num_heads=config.num_heads,
                seed=config.seed,
            )
        extend(model, tokenizer, names, codebooks, seed=config.seed)
        save_model(draft.path, model, tokenizer, names)
        draft.counts.update(
            parameters=sum(p.numel() for p in model.parameters()),
            vocabulary=int(model.config.vocab_size),
            item_tokens=names.layout.num_tokens,
        )
    logger.info("%s item tokens added, %s parameters", names.layout.num_tokens, draft.counts["parameters"])


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with a ChatML template on the catalogue's and the prompts' words."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    templates = [path.read_text() for path in sorted(prompts_folder().glob("*.jinja"))]
    # The templates' words stand in every row, so they are worth whole tokens: weigh them accordingly.
    backend.train_from_iterator([*texts, *(templates * max(1, len(texts) // 20))], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=_CHATML,
    )


def build_model(
    vocab_size: int, *, hidden_size: int, num_layers: int, num_heads: int, seed: int
) -> Qwen3ForCausalLM:
    """Build a small Qwen3-shaped model with random weights.

    Raises:
        InputError: the width is no multiple of twice the number of heads.
    """
    if hidden_size % (2 * num_heads):
        raise InputError(
            f"hidden_size {hidden_size} cannot be split over {num_heads} heads of even width; "
            "choose a multiple of twice num_heads."
        )
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=max(1, num_heads // 2),
        head_dim=hidden_size // num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def extend(
    model: Any, tokenizer: Any, names: Names, codebooks: Sequence[np.ndarray], *, seed: int = 0
) -> None:
    """Add the markers and the item block to tokenizer and model, in place.

    Raises:
        InputError: the tokenizer already holds some of the tokens.
    """
    tokens = add_tokens(tokenizer, names.layout)
    old = model.get_input_embeddings().weight.detach().float()
    old_mean, old_std = old.mean(dim=0), float(old.std())
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64, mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    rows = item_rows(names, codebooks, len(old_mean), mean=old_mean.numpy(), scale=old_std, seed=seed)
    ids = tokenizer.convert_tokens_to_ids(tokens)
    with torch.no_grad():
        for layer in {id(e.weight): e for e in _embeddings(model)}.values():
            layer.weight[ids] = torch.from_numpy(rows).to(layer.weight)


def add_tokens(tokenizer: Any, layout: SidLayout) -> list[str]:
    """Add the markers and the item block to a tokenizer, in place; returns the tokens of the block.

    Raises:
        InputError: it already holds some of them.
    """
    known = tokenizer.get_vocab()
    tokens = layout.tokens()
    clash = [token for token in tokens if token in known]
    if clash:
        raise InputError(
            f"The base model's tokenizer already holds {clash[0]}; start from a model without item tokens."
        )
    markers = [marker for marker in MARKERS if marker not in known]
    for token in markers + tokens:  # added one by one: the block's ids must follow this order
        tokenizer.add_tokens(AddedToken(token, special=False, normalized=False))
    return tokens


def item_rows(
    names: Names,
    codebooks: Sequence[np.ndarray],
    width: int,
    *,
    mean: np.ndarray,
    scale: float,
    seed: int,
) -> np.ndarray:
    """Starting rows of the item block: centroids, projected, at the scale of the model's own rows.

    One random projection for all levels keeps the distances between centroids; a random offset for each
    level keeps the levels apart. A disambiguation level has no centroids and starts from small noise.

    Returns:
        (sum of codebook sizes, width) float32.
    """
    generator = np.random.default_rng(seed)
    dim = codebooks[0].shape[1]
    projection = generator.standard_normal((dim, width)) / np.sqrt(width)
    blocks = []
    for level, size in enumerate(names.layout.codebook_sizes):
        if level < len(codebooks):
            block = codebooks[level] @ projection
        else:
            block = generator.standard_normal((size, width))
        block = block - block.mean(axis=0)
        block *= scale / max(float(block.std()), 1e-12)  # guard: a codebook whose centroids are all equal
        offset = generator.standard_normal(width) * scale
        blocks.append(mean + 0.7 * block + 0.7 * offset)
    return np.concatenate(blocks).astype(np.float32)


def save_model(folder: Path, model: Any, tokenizer: Any, names: Names) -> None:
    """Write model (safetensors), tokenizer, and which names they were made for."""
    _no_bars_in_files()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / MODEL_FILE).write_text(json.dumps({"names": names.fingerprint()}, indent=2) + "\n")


def load_model(folder: Path, names: Names) -> tuple[Any, Any]:
    """Read a model folder of gream: the model in evaluation mode, and its tokenizer.

    Raises:
        InputError: no such folder, a damaged one, or one made for other names.
    """
    tokenizer = load_tokenizer(folder, names)
    _no_bars_in_files()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", use_safetensors=True)
    return model.eval(), tokenizer


def load_tokenizer(folder: Path, names: Names) -> Any:
    """Read the tokenizer of a model folder, for engines that load the model themselves.

    Raises:
        InputError: no such folder, a damaged one, or one made for other names.
    """
    marker = folder / MODEL_FILE
    if not marker.is_file():
        raise InputError(
            f"{folder} is no model of gream: {MODEL_FILE} is missing; "
            "run `gream vocab` first, or correct the path."
        )
    check_whole(folder)
    made_for = json.loads(marker.read_text())["names"]
    if made_for != names.fingerprint():
        raise InputError(
            f"{folder} was made for other names ({made_for}) than these ({names.fingerprint()}); "
            "run `gream vocab` and the training again with these names, or give the names it was made for."
        )
    return AutoTokenizer.from_pretrained(folder)


def _pretrained(base_model: str) -> tuple[Any, Any]:
    try:
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        model = AutoModelForCausalLM.from_pretrained(base_model, dtype="auto", use_safetensors=True)
    except OSError as error:
        raise InputError(
            f"base_model {base_model!r} cannot be loaded ({str(error).splitlines()[0]}); "
            "give a model folder with safetensors, or a name that can be downloaded."
        ) from error
    if tokenizer.chat_template is None:
        raise InputError(
            f"base_model {base_model!r} has no chat template; choose an instruction-tuned model."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def _no_bars_in_files() -> None:
    """Keep transformers' bars, drawn even where there is no terminal, out of logs."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def _embeddings(model: Any) -> list[Any]:
    output = model.get_output_embeddings()
    return [model.get_input_embeddings()] + ([output] if output is not None else [])
