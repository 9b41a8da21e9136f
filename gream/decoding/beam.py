"""The one search for item names: exact scores, real items only, deterministic ties.

Every level adds the log-probabilities of the legal next codes to those of the beams, keeps the best, and
asks the engine for the next level. With a scorer this is the guided search of PROMISE (arXiv 2601.04674,
Algorithm 1): the policy proposes `expand_width` prefixes, the scorer keeps `num_beams` of them. Where
the paper is silent, ours: the log-probability is carried on unchanged, and ties go to the lower node.

Names with unordered codes (REG4Rec, arXiv 2508.15308) are searched by the same loop: every level offers the
codes of all codebooks that a beam has not used, so that the most confident choice of codebook and code wins,
and beams that chose the same codes in another order are merged, see `beams.merged`.

A score is the sum of full-vocabulary log-probabilities over the L tokens of a name, with no renormalisation
over legal tokens and no length penalty: it is the probability that the model itself gives to the name. For
unordered names it is the sum of that over the orders that the search held.

Legend: B users, W beams, K tokens of a level's block, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gream.decoding.backend import Backend, Session, check_prompts
from gream.decoding.beams import Beams, best, merged, without_padding
from gream.decoding.guidance import PathPruner, PathScorer
from gream.errors import InputError
from gream.semantic_ids.paths import Constraint, Narrowing

RULES = ("scorer", "sum", "scorer_then_policy")


@dataclass(frozen=True)
class Guide:
    """A scorer, and how it is heard.

    Rules:
        scorer: it alone keeps and orders, as in PROMISE.
        sum: log-probability plus `weight` times its score keeps and orders (ours).
        scorer_then_policy: it alone keeps, and the log-probability orders the list (ours).
    """

    scorer: PathScorer
    expand_width: int  # prefixes that the policy proposes at a level where the scorer keeps
    context: Callable[[Session], object] = lambda session: None  # what the scorer is given with every level
    rule: str = "scorer"
    weight: float = 1.0
    levels: Collection[int] | None = None  # where it keeps; elsewhere the search is plain. None: everywhere

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"`rule` is {self.rule!r}, but only {', '.join(RULES)} are known; choose one.")

    def keeps(self, level: int) -> bool:
        """Say whether the scorer keeps the beams of a level."""
        return self.levels is None or level in self.levels

    def value(self, beams: Beams) -> Tensor:
        """Give what beams (B, W) with scores are kept by; -inf for padding."""
        assert beams.scores is not None
        value = beams.logps + self.weight * beams.scores if self.rule == "sum" else beams.scores
        return value.masked_fill(beams.logps == -torch.inf, -torch.inf)


@dataclass(frozen=True)
class BeamResult:
    """What the search found for one user, best first: at most `num_beams` items, all of them real."""

    items: np.ndarray  # (W,) int64
    logps: np.ndarray  # (W,) float32
    scores: np.ndarray | None  # (W,) float32, the scorer's at the last level; None where it did not keep
    kept: tuple[np.ndarray, ...]  # for each level the nodes that were kept, in ascending order
    pruned: tuple[np.ndarray, ...]  # for each level the nodes that a pruner dropped, in ascending order
    tokens: np.ndarray | None = None  # (W, L) of each name as the search chose them; None in a merged list


@torch.inference_mode()
def beam_search(
    backend: Backend,
    prompts: list[list[int]],
    constraint: Constraint,
    blocks: list[range],
    *,
    num_beams: int,
    guide: Guide | None = None,
    pruner: PathPruner | None = None,
    narrowing: Narrowing | None = None,
) -> list[BeamResult]:
    """Find the best items after each prompt; B users are searched together, one result for each.

    Args:
        backend: the engine that gives the log-probabilities.
        prompts: token ids for each user; the next token is the first of a name.
        constraint: the names of the catalogue; the bookkeeping runs on its device.
        blocks: for each level the vocabulary ids of its columns, see `Prompter.search_blocks`.
        num_beams: prefixes kept for each user and level, and the most items that come back.
        guide: a scorer that keeps `num_beams` of more prefixes that the policy proposes.
        pruner: drops beams before their next step.
        narrowing: the items that each user may get, of `Constraint.narrow`; all without it.

    Raises:
        InputError: widths that do not fit each other, or an empty prompt.
        ValueError: numbers that are not finite, or a user without a legal path.
    """
    _check_options(prompts, constraint, blocks, num_beams, guide)
    if not prompts:
        return []
    session = backend.start(prompts, keep_states=guide is not None and guide.scorer.reads_states)
    context = guide.context(session) if guide else None
    beams = Beams.roots(len(prompts), constraint.device)
    kept: list[Beams] = []
    pruned: list[Beams] = []
    faults = torch.zeros(3, dtype=torch.bool, device=constraint.device)
    for level, block in enumerate(blocks):
        logps = _scored_by_engine(session, beams, level, block).to(constraint.device)
        guided = guide is not None and guide.keeps(level)
        width = guide.expand_width if guide and guided else num_beams
        beams, faulty = _expand(beams, logps, constraint, level, block, width, narrowing)
        faults[:2] |= faulty
        if guide and guided:
            scores = guide.scorer.score(context, level, beams.nodes).to(beams.logps)
            faults[2] |= (~torch.isfinite(scores) & (beams.logps > -torch.inf)).any()
            beams = replace(beams, scores=scores)
            beams = beams.take(best(guide.value(beams), num_beams))
        if pruner is not None and level < len(blocks) - 1:
            reach = constraint.reach(beams.nodes, level, narrowing)
            beams, dropped = _prune(beams, pruner, level, reach, num_beams)
            pruned.append(dropped)
        kept.append(beams)
    _refuse(faults)
    return _ranked(beams, kept, pruned, constraint, guide if guided else None)


def check_levels(levels: Collection[int], depth: int) -> None:
    """Refuse levels of a scorer that names of `depth` codes do not have.

    Raises:
        InputError: there is one.
    """
    beyond = [level for level in levels if not 0 <= level < depth]
    if beyond:
        raise InputError(
            f"The scorer is to keep at level {beyond[0]}, but names of {depth} codes have the "
            f"levels 0 to {depth - 1}; choose among these."
        )


def _check_options(
    prompts: list[list[int]],
    constraint: Constraint,
    blocks: list[range],
    num_beams: int,
    guide: Guide | None,
) -> None:
    check_prompts(prompts)
    if num_beams < 1:
        raise InputError(f"`num_beams` is {num_beams}, but a search needs at least 1; raise it.")
    if guide is not None and guide.expand_width < num_beams:
        raise InputError(
            f"`expand_width` is {guide.expand_width}, but {num_beams} beams are kept of it; "
            "make it at least `num_beams`."
        )
    check_levels((guide and guide.levels) or (), constraint.depth)
    if len(blocks) != constraint.depth:
        raise ValueError(f"{len(blocks)} blocks were given for names of {constraint.depth} codes")


def _scored_by_engine(session: Session, beams: Beams, level: int, block: range) -> Tensor:
    """Ask for the log-probabilities of a level's columns after every beam: (B, W, K)."""
    if level == 0:
        return session.first(block)[:, None]
    return session.step(beams.parents, beams.tokens, block)


