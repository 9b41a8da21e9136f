"""Constrained beam search on random-weight Qwen3 of 0.6B and 4B: users a second, and against transformers.

Prompts are random tokens of equal length. transformers' search copies every prompt for every beam, so that it
gets few users at a time: 4, of 50 beams and 512 tokens, fill a card; users a second are compared.

Legend: B users, W beams.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gream.decoding.beam import BeamResult, beam_search
from gream.decoding.torch_backend import TorchBackend
from gream.semantic_ids.constraint import TrieConstraint
from tests.benchmarks.figures import figure
from tests.benchmarks.gpu.models import LARGE, SMALL, peak_gib, quickest, random_model, random_names
from tests.benchmarks.gpu.results import Figures
from tests.benchmarks.rival_search import Rival

USERS, THEIR_USERS = 16, 4
SIZES = ((128, 20), (512, 20), (512, 50), (1024, 50))  # prompt tokens, beams
DRY_SIZES = ((12, 5),)


def measure(keep: Callable[[Figures], None], *, dry: bool) -> None:
    """Time both searches for every model and size; see the module."""
    for name in (SMALL,) if dry else (SMALL, LARGE):
        model, block = random_model(name, dry=dry)
        for prompt, beams in DRY_SIZES if dry else SIZES:
            keep(_compared(model, block, prompt, beams, name.partition("/")[2], dry=dry))


def _compared(model: Any, block: range, prompt: int, beams: int, name: str, *, dry: bool) -> Figures:
    names = random_names(dry=dry)
    offsets = names.layout.offsets
    blocks = [
        range(block.start + offset, block.start + offset + size)
        for offset, size in zip(offsets, names.layout.codebook_sizes, strict=True)
    ]
    prompts = np.random.default_rng(0).integers(10, 1000, (USERS, prompt)).tolist()
    backend = TorchBackend(model, pad_token_id=0, batch_size=USERS)
    constraint = TrieConstraint(names).to(model.device)
    lists: list[BeamResult] = []

    def ours() -> None:
        lists[:] = beam_search(backend, prompts, constraint, blocks, num_beams=beams)

    rival = Rival(model, names, blocks, prompts[:THEIR_USERS], beams)
    outputs: list[Any] = []

    def theirs() -> None:
        with torch.inference_mode():
            outputs[:] = [rival.search()]

    our_peak, their_peak = peak_gib(ours), peak_gib(theirs)
    our_rate = USERS / quickest(ours, 3)
    their_rate = THEIR_USERS / quickest(theirs, 1)
    title = f"{name}, {prompt:,} tokens, {beams} beams"
    same = [
        len({*our.items.tolist()[:10]} & {*their[:10]}) / min(10, beams)
        for our, their in zip(lists[:THEIR_USERS], rival.found(outputs[0])[0], strict=True)
    ]
    return {
        f"{title}: users a second, {USERS} at a time": figure(our_rate, "users/s"),
        f"{title}: against transformers' generate": figure(our_rate / their_rate, "x"),
        f"{title}: peak memory, weights included": figure(our_peak, "GiB"),
        f"{title}: transformers' peak with {THEIR_USERS} users": figure(their_peak, "GiB"),
        f"{title}: share of the first 10 items that both found": figure(float(np.mean(same)), ""),
    }
