"""Constrained beam search: against its floor, against transformers, and with guidance and filters.

The floor is one bare prefill and L - 1 bare steps of the same shapes, with full logits as transformers makes
them. Against `generate` with `prefix_allowed_tokens_fn` the model, users, prompts and names are the same; the
items and scores that come out are compared before any time is. Each measurement runs in a process of its own,
so that its peak memory is its own: a task is `search|transformers-VOCABULARY-PROMPT-BEAMS`,
`guided-PROMPT-BEAMS` or `narrowed-ITEMS`. What is set in relation takes turns, and the fastest turn counts.

Legend: B users, T prompt tokens, W beams, L levels.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from gream.artifacts import peak_memory_mb
from gream.decoding.beam import Guide, beam_search
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.torch_backend import TorchBackend
from gream.language.vocab import build_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from tests.benchmarks.figures import best_seconds, figure, other_process
from tests.benchmarks.rival_search import Rival
from tests.benchmarks.search_parts import PARTS, parts_of

USERS, SIZES = 16, (256, 256, 256)
REPEATS = 3  # the fastest counts, after a warm-up
VOCABULARIES, PROMPTS, BEAMS = (4_000, 152_000), (128, 512, 1024), (20, 50)
# vocabulary, prompt, beams: bars for the users per second and for the peak memory against transformers
BARS = {(4_000, 128, 20): (">= 8", ""), (4_000, 512, 50): (">= 60", ">= 8")}


def measure() -> dict[str, dict[str, Any]]:
    """Run every task; see the module for what they are."""
    figures, searches = {}, {}
    for size in [(v, p, b) for v in VOCABULARIES for p in PROMPTS for b in BEAMS]:
        ours = searches[size] = _task("search", *size)
        title = _title(*size)
        ratio = figure(ours["seconds"] / ours["floor"], "x", "<= 1.3")
        figures[f"{title}: time against bare prefill and steps"] = ratio
        figures |= {f"{title}: {part}": figure(ours["parts"][part], "s") for part in PARTS}
    for size, ours in searches.items():
        figures |= _compared(_title(*size), ours, _task("transformers", *size), *BARS.get(size, ("", "")))
    for prompt, beams in ((128, 20), (512, 50)):
        guided = _task("guided", prompt, beams)
        title = f"guided search, {prompt} tokens, {beams} of {4 * beams} beams: time against plain search"
        figures[title] = figure(guided["with"] / guided["without"], "x", "<= 1.15")
    for items in (10_000, 1_000_000):
        narrowed = _task("narrowed", items)
        title = f"a filter for each user over {items:,} items: time of the search against none"
        figures[title] = figure(narrowed["with"] / narrowed["without"], "x", "<= 1.1")
    return figures


def search(vocabulary: int, prompt: int, beams: int) -> dict[str, Any]:
    """Time our search, its parts, and the forward passes alone."""
    model, names, blocks, prompts = _shop(vocabulary, prompt)
    backend, constraint = TorchBackend(model, pad_token_id=0, batch_size=USERS), TrieConstraint(names)

    def ours(engine: Any = backend, trie: Any = constraint) -> Any:
        return beam_search(engine, prompts, trie, blocks, num_beams=beams)

    found = ours()
    peak = peak_memory_mb()
    seconds, floor = _in_turn(ours, lambda: _bare(model, prompts, beams))
    runs = [parts_of(ours, backend, constraint) for _ in range(REPEATS)]
    return {
        "items": [result.items.tolist() for result in found],
        "scores": [result.logps.tolist() for result in found],
        "seconds": seconds,
        "floor": floor,
        "parts": min(runs, key=lambda parts: parts["total"]),
        "peak_mb": peak,
    }


def transformers(vocabulary: int, prompt: int, beams: int) -> dict[str, Any]:
    """Time `generate` with a Python dictionary as the trie, as it is used with it."""
    model, names, blocks, prompts = _shop(vocabulary, prompt)
    rival = Rival(model, names, blocks, prompts, beams)
    theirs = rival.search
    with torch.inference_mode():
        started = time.perf_counter()
        output = theirs()
        seconds = time.perf_counter() - started
        if seconds < 20:  # a warm-up matters only where a search is short
            seconds = min(seconds, best_seconds(theirs, REPEATS))
    items, scores = rival.found(output)
    return {
        "items": items,
        "scores": scores,
        "seconds": seconds,
        "peak_mb": peak_memory_mb(),
    }


def guided(prompt: int, beams: int) -> dict[str, Any]:
    """Time the search with a path scorer that chooses among four times the beams, and without it."""
    model, names, blocks, prompts = _shop(VOCABULARIES[0], prompt)
    backend, constraint = TorchBackend(model, pad_token_id=0, batch_size=USERS), TrieConstraint(names)
    torch.manual_seed(0)
    scorer = PrefixPathScorer(constraint, ScorerShape()).eval().requires_grad_(False)
    histories = np.random.default_rng(1).integers(0, len(names), (USERS, 50)).tolist()
    guide = Guide(scorer, expand_width=4 * beams, context=lambda session: scorer.context(histories, session))
    with_scorer, without = _in_turn(
        lambda: beam_search(backend, prompts, constraint, blocks, num_beams=beams, guide=guide),
        lambda: beam_search(backend, prompts, constraint, blocks, num_beams=beams),
    )
    return {"with": with_scorer, "without": without}


def narrowed(num_items: int) -> dict[str, Any]:
    """Time the search over a random half of the items for each user, filter included, and over all items."""
    model, names, blocks, prompts = _shop(VOCABULARIES[0], prompt=512, num_items=num_items)
    backend, constraint = TorchBackend(model, pad_token_id=0, batch_size=USERS), TrieConstraint(names)
    mask = torch.rand(USERS, num_items, generator=torch.Generator().manual_seed(0)) < 0.5

    def run(**options: Any) -> Any:
        return beam_search(backend, prompts, constraint, blocks, num_beams=50, **options)

    with_filter, without = _in_turn(lambda: run(narrowing=constraint.narrow(mask)), run)
    return {"with": with_filter, "without": without}


def _shop(
    vocabulary: int, prompt: int, num_items: int = 10_000
) -> tuple[Any, Names, list[range], list[list[int]]]:
    """A model of four layers and width 256, names of the items, and prompts of equal length."""
    rng = np.random.default_rng(0)
    every = rng.choice(int(np.prod(SIZES)), num_items, replace=False)
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


def _in_turn(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Run two tasks in turn and return the fastest time of each, after a warm-up of both."""
    best_seconds(first, 1)
    best_seconds(second, 1)
    times = [(best_seconds(first, 1), best_seconds(second, 1)) for _ in range(REPEATS)]
    return min(time for time, _ in times), min(time for _, time in times)


