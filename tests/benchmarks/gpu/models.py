"""Random-weight Qwen3 models of published shapes, built where they compute, and names for them to write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from gream.devices import compute_device
from gream.planning.shapes import named_configuration
from gream.semantic_ids.layout import Names, SidLayout

SMALL, LARGE = "Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B-Instruct-2507"
ITEMS, SIZES = 12_101, (256,) * 4  # Beauty's catalogue, in names as GREAM's
DRY_ITEMS, DRY_SIZES = 200, (8,) * 4


def random_model(name: str, *, dry: bool) -> tuple[Any, range]:
    """Build a model with room for the names behind its vocabulary; returns it, and the ids of that room.

    On a GPU the weights are drawn there, in bfloat16: 4 billion of them in seconds, and none on the host.
    """
    config = _tiny() if dry else named_configuration(name, "model")
    first = config.vocab_size
    config.vocab_size += sum(DRY_SIZES if dry else SIZES)
    device = compute_device()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval().requires_grad_(False), range(first, config.vocab_size)


def random_names(*, dry: bool) -> Names:
    """Draw the names of a catalogue."""
    items, sizes = (DRY_ITEMS, DRY_SIZES) if dry else (ITEMS, SIZES)
    every = np.unique(np.random.default_rng(0).integers(0, int(np.prod(sizes)), 2 * items))[:items]
    codes = np.stack(np.unravel_index(every, sizes), axis=1).astype(np.int32)
    return Names(SidLayout(sizes), codes)


def quickest(task: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the quickest of some runs after a warm-up, the device's work included."""
    seconds = []
    for _ in range(repeats + 1):
        wait()
        started = time.perf_counter()
        task()
        wait()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def wait() -> None:
    """Wait until the device has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(task: Callable[[], object]) -> float:
    """Run a task and return the most of the device's memory that was held meanwhile, in GiB; 0 on a CPU."""
    if not torch.cuda.is_available():
        task()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    task()
    return torch.cuda.max_memory_allocated() / 2**30


def _tiny() -> Any:
    return Qwen3Config(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # which vLLM takes on a CPU
        tie_word_embeddings=True,
    )
