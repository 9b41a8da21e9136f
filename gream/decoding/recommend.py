"""Recommend in both modes: what evaluation, the command line, Python and the service all go through.

Direct mode: the prompt, then the constrained beam. Reasoning mode: sampled chains for each user, then the
constrained beam after each, see `gream.decoding.chains`.

Legend: B users, W beams, N items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from gream.artifacts import fingerprint
from gream.data.store import Catalogue
from gream.decoding.answer import Answer
from gream.decoding.backend import Backend
from gream.decoding.beam import RULES, BeamResult, Guide, beam_search
from gream.decoding.chains import CHOICES, WatchChain, reason
from gream.decoding.consistency import CategoryPruner, item_categories
from gream.decoding.engines import open_backend
from gream.decoding.guidance import PathPruner
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import load_scorer
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import load_tokenizer
from gream.processes import ALONE, Team, no_bar
from gream.semantic_ids.constraint_file import load_constraint
from gream.semantic_ids.layout import Names, load_names
from gream.semantic_ids.paths import Constraint, Narrowing

MODES = ("direct", "reasoning")


@dataclass(frozen=True)
class Search:
    """Settings of one recommendation; the defaults are those of direct mode without a scorer."""

    k: int = 10
    mode: str = "direct"
    num_beams: int = 20
    expand_width: int | None = None  # prefixes that the policy proposes to the scorer; None: no scorer
    rule: str = "scorer"  # how a scorer keeps and orders, see `gream.decoding.beam`
    scorer_weight: float = 1.0  # of the scorer in the rule "sum"
    scorer_levels: tuple[int, ...] | None = None  # levels where the scorer keeps; None: all
    prune_threshold: float | None = None  # least consistency of a path, 0 to 1; None: no pruning
    prune_level: int | None = None  # level after which paths are pruned; None: before the last expansion
    num_chains: int = 1
    max_chain_tokens: int = 256
    temperature: float = 0.7
    choose: str = "merge"  # what becomes of several chains: "merge" them, or take the "best" by the scorer
    agree: int = 0  # chains with the same first item after which no more are written; 0 writes all
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
        for name in ("temperature", "scorer_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} is {value}; give a number of at least 0.")
        if self.rule not in RULES:
            raise InputError(f"rule is {self.rule!r}; give one of {', '.join(RULES)}.")
        if self.choose not in CHOICES:
            raise InputError(f"choose is {self.choose!r}; give one of {', '.join(CHOICES)}.")
        if not 0 <= self.agree <= self.num_chains:
            raise InputError(
                f"agree is {self.agree}, but of {self.num_chains} chains; give 0 to {self.num_chains}."
            )


@dataclass(frozen=True)
class _Limits:
    """What one batch of searches leaves out: inconsistent paths, and items that its users may not get."""

    pruner: PathPruner | None
    narrowing: Narrowing | None


@dataclass(frozen=True)
class Engine:
    """A loaded model with all that the search needs."""

    backend: Backend
    prompter: Prompter
    constraint: Constraint
    names: Names
    scorer: PrefixPathScorer | None = None
    categories: np.ndarray | None = None  # (N,) int64, -1 where unknown; what a path is pruned by
    model: str = ""  # hash of the model's folder


def load_engine(
    sids: Path,
    model: Path,
    scorer: Path | None = None,
    *,
    engine: str = "torch",
    url: str = "",
    concurrent: bool = False,
    max_history: int = 20,
    catalogue: Catalogue | None = None,
    purchases: Sequence[np.ndarray] | None = None,
    before: Engine | None = None,
) -> Engine:
    """Load names, model and scorer for an engine.

    Args:
        sids: folder of the names.
        model: folder of the model.
        scorer: folder of the path scorer; None: there is none.
        engine: torch, vllm (in this process), or openai (vLLM servers that run elsewhere).
        url: of the servers, with commas between; for the engine openai, and for no other.
        concurrent: threads will call the backend at the same time. Then vLLM answers them together, in
            processes of its own, which take long to start; openai always does; torch never can.
        max_history: purchases that a prompt shows.
        catalogue: for its categories, which pruning needs.
        purchases: those that a scorer may count which counts co-purchases.
        before: an engine of the same kind whose loaded model is taken over, where the folder holds the same.

    Raises:
        InputError: unknown engine, one that cannot be reached, or folders that do not belong together.
    """
    names = load_names(sids)
    digest = fingerprint(model)
    if before is not None and before.model == digest:  # with more items, for example
        backend, tokenizer = before.backend, load_tokenizer(model, names)
    else:
        backend, tokenizer = open_backend(engine, model, names, url=url, concurrent=concurrent)
    return Engine(
        backend,
        Prompter(tokenizer, names, max_history=max_history),
        load_constraint(sids, names).to(backend.device),
        names,
        load_scorer(scorer, names, purchases).to(backend.device) if scorer else None,
        None if catalogue is None else item_categories(catalogue.categories),
        digest,
    )


def recommend_many(
    engine: Engine,
    histories: Sequence[Sequence[int]],
    search: Search,
    *,
    allowed: Callable[[slice], torch.Tensor | None] | None = None,
    batch_size: int = 256,
    numbers: Sequence[int] | None = None,
    watch: WatchChain | None = None,
    team: Team = ALONE,
) -> list[Answer]:
    """Recommend for many users, in their order.

    Args:
        engine: what `load_engine` gave.
        histories: dense item ids of each user, oldest first.
        search: settings of the search.
        allowed: gives for a slice of the users what may be recommended to each of them, (B', N) bool, so that
            only the mask of one batch is ever there; None, given or returned, allows all.
        batch_size: prompts of one search (a user has one for each chain); the engine may split them further.
        numbers: of the users, from which the seeds of their chains are made; None: their places.
        watch: told of the chains while they are written, with the places of their users.
        team: processes that share the batches out; the main one gets all answers, the others none.

    Raises:
        InputError: an empty history, a user without any allowed item, or a scorer or categories that are
            asked for and not loaded.
    """
    if search.expand_width is not None and engine.scorer is None:
        raise InputError("expand_width needs a scorer, and none is loaded; give the folder of `gream prm`.")
    pruner = _pruner(engine, search)
    answer = _reason if search.mode == "reasoning" else _direct
    # All caches of one search live together, so the prompts of one batch are bounded, chains included.
    size = max(1, batch_size // (search.num_chains if search.mode == "reasoning" else 1))
    starts = range(0, len(histories), size)
    users = sum(len(histories[start : start + size]) for start in team.share(starts))
    progress = tqdm(total=users, desc=search.mode, unit="user", disable=no_bar(), leave=False)

    def answered(start: int) -> list[Answer]:
        part = slice(start, start + size)
        mask = allowed(part) if allowed else None
        narrowing = None if mask is None else engine.constraint.narrow(mask)
        seeds = numbers[part] if numbers is not None else range(start, start + len(histories[part]))
        told = watch and _from(watch, start)
        found = answer(engine, histories[part], search, _Limits(pruner, narrowing), seeds, told)
        progress.update(len(found))
        return found

    with progress:
        return [one for batch in team.share_out(starts, answered) for one in batch]


def _from(watch: WatchChain, start: int) -> WatchChain:
    """Count users from the first of all, not of the batch."""
    return lambda place, number, tokens: watch(start + place, number, tokens)


def _direct(
    engine: Engine, histories: Sequence[Sequence[int]], search: Search, limits: _Limits, *_: object
) -> list[Answer]:
    prompts = [engine.prompter.direct(history) for history in histories]
    tokens = engine.names.layout.num_codebooks
    return [
        Answer(
            found.items[: search.k],
            found.logps[: search.k],
            None if found.scores is None else found.scores[: search.k],
            tokens=tokens,
            kept=found.kept,
            pruned=found.pruned,
        )
        for found in _beam(engine, prompts, histories, search, limits)
    ]


def _reason(
    engine: Engine,
    histories: Sequence[Sequence[int]],
    search: Search,
    limits: _Limits,
    numbers: Sequence[int],
    watch: WatchChain | None,
) -> list[Answer]:
    def find(prompts: list[list[int]], places: list[int]) -> list[BeamResult]:
        mask = limits.narrowing and limits.narrowing.take(places)
        found = replace(limits, narrowing=mask)
        return _beam(engine, prompts, [histories[place] for place in places], search, found)

    return reason(engine.backend, engine.prompter, histories, search, find, users=numbers, watch=watch)


def _beam(
    engine: Engine,
    prompts: list[list[int]],
    histories: Sequence[Sequence[int]],
    search: Search,
    limits: _Limits,
) -> list[BeamResult]:
    num_beams = max(search.num_beams, search.k)
    return beam_search(
        engine.backend,
        prompts,
        engine.constraint,
        engine.prompter.search_blocks(),
        num_beams=num_beams,
        guide=_guide(engine, histories, search, num_beams),
        pruner=limits.pruner,
        narrowing=limits.narrowing,
    )


def _guide(
    engine: Engine, histories: Sequence[Sequence[int]], search: Search, num_beams: int
) -> Guide | None:
    if search.expand_width is None or engine.scorer is None:
        return None
    scorer = engine.scorer
    return Guide(
        scorer,
        max(search.expand_width, num_beams),
        lambda session: scorer.context(list(histories), session),
        search.rule,
        search.scorer_weight,
        search.scorer_levels,
    )


def _pruner(engine: Engine, search: Search) -> PathPruner | None:
    if search.prune_threshold is None:
        return None
    if engine.categories is None:
        raise InputError("prune_threshold needs the items' categories; load the engine with the catalogue.")
    return CategoryPruner(
        engine.constraint,
        engine.categories,
        threshold=search.prune_threshold,
        level=search.prune_level,
        list_length=search.k,
    )