def _compared(
    title: str, ours: dict[str, Any], theirs: dict[str, Any], speed_bar: str, memory_bar: str
) -> dict[str, dict[str, Any]]:
    """Set a search beside transformers', which must have found the same items."""
    if ours["items"] != theirs["items"]:
        raise RuntimeError(f"{title}: the searches found different items; their times do not compare.")
    worst = float(np.abs(np.array(ours["scores"]) - np.array(theirs["scores"])).max())
    speed, memory = theirs["seconds"] / ours["seconds"], theirs["peak_mb"] / ours["peak_mb"]
    return {
        f"{title}: users per second against transformers": figure(speed, "x", speed_bar),
        f"{title}: peak memory of transformers against ours": figure(memory, "x", memory_bar),
        f"{title}: largest difference of a score": figure(worst, "nats", "<= 0.0001"),
    }


def _title(vocabulary: int, prompt: int, beams: int) -> str:
    return f"beam search, vocabulary {vocabulary:,}, {prompt:,} tokens, {beams} beams"


def _task(name: str, *sizes: int) -> dict[str, Any]:
    return other_process("bench_search", "-".join([name, *map(str, sizes)]))


if __name__ == "__main__":
    task, *sizes = sys.argv[1].split("-")
    tasks = {"search": search, "transformers": transformers, "guided": guided, "narrowed": narrowed}
    print(json.dumps(tasks[task](*map(int, sizes))))
