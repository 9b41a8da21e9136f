"""The one search for item names: exact scores, a real trie, deterministic ties.

Every level adds the log-probabilities of the legal next codes to those of the beams, keeps the best, and
asks the engine for the next level. With a scorer this is the guided search of PROMISE (arXiv 2601.04674,
Algorithm 1): the policy proposes `expand_width` prefixes, the scorer alone keeps `num_beams` of them. Where
the paper is silent, ours: the log-probability is carried on unchanged, and ties go to the lower trie node.

A score is the sum of full-vocabulary log-probabilities over the L tokens of a name, with no renormalisation
over legal tokens and no length penalty: it is the probability that the model itself gives to the name.

Legend: B users, W beams, C children of a beam, K tokens of a level's block, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from gream.decoding.backend import Backend, check_prompts
from gream.decoding.guidance import PathPruner, PathScorer
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint

RULES = ("scorer", "sum")


@dataclass(frozen=True)
class BeamResult:
    """What the search found for one user, best first: at most `num_beams` items, all of them real."""

    items: np.ndarray  # (W,) int64
    logps: np.ndarray  # (W,) float32
    scores: np.ndarray | None  # (W,) float32, the scorer's at the last level; None without a scorer
    kept: tuple[np.ndarray, ...]  # for each level the trie nodes that were kept, in ascending order


@dataclass(frozen=True)
class _Beams:
    """Prefixes of one level. The columns ascend in the key that breaks ties.

    A log-probability of -inf marks padding: a user with few legal prefixes. It repeats the values of a
    legal prefix, so that engine and guidance only ever see real paths; its children inherit the -inf.
    """

    nodes: torch.Tensor  # (B, W) trie nodes
    logps: torch.Tensor  # (B, W) cumulative, float32
    parents: torch.Tensor  # (B, W) column of the beam that it continues
    codes: torch.Tensor  # (B, W) its last code
    scores: torch.Tensor | None = None  # (B, W) float32

    def take(self, columns: torch.Tensor) -> _Beams:
        """Choose columns (B, W') for each user, with padding turned into copies of a legal column."""
        logps = self.logps.gather(1, columns)  # (B, W')
        legal = logps > -torch.inf
        first_legal = columns.gather(1, legal.long().argmax(1, keepdim=True))  # (B, 1)
        columns = torch.where(legal, columns, first_legal)
        return _Beams(
            nodes=self.nodes.gather(1, columns),
            logps=logps,
            parents=self.parents.gather(1, columns),
            codes=self.codes.gather(1, columns),
            scores=None if self.scores is None else self.scores.gather(1, columns),
        )


@torch.inference_mode()
def beam_search(
    backend: Backend,
    prompts: list[list[int]],
    constraint: TrieConstraint,
    blocks: list[range],
    *,
    num_beams: int,
    expand_width: int | None = None,
    scorer: PathScorer | None = None,
    context: object = None,
    pruner: PathPruner | None = None,
    alive: torch.Tensor | None = None,
    rule: str = "scorer",
) -> list[BeamResult]:
    """Find the best items after each prompt; B users are searched together, one result for each.

    Args:
        backend: the engine that gives the log-probabilities.
        prompts: token ids for each user; the next token is the first of a name.
        constraint: the names of the catalogue; the bookkeeping runs on its device.
        blocks: for each level the vocabulary ids of its codes, in the order of the codes.
        num_beams: prefixes kept for each user and level, and the most items that come back.
        expand_width: prefixes the policy proposes to the scorer; `num_beams` if not given.
        scorer: keeps `num_beams` of the proposed prefixes at every level.
        context: what `scorer.context` made of the users' histories; handed to scorer and pruner.
        pruner: drops beams before their next step.
        alive: (B, num_nodes) of `TrieConstraint.alive`, to allow each user a subset of the items only.
        rule: order of a scorer's list: "scorer" by its score, "sum" by log-probability plus score.

    Raises:
        InputError: widths that do not fit each other, an unknown rule, an empty prompt.
    """
    _check_options(prompts, constraint, blocks, num_beams, expand_width, scorer, alive, rule)
    if not prompts:
        return []
    device = constraint.device
    session = backend.start(prompts)
    beams = _roots(len(prompts), device)
    kept: list[_Beams] = []
    for level, block in enumerate(blocks):
        last = level == len(blocks) - 1
        if level == 0:
            logps = session.first(block)[:, None]  # (B, 1, K)
        else:
            logps = session.step(beams.parents, beams.codes + blocks[level - 1].start, block)  # (B, W, K)
        beams = _expand(beams, logps.to(device), constraint, level, alive)  # (B, W * C)
        if last:
            beams = _in_item_order(beams, constraint)
        beams = beams.take(_best(beams.logps, expand_width or num_beams))
        if scorer is not None:
            beams = _keep_scored(beams, num_beams, scorer, context, level)
        if pruner is not None and not last:
            beams = _prune(beams, pruner, context, level)
        kept.append(beams)
    return _ranked(beams, kept, constraint, rule)


def _check_options(
    prompts: list[list[int]],
    constraint: TrieConstraint,
    blocks: list[range],
    num_beams: int,
    expand_width: int | None,
    scorer: PathScorer | None,
    alive: torch.Tensor | None,
    rule: str,
) -> None:
    check_prompts(prompts)
    if num_beams < 1:
        raise InputError(f"`num_beams` is {num_beams}, but a search needs at least 1; raise it.")
    if expand_width is not None and expand_width < num_beams:
        raise InputError(
            f"`expand_width` is {expand_width}, but {num_beams} beams are kept of it; "
            "make it at least `num_beams`."
        )
    if expand_width is not None and expand_width > num_beams and scorer is None:
        raise InputError(
            f"`expand_width` is {expand_width}, but there is no scorer to choose {num_beams} of them; "
            "give a scorer, or leave `expand_width` out."
        )
    if rule not in RULES:
        raise InputError(f"`rule` is {rule!r}, but only {' and '.join(RULES)} are known; choose one.")
    if len(blocks) != constraint.depth:
        raise ValueError(f"{len(blocks)} blocks were given for names of {constraint.depth} codes")
    if alive is not None and tuple(alive.shape) != (len(prompts), constraint.num_nodes):
        raise ValueError(
            f"alive is {tuple(alive.shape)}, not one row of TrieConstraint.alive for each prompt"
        )


def _roots(num_users: int, device: torch.device) -> _Beams:
    zeros = torch.zeros(num_users, 1, dtype=torch.long, device=device)
    return _Beams(zeros, torch.zeros(num_users, 1, device=device), zeros, zeros)


def _expand(
    beams: _Beams, logps: torch.Tensor, constraint: TrieConstraint, level: int, alive: torch.Tensor | None
) -> _Beams:
    """Lay the children of all beams side by side: (B, W) beams and (B, W, K) numbers to (B, W * C)."""
    children = constraint.children(beams.nodes, level, alive)
    legal = children.legal  # (B, W, C)
    steps = logps.gather(2, children.codes)  # (B, W, C)
    # A legal code without a finite number would silently vanish from every list.
    if not torch.isfinite(steps[legal]).all():
        raise ValueError(
            "The engine gave a log-probability that is not finite; the model's weights are broken"
        )
    if not legal.any(dim=2).any(dim=1).all():
        raise ValueError("A user has no legal path left; `alive` does not come from TrieConstraint.alive")
    sums = (beams.logps[:, :, None] + steps).masked_fill(~legal, -torch.inf)
    parents = torch.arange(sums.shape[1], device=sums.device)[None, :, None].expand_as(children.codes)
    return _Beams(children.nodes.flatten(1), sums.flatten(1), parents.flatten(1), children.codes.flatten(1))


def _in_item_order(beams: _Beams, constraint: TrieConstraint) -> _Beams:
    """Sort the columns of the last level by item id, so that from here on ties go to the lower item."""
    beams = beams.take(torch.arange(beams.nodes.shape[1], device=beams.nodes.device).expand_as(beams.nodes))
    return beams.take(constraint.item_of(beams.nodes).argsort(dim=1, stable=True))


def _best(values: torch.Tensor, width: int) -> torch.Tensor:
    """Choose the `width` largest of each row: (B, M) values to (B, min(width, M)) columns, ascending.

    torch.topk takes any of several equal values. Here the leftmost win, on every device.
    """
    width = min(width, values.shape[1])
    least = values.topk(width, dim=1).values[:, -1:]  # (B, 1)
    above, equal = values > least, values == least
    room = width - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= room))
    return chosen.nonzero()[:, 1].reshape(len(values), width)


