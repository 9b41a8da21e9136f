"""Recommend in both modes: what evaluation, the command line, Python and the service all go through.

Direct mode: the prompt, then the constrained beam. Reasoning mode: `num_chains` sampled chains for each
user, then the constrained beam after each, merged over the chains: a chain is a draw from the policy, so
the mean of the items' probabilities over chains estimates their probability under the policy. GREAM ranks
whole sampled texts by their log-probability and keeps names that do not exist; the beam after the chain
is ours.

Legend: B users, W beams, N items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gream.decoding.backend import Backend
from gream.decoding.beam import BeamResult, beam_search
from gream.decoding.path_scorer import PrefixPathScorer, load_scorer
from gream.errors import InputError
from gream.language.prompting import ANSWER_START, THINK_END, Prompter
from gream.language.vocab import load_model, load_tokenizer
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, load_names

MODES = ("direct", "reasoning")
ENGINES = ("torch", "vllm")


@dataclass(frozen=True)
class Search:
    """Settings of one recommendation; the defaults are those of direct mode without a scorer."""

    k: int = 10
    mode: str = "direct"
    num_beams: int = 20
    expand_width: int | None = None  # prefixes that the policy proposes to the scorer; None: no scorer
    rule: str = "scorer"  # final order with a scorer: "scorer", or "sum" with the log-probability
    num_chains: int = 1
    max_chain_tokens: int = 256
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode is {self.mode!r}; give one of {', '.join(MODES)}.")
        for name in ("k", "num_beams", "num_chains", "max_chain_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give at least 1.")
        if self.expand_width is not None and self.expand_width < self.num_beams:
            raise InputError(
                f"expand_width is {self.expand_width}, but the scorer must keep num_beams = {self.num_beams} "
                "prefixes; give at least that many."
            )


@dataclass(frozen=True)
class Engine:
    """A loaded model with all that the search needs."""

    backend: Backend
    prompter: Prompter
    constraint: TrieConstraint
    names: Names
    scorer: PrefixPathScorer | None = None


@dataclass(frozen=True)
class Answer:
    """The recommendations for one user, best first.

    `chain_of[i]` is the chain that gave item i its highest probability; `chain_tops` the best item of
    each chain alone; `tokens` the generated tokens, chains included.
    """

    items: np.ndarray  # (k',) int64
    logps: np.ndarray  # (k',) float32
    scores: np.ndarray | None  # (k',) float32, the scorer's
    chains: list[str] = field(default_factory=list)
    chain_of: list[int] = field(default_factory=list)
    chain_tops: list[int] = field(default_factory=list)
    tokens: int = 0


def load_engine(
    sids: Path, model: Path, scorer: Path | None = None, *, engine: str = "torch", max_history: int = 20
) -> Engine:
    """Load names, model and scorer for an engine.

    Raises:
        InputError: unknown engine, or folders that do not belong together.
    """
    names = load_names(sids)
    backend, tokenizer = _backend(engine, model, names)
    return Engine(
        backend,
        Prompter(tokenizer, names, max_history=max_history),
        TrieConstraint(names),
        names,
        load_scorer(scorer, names) if scorer else None,
    )


def recommend_many(
    engine: Engine,
    histories: Sequence[Sequence[int]],
    search: Search,
    *,
    allowed: torch.Tensor | None = None,
    batch_size: int = 256,
) -> list[Answer]:
    """Recommend for many users, in their order.

    Args:
        engine: what `load_engine` gave.
        histories: dense item ids of each user, oldest first.
        search: settings of the search.
        allowed: (B, N) bool, the items that may be recommended to each user; None allows all.
        batch_size: prompts of one search (a user has one for each chain); the engine may split them further.

    Raises:
        InputError: an empty history, a user without any allowed item, or a scorer asked for and not loaded.
    """
    if search.expand_width is not None and engine.scorer is None:
        raise InputError("expand_width needs a scorer, and none is loaded; give the folder of `gream prm`.")
    answer = _reason if search.mode == "reasoning" else _direct
    answers: list[Answer] = []
    progress = tqdm(total=len(histories), desc=search.mode, unit="user", disable=None)
    # All caches of one search live together, so the prompts of one batch are bounded, chains included.
    size = max(1, batch_size // (search.num_chains if search.mode == "reasoning" else 1))
    for start in range(0, len(histories), size):
        part = slice(start, start + size)
        mask = None if allowed is None else engine.constraint.alive(allowed[part])
        answers += answer(engine, histories[part], search, mask, search.seed + start)
        progress.update(len(histories[part]))
    progress.close()
    return answers


def _direct(
    engine: Engine, histories: Sequence[Sequence[int]], search: Search, alive: torch.Tensor | None, seed: int
) -> list[Answer]:
    prompts = [engine.prompter.direct(history) for history in histories]
    tokens = engine.names.layout.num_codebooks
    return [
        Answer(
            found.items[: search.k],
            found.logps[: search.k],
            None if found.scores is None else found.scores[: search.k],
            tokens=tokens,
        )
        for found in _beam(engine, prompts, histories, search, alive)
    ]


def _reason(
    engine: Engine, histories: Sequence[Sequence[int]], search: Search, alive: torch.Tensor | None, seed: int
) -> list[Answer]:
    prompter, chains = engine.prompter, search.num_chains
    owners = [user for user in range(len(histories)) for _ in range(chains)]
    prompts = [prompter.reasoning(histories[user]) for user in owners]
    written = engine.backend.complete(
        prompts,
        stop=prompter.answer_start,
        max_tokens=search.max_chain_tokens,
        temperature=search.temperature,
        seed=seed,
    )
    # A chain that ran out of tokens is closed by force: the answer that follows is a real item all the same.
    closing = prompter.encode(f"\n{THINK_END}\n{ANSWER_START}")
    closed = [w if w and w[-1] == prompter.answer_start else w + closing for w in written]
    found = _beam(
        engine,
        [prompt + chain for prompt, chain in zip(prompts, closed, strict=True)],
        [histories[user] for user in owners],
        search,
        None if alive is None else alive[torch.tensor(owners)],
    )
    texts = [prompter.tokenizer.decode(w).removesuffix(ANSWER_START).rstrip() for w in written]
    tokens = [len(w) + engine.names.layout.num_codebooks for w in closed]
    return [
        merge_chains(found[i : i + chains], texts[i : i + chains], sum(tokens[i : i + chains]), search)
        for i in range(0, len(owners), chains)
    ]


def merge_chains(found: Sequence[BeamResult], texts: list[str], tokens: int, search: Search) -> Answer:
    """Merge the lists of one user's chains by the mean probability of each item over the chains.

    An item that a chain's beam did not hold counts there with probability zero.
    """
    by_chain: dict[int, dict[int, float]] = defaultdict(dict)
    scores: dict[int, float] = {}
    for chain, result in enumerate(found):
        for rank, item in enumerate(result.items.tolist()):
            by_chain[item][chain] = float(result.logps[rank])
            if result.scores is not None:
                scores[item] = float(result.scores[rank])
    merged = {
        item: float(np.logaddexp.reduce(list(logps.values()))) - float(np.log(len(found)))
        for item, logps in by_chain.items()
    }
    ranking = {item: _final(merged[item], scores.get(item), search.rule) for item in merged}
    order = sorted(ranking, key=lambda item: (-ranking[item], item))[: search.k]
    return Answer(
        np.asarray(order, dtype=np.int64),
        np.asarray([merged[i] for i in order], dtype=np.float32),
        np.asarray([scores[i] for i in order], dtype=np.float32) if scores else None,
        texts,
        [max(by_chain[i], key=lambda c: (by_chain[i][c], -c)) for i in order],
        [int(result.items[0]) for result in found],
        tokens,
    )


def _final(logp: float, score: float | None, rule: str) -> float:
    if score is None:
        return logp
    return logp + score if rule == "sum" else score


def _beam(
    engine: Engine,
    prompts: list[list[int]],
    histories: Sequence[Sequence[int]],
    search: Search,
    alive: torch.Tensor | None,
) -> list[BeamResult]:
    guided = search.expand_width is not None
    scorer = engine.scorer if guided else None
    return beam_search(
        engine.backend,
        prompts,
        engine.constraint,
        [engine.prompter.level_block(level) for level in range(engine.names.layout.num_codebooks)],
        num_beams=max(search.num_beams, search.k),
        expand_width=max(search.expand_width or 0, search.k) if guided else None,
        scorer=scorer,
        context=scorer.context(list(histories)) if scorer is not None else None,
        alive=alive,
        rule=search.rule,
    )


def _backend(engine: str, folder: Path, names: Names) -> tuple[Backend, Any]:
    """Load the engine over a model folder, and the folder's tokenizer."""
    if engine == "torch":
        from gream.decoding.torch_backend import TorchBackend

        model, tokenizer = load_model(folder, names)
        return TorchBackend(model, tokenizer.pad_token_id), tokenizer
    if engine == "vllm":
        from gream.decoding.vllm_backend import VllmBackend

        tokenizer = load_tokenizer(folder, names)
        return VllmBackend(folder), tokenizer
    raise InputError(f"engine is {engine!r}; give one of {', '.join(ENGINES)}.")