def _expand(
    beams: Beams,
    logps: Tensor,
    constraint: Constraint,
    level: int,
    block: range,
    width: int,
    narrowing: Narrowing | None,
) -> tuple[Beams, Tensor]:
    """Keep the `width` best children of (B, W) beams, given (B, W, K) numbers; faults come as (2,) bool.

    Where several beams may lead to one path, so many more are held until they are merged, that the best paths
    are among them whatever their orders are.
    """
    last = level == constraint.depth - 1
    items = constraint.finish(beams.nodes, narrowing) if last else None
    legal = constraint.legal(beams.nodes, level, narrowing) if items is None else items >= 0
    broken = (legal & ~torch.isfinite(logps)).any()
    sums = (beams.logps[:, :, None] + logps).masked_fill(~legal, -torch.inf).flatten(1)  # (B, W * K)
    # From the last level on ties go to the lower item; before it to the lower node, which is the leftmost.
    columns = best(sums, width * constraint.orders(level), None if items is None else items.flatten(1))
    logps = sums.gather(1, columns)
    faults = torch.stack([broken, (logps == -torch.inf).all(dim=1).any()])
    columns = without_padding(columns, logps)
    parents, places = columns // len(block), columns % len(block)
    nodes = constraint.follow(beams.nodes.gather(1, parents), places, level)
    children = Beams(nodes, logps, parents, places + block.start)
    if constraint.orders(level) > 1:
        children = merged(children)
        children = children.take(best(children.logps, width))
    return children, faults


