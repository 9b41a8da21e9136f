"""Which engines there are, and how each comes to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gream.decoding.backend import Backend
from gream.devices import compute_device
from gream.errors import InputError
from gream.language.vocab import load_model, load_tokenizer
from gream.processes import launched
from gream.semantic_ids.layout import Names

LOCAL_ENGINES = ("torch", "vllm")  # these load the model on this machine
ENGINES = (*LOCAL_ENGINES, "openai")


def open_backend(
    engine: str, folder: Path, names: Names, *, url: str = "", concurrent: bool = False
) -> tuple[Backend, Any]:
    """Load an engine over a model folder, and the folder's tokenizer; what is given is told at `load_engine`.

    The model of the engine torch goes to this process's GPU, see `gream.processes.find_team`.

    Raises:
        InputError: unknown engine, one that cannot be reached or does not work in several processes, or a
            folder that was made for other names.
    """
    if url and engine != "openai":
        raise InputError(f"url is given, but engine is {engine!r}; leave it out, or give engine openai.")
    if engine == "torch":
        from gream.decoding.torch_backend import TorchBackend

        model, tokenizer = load_model(folder, names)
        return TorchBackend(ready(model), tokenizer.pad_token_id), tokenizer
    if engine == "vllm":
        if launched() > 1:  # it would take the processes of this launch for its own
            raise InputError(
                f"{launched()} processes were started, but vLLM starts what it needs from one; start one, or "
                "take the engine torch."
            )
        from gream.decoding.vllm_async import start_vllm
        from gream.decoding.vllm_backend import VllmBackend

        tokenizer = load_tokenizer(folder, names)
        return start_vllm(folder) if concurrent else VllmBackend(folder), tokenizer
    if engine == "openai":
        from gream.decoding.openai_engine import connect, served_by

        tokenizer = load_tokenizer(folder, names)
        return connect(url, served_by(folder, tokenizer, names)), tokenizer
    raise InputError(f"engine is {engine!r}; give one of {', '.join(ENGINES)}.")


def ready(model: Any) -> Any:
    """Put a model of transformers that only answers where it computes.

    On a GPU its weights become bfloat16 whatever they are stored in; the search makes scores of them in
    float32. Buffers stay as they are: rotary frequencies in bfloat16 turn far positions by a wrong angle. On
    a CPU, where half precision is slow, nothing changes.
    """
    device = compute_device()
    if device.type == "cpu":
        return model
    exact = dict(model.named_buffers())
    model = model.to(device, torch.bfloat16)
    for name, buffer in exact.items():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, buffer.to(device))
    return model