def _keep_scored(beams: _Beams, num_beams: int, scorer: PathScorer, context: object, level: int) -> _Beams:
    """Let the scorer alone choose among the proposed prefixes; log-probabilities stay as they are."""
    legal = beams.logps > -torch.inf
    scores = scorer.score(context, level, beams.nodes).to(beams.logps)  # (B, W)
    if not torch.isfinite(scores[legal]).all():
        raise ValueError("The scorer gave a score that is not finite; its weights are broken")
    scores = scores.masked_fill(~legal, -torch.inf)
    return replace(beams, scores=scores).take(_best(scores, num_beams))


def _prune(beams: _Beams, pruner: PathPruner, context: object, level: int) -> _Beams:
    keep = pruner.keep(context, level, beams.nodes, beams.logps).to(beams.nodes.device)
    left = keep & (beams.logps > -torch.inf)  # (B, W)
    if not left.any(dim=1).all():
        raise ValueError(f"The pruner dropped every beam of a user after level {level}; it must keep one")
    pruned = replace(beams, logps=beams.logps.masked_fill(~left, -torch.inf))
    return pruned.take(_best(left.long(), int(left.sum(dim=1).max())))


def _ranked(beams: _Beams, kept: list[_Beams], constraint: TrieConstraint, rule: str) -> list[BeamResult]:
    """Order each user's items and leave the padding out."""
    rank = beams.logps
    if beams.scores is not None:
        rank = beams.scores if rule == "scorer" else beams.logps + beams.scores
    rank = rank.masked_fill(beams.logps == -torch.inf, -torch.inf)
    beams = beams.take(rank.argsort(dim=1, descending=True, stable=True))
    items = constraint.item_of(beams.nodes).cpu().numpy()
    logps = beams.logps.cpu().numpy()
    scores = None if beams.scores is None else beams.scores.cpu().numpy()
    levels = [(level.nodes.cpu().numpy(), (level.logps > -torch.inf).cpu().numpy()) for level in kept]
    results = []
    for user, real in enumerate(np.isfinite(logps)):
        results.append(
            BeamResult(
                items=items[user, real],
                logps=logps[user, real],
                scores=None if scores is None else scores[user, real],
                kept=tuple(np.sort(nodes[user, legal[user]]) for nodes, legal in levels),
            )
        )
    return results
