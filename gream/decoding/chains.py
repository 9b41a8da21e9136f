"""Reasoning mode: several sampled chains for each user, the constrained search after each, one list of all.

The chains of all users are written in one go, each up to `<answer>` or cut at a budget of tokens and closed
by force; the search that follows is that of direct mode, so that every item is real. What becomes of the
lists of a user is a setting:

- merge: the mean probability of each item over the chains. A chain is a draw from the policy, so the mean
  estimates the item's probability under the policy.
- best: best-of-n by the scorer. The list of the chain whose first item the scorer likes best is the answer.

With `agree` = m the chains come in two rounds: m for everybody, then the rest only for those whose first m
chains do not all put the same item first. A chain's seed is its user's and its own number, so that early
stopping leaves chains out and changes none. The rounds are ours; the second one prefills the prompts of its
users again, which costs less than to hold the caches of all users meanwhile.

GREAM (arXiv 2510.20815) ranks whole sampled texts by their log-probability and keeps names that do not
exist; the search after the chain, the merge and the choice by the scorer are ours.

Legend: B users, G chains of a user.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gream.decoding.answer import Answer
from gream.decoding.backend import Backend, Watch
from gream.decoding.beam import BeamResult
from gream.errors import InputError
from gream.language.prompting import ANSWER_START, THINK_END, History, Prompter

if TYPE_CHECKING:
    from gream.decoding.recommend import Search

CHOICES = ("merge", "best")

# The search after prompts, each of the user with that number; one result for each prompt.
Find = Callable[[list[list[int]], list[int]], list[BeamResult]]

# Told of a chain while it is written: the user's place, the chain's number, its tokens so far
WatchChain = Callable[[int, int, list[int]], None]


@dataclass(frozen=True)
class Chain:
    """One chain of one user."""

    text: str  # without `<answer>`
    tokens: int  # that were sampled, and the codes of the name after them
    found: BeamResult  # the search after it


def reason(
    backend: Backend,
    prompter: Prompter,
    histories: Sequence[History],
    search: Search,
    find: Find,
    *,
    users: Sequence[int],
    watch: WatchChain | None = None,
) -> list[Answer]:
    """Recommend for B users in reasoning mode.

    Args:
        backend: writes the chains.
        prompter: writes the prompts.
        histories: dense item ids of each user, oldest first.
        search: settings; of the lists too.
        find: the constrained search.
        users: number of each user among all users of the run, from which the seeds are made: a user's chains
            do not depend on how the run is cut into batches.
        watch: told of the chains while they are written; what it raises ends the call.

    Raises:
        InputError: the best chain is asked for, and no scorer judges the lists.
    """
    codes = prompter.names.layout.num_codebooks
    _check_choice(search, codes)
    prompts = [prompter.reasoning(history) for history in histories]
    chains: list[list[Chain]] = [[] for _ in histories]
    for numbers in _rounds(search):
        places = [place for place, of_user in enumerate(chains) if not _agree(of_user)]
        if not places:
            break
        seeds = [[chain_seed(search.seed, users[place], number) for number in numbers] for place in places]
        told = watch and _told(watch, places, numbers.start)
        written = _write(backend, prompter, [prompts[place] for place in places], seeds, search, told)
        owners = [place for place, texts in zip(places, written, strict=True) for _ in texts]
        flat = [text for texts in written for text in texts]
        found = find(
            [prompts[user] + _closed(prompter, text) for user, text in zip(owners, flat, strict=True)], owners
        )
        for user, text, result in zip(owners, flat, found, strict=True):
            chains[user].append(Chain(readable_text(prompter, text), len(text) + codes, result))
    settle = best_chain if search.choose == "best" else merge_chains
    return [settle(of_user, search) for of_user in chains]


def chain_seed(seed: int, user: int, number: int) -> int:
    """Derive the seed of one chain of one user from the seed of the run."""
    return int(np.random.SeedSequence([seed, user, number]).generate_state(1)[0])


def merge_chains(chains: Sequence[Chain], search: Search) -> Answer:
    """Merge the lists of one user's chains by the mean probability of each item over the chains.

    The log-sum-exp of the item's log-probabilities, less the logarithm of the number of chains that were
    written. An item that a chain's search did not hold counts there with probability zero. With a scorer, an
    item's score is that of the chain that gave it its highest probability.
    """
    by_chain: dict[int, dict[int, float]] = defaultdict(dict)
    scores: list[dict[int, float]] = []
    for number, chain in enumerate(chains):
        found = chain.found
        for item, logp in zip(found.items.tolist(), found.logps.tolist(), strict=True):
            by_chain[item][number] = logp
        if found.scores is not None:
            scores.append(dict(zip(found.items.tolist(), found.scores.tolist(), strict=True)))
    merged = {
        item: float(np.logaddexp.reduce(list(logps.values()))) - float(np.log(len(chains)))
        for item, logps in by_chain.items()
    }
    chain_of = {item: max(logps, key=lambda c: (logps[c], -c)) for item, logps in by_chain.items()}
    ranking = {
        item: _rank(logp, scores[chain_of[item]][item] if scores else None, search)
        for item, logp in merged.items()
    }
    order = sorted(ranking, key=lambda item: (-ranking[item], item))[: search.k]
    result = BeamResult(
        np.asarray(order, dtype=np.int64),
        np.asarray([merged[item] for item in order], dtype=np.float32),
        np.asarray([scores[chain_of[item]][item] for item in order], dtype=np.float32) if scores else None,
        kept=(),
        pruned=(),
    )
    return _answer(result, [chain_of[item] for item in order], chains, search)


def best_chain(chains: Sequence[Chain], search: Search) -> Answer:
    """Choose the chain whose first item has the highest score; ties go to the earlier chain.

    A scorer that looks at the history judges all chains of a user alike; one that looks at the policy's
    states has read the chain too, and compares item and chain together.
    """
    judged = [chain.found.scores[0] for chain in chains if chain.found.scores is not None]
    assert len(judged) == len(chains), "best-of-n needs scores"
    chosen = int(np.argmax(judged))  # the first of equal ones
    found = chains[chosen].found
    return _answer(found, [chosen] * len(found.items), chains, search)


def _check_choice(search: Search, num_levels: int) -> None:
    levels = range(num_levels) if search.scorer_levels is None else search.scorer_levels
    if search.choose == "best" and (search.expand_width is None or num_levels - 1 not in levels):
        raise InputError(
            "choose is 'best', but no scorer judges the last level of the names; give a scorer and "
            "expand_width, or choose 'merge'."
        )


def _rounds(search: Search) -> list[range]:
    """Say which chains are written together."""
    first = search.agree or search.num_chains
    rounds = [range(first), range(first, search.num_chains)]
    return [numbers for numbers in rounds if numbers]


def _agree(chains: Sequence[Chain]) -> bool:
    return len(set(_tops(chains))) == 1


def _told(watch: WatchChain, places: Sequence[int], first: int) -> Watch:
    """Turn the tokens of prompts into chains of users."""
    so_far: dict[tuple[int, int], list[int]] = defaultdict(list)

    def tell(row: int, text: int, tokens: list[int]) -> None:
        written = so_far[row, text]
        written += tokens
        watch(places[row], first + text, written)

    return tell


def _write(
    backend: Backend,
    prompter: Prompter,
    prompts: list[list[int]],
    seeds: list[list[int]],
    search: Search,
    watch: Watch | None,
) -> list[list[list[int]]]:
    return backend.complete(
        prompts,
        seeds=seeds,
        stop=prompter.answer_start,
        max_tokens=search.max_chain_tokens,
        temperature=search.temperature,
        watch=watch,
    )


def _closed(prompter: Prompter, text: list[int]) -> list[int]:
    """Close a chain that ran out of tokens by force: the answer that follows is a real item all the same."""
    if text[-1] == prompter.answer_start:
        return text
    return text + prompter.encode(f"\n{THINK_END}\n{ANSWER_START}")


def readable_text(prompter: Prompter, text: list[int]) -> str:
    """Decode the tokens of a chain, without the tag that begins the answer."""
    decoded: str = prompter.tokenizer.decode(text)
    return decoded.removesuffix(ANSWER_START).rstrip()


def _rank(logp: float, score: float | None, search: Search) -> float:
    """Give what an item of a merged list is ordered by, under the rule of the search."""
    if score is None or search.rule == "scorer_then_policy":
        return logp
    return logp + search.scorer_weight * score if search.rule == "sum" else score


def _answer(found: BeamResult, chain_of: list[int], chains: Sequence[Chain], search: Search) -> Answer:
    """Cut one list of items to length, and say beside it what each chain gave."""
    k = search.k
    return Answer(
        found.items[:k],
        found.logps[:k],
        None if found.scores is None else found.scores[:k],
        chains=[chain.text for chain in chains],
        chain_of=chain_of[:k],
        chain_tops=_tops(chains),
        chain_lists=[chain.found.items for chain in chains],
        chain_logps=[chain.found.logps for chain in chains],
        chain_tokens=[chain.tokens for chain in chains],
        chain_kept=[chain.found.kept for chain in chains],
        chain_pruned=[chain.found.pruned for chain in chains],
        tokens=sum(chain.tokens for chain in chains),
    )


def _tops(chains: Sequence[Chain]) -> list[int]:
    return [int(chain.found.items[0]) for chain in chains]
