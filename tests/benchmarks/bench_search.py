"""Constrained beam search: gream against transformers' `generate` with `prefix_allowed_tokens_fn`.

The same model, users, prompts and names; the items and scores that come out are compared before any time is.
Each measurement runs in a process of its own, so that its peak memory is its own; a task is named
`gream|transformers-VOCABULARY-PROMPT-BEAMS`. The floor is one bare prefill and bare steps of the same shapes.

Legend: B users, T prompt tokens, W beams, L levels.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from gream.artifacts import peak_memory_mb
from gream.decoding.beam import beam_search
from gream.decoding.torch_backend import TorchBackend
from gream.language.vocab import build_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from tests.benchmarks.figures import best_seconds, figure, other_process

USERS, ITEMS, SIZES = 16, 10_000, (256, 256, 256)
REPEATS = 3  # the fastest counts, after a warm-up


def measure() -> dict[str, dict[str, Any]]:
    """Compare at the two sizes that have a bar; see the module for what a task is."""
    figures = {}
    for prompt, beams, bar in ((512, 50, ">= 60"), (128, 20, ">= 8")):
        size = f"4000-{prompt}-{beams}"
        ours, theirs = (
            other_process("bench_search", f"gream-{size}"),
            other_process("bench_search", f"transformers-{size}"),
        )
        if ours["items"] != theirs["items"]:
            raise RuntimeError(f"The searches found different items at {size}; their times do not compare.")
        title = f"beam search, {prompt} tokens, {beams} beams"
        worst = float(np.abs(np.array(ours["scores"]) - np.array(theirs["scores"])).max())
        figures |= {
            f"{title}: users per second against transformers": figure(
                theirs["seconds"] / ours["seconds"], "x", bar
            ),
            f"{title}: largest difference of a score": figure(worst, "nats", "<= 0.0001"),
            f"{title}: time against bare prefill and steps": figure(
                ours["seconds"] / ours["floor"], "x", "<= 1.3"
            ),
        }
        if bar == ">= 60":
            name = f"{title}: peak memory of transformers against ours"
            figures[name] = figure(theirs["peak_mb"] / ours["peak_mb"], "x", ">= 8")
    return figures


def gream(vocabulary: int, prompt: int, beams: int) -> dict[str, Any]:
    """Time our search, and the forward passes alone."""
    model, names, blocks, prompts = _shop(vocabulary, prompt)
    backend, constraint = TorchBackend(model, pad_token_id=0, batch_size=USERS), TrieConstraint(names)
    found = beam_search(backend, prompts, constraint, blocks, num_beams=beams)
    seconds = best_seconds(
        lambda: beam_search(backend, prompts, constraint, blocks, num_beams=beams), REPEATS
    )
    peak = peak_memory_mb()
    return {
        "items": [result.items.tolist() for result in found],
        "scores": [result.logps.tolist() for result in found],
        "seconds": seconds,
        "floor": best_seconds(lambda: _bare(model, prompts, beams), REPEATS),
        "peak_mb": peak,
    }


def transformers(vocabulary: int, prompt: int, beams: int) -> dict[str, Any]:
    """Time `generate` with a Python dictionary as the trie, as it is used with it."""
    model, names, blocks, prompts = _shop(vocabulary, prompt)
    children: dict[tuple[int, ...], set[int]] = {}
    item_of = {}
    for item, codes in enumerate(names.codes.tolist()):
        tokens = tuple(block.start + code for block, code in zip(blocks, codes, strict=True))
        item_of[tokens] = item
        for level, token in enumerate(tokens):
            children.setdefault(tokens[:level], set()).add(token)
    allowed = {path: sorted(tokens) for path, tokens in children.items()}

    def search() -> Any:
        return model.generate(
            torch.tensor(prompts),
            attention_mask=torch.ones(len(prompts), prompt, dtype=torch.long),
            max_new_tokens=len(SIZES),
            num_beams=beams,
            num_return_sequences=beams,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=0,
            prefix_allowed_tokens_fn=lambda _, tokens: allowed[tuple(tokens[prompt:].tolist())],
            return_dict_in_generate=True,
            output_scores=True,
        )

    with torch.inference_mode():
        started = time.perf_counter()
        output = search()
        seconds = time.perf_counter() - started
        if seconds < 20:  # a warm-up matters only where a search is short
            seconds = min(seconds, best_seconds(search, REPEATS))
    sequences = output.sequences[:, prompt:].tolist()
    pairs = [
        (-score, item_of[tuple(row)])
        for score, row in zip(output.sequences_scores.tolist(), sequences, strict=True)
    ]
    users = [sorted(pairs[start : start + beams]) for start in range(0, len(pairs), beams)]
    return {
        "items": [[item for _, item in user] for user in users],
        "scores": [[-cost for cost, _ in user] for user in users],
        "seconds": seconds,
        "peak_mb": peak_memory_mb(),
    }


def _shop(vocabulary: int, prompt: int) -> tuple[Any, Names, list[range], list[list[int]]]:
    """A model of four layers and width 256, names of 10,000 items, and prompts of equal length."""
    rng = np.random.default_rng(0)
    every = rng.choice(int(np.prod(SIZES)), ITEMS, replace=False)
    codes = np.stack(np.unravel_index(np.sort(every), SIZES), axis=1).astype(np.int32)
    names = Names(SidLayout(SIZES), codes)
    starts = vocabulary + np.concatenate([[0], np.cumsum(SIZES)[:-1]])
    blocks = [range(start, start + size) for start, size in zip(starts.tolist(), SIZES, strict=True)]
    model = build_model(vocabulary + sum(SIZES), hidden_size=256, num_layers=4, num_heads=4, seed=0)
    return model.eval(), names, blocks, rng.integers(10, vocabulary, (USERS, prompt)).tolist()


def _bare(model: Any, prompts: list[list[int]], beams: int) -> None:
    """One prefill and L - 1 steps of W tokens for each user: what any search with these shapes pays."""
    tokens, cache = torch.tensor(prompts), DynamicCache(config=model.config)
    with torch.inference_mode():
        model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for _ in SIZES[1:]:
            model(tokens[:, :beams], past_key_values=cache, use_cache=True)


if __name__ == "__main__":
    engine, *sizes = sys.argv[1].split("-")
    print(json.dumps({"gream": gream, "transformers": transformers}[engine](*map(int, sizes))))
