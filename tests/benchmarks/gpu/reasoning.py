"""Reasoning mode with the 4B shape: seconds for a user at 10 chains of 300 tokens, on both engines.

GREAM's evaluation is quoted with 6.5 s for a sample (arXiv 2605.10207: a 0.6B model with an explicit chain
and 50 beams, on eight L40). Here the whole of reasoning mode is timed: prompts, ten sampled chains, and after
each the constrained search of 50 beams.

Nothing ends a chain before its budget but the token `<answer>`, which a random model over 150,000 tokens
hardly ever draws: the mean length is measured, and has a bar. Prompts of 20 purchases have 131 tokens.

Legend: B users, G chains.
"""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gream.decoding.recommend import Engine, Search, recommend_many
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.language.vocab import add_tokens, train_tokenizer
from gream.semantic_ids.constraint import TrieConstraint
from tests.benchmarks.figures import figure
from tests.benchmarks.gpu.models import LARGE, peak_gib, quickest, random_model, random_names
from tests.benchmarks.gpu.results import Figures

QUOTED = 6.5  # seconds for a sample
CHAINS, TOKENS, BEAMS, HISTORY = 10, 300, 50, 20
DRY_CHAINS, DRY_TOKENS, DRY_BEAMS, DRY_HISTORY = 2, 6, 5, 3
AT_ONCE = (1, 16)  # users
WORDS = ["a stove of tin for tents", "an oak desk for tall people", "brass lamps, old and new"]


def measure(keep: Callable[[Figures], None], *, dry: bool, vllm: bool | None = None) -> None:
    """Time both engines; vLLM where it is installed, but in a dry run only if it is asked for."""
    names = random_names(dry=dry)
    tokenizer = train_tokenizer(WORDS * 20, 400)
    add_tokens(tokenizer, names.layout)
    prompter = Prompter(tokenizer, names, max_history=DRY_HISTORY if dry else HISTORY)
    model, _ = random_model(LARGE, dry=dry)
    backend: Any = TorchBackend(model, tokenizer.pad_token_id)
    constraint = TrieConstraint(names).to(backend.device)
    keep(_timed("torch", Engine(backend, prompter, constraint, names), dry=dry))
    if not (not dry and importlib.util.find_spec("vllm") is not None if vllm is None else vllm):
        return
    from gream.decoding.vllm_backend import VllmBackend  # the extra may not be installed

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        del model, backend, constraint
        gc.collect()  # vLLM takes its share of what is free
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        backend = VllmBackend(Path(folder), max_model_len=512 if dry else 2048)
        keep(_timed("vllm", Engine(backend, prompter, TrieConstraint(names), names), dry=dry))
        backend.close()


def _timed(engine: str, loaded: Engine, *, dry: bool) -> Figures:
    search = Search(
        mode="reasoning",
        num_beams=DRY_BEAMS if dry else BEAMS,
        num_chains=DRY_CHAINS if dry else CHAINS,
        max_chain_tokens=DRY_TOKENS if dry else TOKENS,
        temperature=1.0,
    )
    rng = np.random.default_rng(0)
    found: Figures = {}
    title = f"{engine}, {search.num_chains} chains of {search.max_chain_tokens} tokens"
    for users in AT_ONCE:
        size = (users, DRY_HISTORY if dry else HISTORY)
        histories = rng.integers(0, len(loaded.names), size).tolist()
        written: list[int] = []

        def run(histories: list[list[int]] = histories, written: list[int] = written) -> None:
            answers = recommend_many(loaded, histories, search, batch_size=search.num_chains * len(histories))
            written[:] = [tokens for answer in answers for tokens in answer.chain_tokens]

        peak = peak_gib(run)
        seconds = quickest(run, 1) / users
        bar = "" if dry else f"<= {QUOTED}"
        about = f"{title}, {users} user{'s' * (users > 1)} at a time"
        found[f"{about}: seconds for a user"] = figure(seconds, "s", bar)
        found[f"{about}: the quoted seconds against these"] = figure(QUOTED / seconds, "x")
        if engine == "torch":  # vLLM's memory is its share of the card
            found[f"{about}: peak memory, weights included"] = figure(peak, "GiB")
        mean = float(np.mean(written)) - loaded.names.layout.num_codebooks
        least = "" if dry else f">= {0.98 * search.max_chain_tokens:g}"
        found[f"{about}: tokens of a chain"] = figure(mean, "", least)
    return found
