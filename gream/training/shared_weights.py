"""Weights that no process has all of: DeepSpeed's ZeRO stage 3 and PyTorch's FSDP.

The trainer shares them out after the model was loaded whole; when training is over they are gathered in the
process that writes, into a model of their own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from gream.errors import InputError
from gream.processes import is_main
from gream.training.adapters import plain_model


def are_weights_shared_out() -> bool:
    """Say whether processes hold parts of the weights; call it after the trainer's arguments were made."""
    return is_deepspeed_zero3_enabled() or _is_fsdp()


def check_processes(arguments: Any, whole_weights_for: Sequence[str], token_rows_for: str = "") -> None:
    """Refuse settings that need what the processes will not have; set what their devices need.

    Args:
        arguments: of the trainer, which say how weights are held.
        whole_weights_for: settings, as the user gave them, that search with the model while it learns.
        token_rows_for: the setting that trains rows of an embedding and not the others, if there is one.

    Raises:
        InputError: FSDP without a GPU, or such settings where weights are shared out.
    """
    if _is_fsdp() and not torch.cuda.is_available():
        raise InputError(
            "FSDP needs GPUs: on a CPU accelerate quietly runs plain DDP; take "
            "recipes/accelerate/zero3.yaml or ddp.yaml."
        )
    if _is_fsdp() and token_rows_for:
        # PEFT's module around the embedding hides from accelerate that the head shares its weights. A head
        # with weights of its own was not tried.
        raise InputError(
            f"{token_rows_for} trains rows of the embedding, which FSDP cannot share out; take "
            "recipes/accelerate/zero3.yaml or ddp.yaml."
        )
    # A process has one GPU: with more the trainer would copy the model to all, and train larger batches.
    vars(arguments)["_n_gpu"] = min(1, arguments.n_gpu)
    if is_deepspeed_zero3_enabled():
        from deepspeed import comm  # here: an extra

        comm.init_distributed(auto_mpi_discovery=False)  # a reference model is shared out before training
    if arguments.device.type == "cpu":
        # Of several processes each calls its CPU `cpu:0`, where torch.load puts no optimiser's state.
        vars(arguments)["_setup_devices"] = torch.device("cpu")
    if whole_weights_for and are_weights_shared_out():
        raise InputError(
            f"{' and '.join(whole_weights_for)} needs all weights in every process, which ZeRO-3 and FSDP "
            "share out; leave it out, or take recipes/accelerate/zero2.yaml or ddp.yaml."
        )


def gathered(trainer: Any, build: Callable[[Any], Any]) -> Any:
    """Return the trained model with all its weights, adapters and all.

    Every process must call it. Where weights are shared out only the process that writes gets a model to
    write; the others get the one whose weights they hold parts of.

    Args:
        trainer: of transformers, after training.
        build: gives the plain model, drawn anew, what the trained one has around it.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if not are_weights_shared_out():
        return model
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if not is_main():
        return model
    plain = plain_model(model)
    unset_hf_deepspeed_config()  # what is built now is not shared out
    drawn = type(plain)(plain.config)
    drawn.generation_config = plain.generation_config
    drawn.tie_weights()
    whole = build(drawn)
    missing, unknown = whole.load_state_dict(state, strict=False)
    tied = tuple(plain._tied_weights_keys or ()) if plain.config.tie_word_embeddings else ()
    lost = [name for name in missing if not name.endswith(tied)]
    assert not lost and not unknown, f"not gathered: {lost}, unknown: {unknown}"
    return whole.to(next(tensor.dtype for tensor in state.values() if tensor.is_floating_point()))


def number_of(parameter: Any) -> int:
    """Return how many weights a parameter has, over all processes."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def _is_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
