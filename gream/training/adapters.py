"""What of a model is trained: all of it, low-rank adapters with the rows of new tokens, or names alone.

`lora` puts PEFT's LoRA on every linear layer inside the model and trains the embedding rows of the item
tokens and of the markers (`<think>`, `<answer>`), because an adapter cannot teach a row that nothing has
been learnt in. `names` is a warm-up: the language model is frozen, and only the rows of the item tokens
learn. Rows of the output embedding are trained too where it has weights of its own; where it shares them,
it goes on sharing them.

After training the adapters become plain weights, so that the folder is a model like any other.

Reinforcement learning trains adapters on the linear layers alone: the rows of names and markers have been
taught by then, and TRL's trainer reads the output embedding's weight past any adapter.

LoRA: https://arxiv.org/abs/2106.09685. GREAM trains all weights.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES

from gream.errors import InputError
from gream.language.prompting import MARKERS, Prompter

FULL, LORA, NAMES = "full", "lora", "names"
TRAINABLE = (FULL, LORA, NAMES)
POLICY = (FULL, LORA)  # what reinforcement learning can train


def check_trainable(trainable: str, *, rank: int, alpha: int, choices: tuple[str, ...] = TRAINABLE) -> None:
    """Refuse settings that cannot be; `choices` are what a stage can train.

    Raises:
        InputError: an unknown choice, or a rank or alpha below 1.
    """
    if trainable not in choices:
        raise InputError(f"trainable is {trainable!r}; give one of {', '.join(choices)}.")
    for name, value in (("lora_rank", rank), ("lora_alpha", alpha)):
        if value < 1:
            raise InputError(f"{name} is {value}; give at least 1.")


def adapt(model: Any, prompter: Prompter, trainable: str, *, rank: int, alpha: int, seed: int) -> Any:
    """Freeze what is not trained; returns the model itself, or PEFT's wrapper around it.

    Args:
        model: a causal language model of transformers.
        prompter: knows the tokens of names and markers.
        trainable: one of `TRAINABLE`.
        rank: of the adapters; no effect unless `lora`.
        alpha: adapters are scaled by alpha / rank; no effect unless `lora`.
        seed: draws the adapters.
    """
    if trainable == FULL:
        return model
    rows = list(prompter.item_block)
    if trainable == LORA:
        rows = sorted({*rows, *prompter.tokenizer.convert_tokens_to_ids(list(MARKERS))})
    torch.manual_seed(seed)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        # PEFT's own word for no layer at all: token rows alone, in the form that TRL takes.
        target_modules="all-linear" if trainable == LORA else DUMMY_TARGET_MODULES,
        trainable_token_indices={name: rows for name in _embeddings(model)},
    )
    return get_peft_model(model, config)


def policy_adapters(trainable: str, *, rank: int, alpha: int) -> LoraConfig | None:
    """Return the adapters that TRL's trainer is to put on a policy; None where all weights are trained.

    The trainer draws them from torch's global random numbers, and takes the policy with the adapters off as
    the reference model.
    """
    if trainable == FULL:
        return None
    return LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules="all-linear")


def plain_model(model: Any) -> Any:
    """Return the model inside PEFT's wrapper, adapters and all, or the model itself where there is none."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def merge(model: Any) -> Any:
    """Turn adapters into plain weights; a model without any is returned as it is."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def _embeddings(model: Any) -> list[str]:
    """Names of the modules that hold token rows of their own; a tied output embedding is not among them."""
    layers = {id(model.get_input_embeddings())}
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        layers.add(id(head))
    return [name for name, module in model.named_modules() if id(module) in layers]