def _prune(
    beams: Beams, pruner: PathPruner, level: int, reach: Tensor, num_beams: int
) -> tuple[Beams, Beams]:
    """Split beams into those that go on and those that are dropped; both keep their order."""
    real = beams.logps > -torch.inf
    keep = pruner.keep(level, beams.nodes, beams.logps, reach, num_beams).to(real.device) & real  # (B, W)
    if not keep.any(dim=1).all():
        raise ValueError(f"The pruner dropped every beam of a user after level {level}; it must keep one")
    left = replace(beams, logps=beams.logps.masked_fill(~keep, -torch.inf))
    dropped = replace(beams, logps=beams.logps.masked_fill(keep, -torch.inf))
    # Waiting for the device pays here: the beams that are dropped cost no step of the model.
    return left.take(best(keep.long(), int(keep.sum(dim=1).max()))), dropped


def _refuse(faults: Tensor) -> None:
    """Raise what went wrong at any level; asked once at the end, so that no level waits for the device."""
    engine, paths, scorer = faults.tolist()
    # A legal code without a finite number would silently vanish from every list.
    if engine:
        raise ValueError(
            "The engine gave a log-probability that is not finite; the model's weights are broken"
        )
    if paths:
        raise ValueError("A user has no legal path left; the narrowing does not come from this constraint")
    if scorer:
        raise ValueError("The scorer gave a score that is not finite; its weights are broken")


def _ranked(
    beams: Beams, kept: list[Beams], pruned: list[Beams], constraint: Constraint, guide: Guide | None
) -> list[BeamResult]:
    """Order each user's items and leave the padding out; `guide` is None where it did not keep at the end.

    The columns of the last level ascend in the item, so that a stable sort gives ties to the lower one.
    """
    by_score = guide is not None and guide.rule != "scorer_then_policy"
    rank = guide.value(beams) if guide and by_score else beams.logps
    beams = beams.take(rank.argsort(dim=1, descending=True, stable=True))
    tokens = _tokens(beams, kept).cpu().numpy()
    items = constraint.item_of(beams.nodes).cpu().numpy()
    logps = beams.logps.cpu().numpy()
    scores = None if beams.scores is None or guide is None else beams.scores.cpu().numpy()
    levels, drops = _on_host(kept), _on_host(pruned)
    return [
        BeamResult(
            items=items[user, real],
            logps=logps[user, real],
            scores=None if scores is None else scores[user, real],
            kept=tuple(np.sort(nodes[user, legal[user]]) for nodes, legal in levels),
            pruned=tuple(np.sort(nodes[user, legal[user]]) for nodes, legal in drops),
            tokens=tokens[user, real],
        )
        for user, real in enumerate(np.isfinite(logps))
    ]


def _tokens(beams: Beams, kept: list[Beams]) -> Tensor:
    """Trace the beams of the last level back: (B, W, L) vocabulary ids, in the order they were chosen."""
    tokens, parents = [beams.tokens], beams.parents
    for before in reversed(kept[:-1]):
        tokens.append(before.tokens.gather(1, parents))
        parents = before.parents.gather(1, parents)
    return torch.stack(tokens[::-1], dim=2)


def _on_host(levels: list[Beams]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Copy the nodes of every level, and which of them are no padding."""
    return [(beams.nodes.cpu().numpy(), (beams.logps > -torch.inf).cpu().numpy()) for beams in levels]
