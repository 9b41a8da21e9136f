"""Stage `prm`: train the path scorer of PROMISE on the training purchases.

Source: PROMISE (arXiv 2601.04674): at every depth b, InfoNCE of the true b-prefix against N distinct
prefixes drawn uniformly from the valid b-prefixes without the true one; the losses of all depths are
added, and the next-token loss with weight 1 beside them (L_Total = L_NTP + L_InfoNCE).

Differs from the paper in (ours): the scorer has an encoder of its own, so L_NTP is here the
cross-entropy of the true prefix among all prefixes of its depth under the scorer's affinities alone,
which trains that encoder as the generator's loss trains the shared one; every purchase
of a training sequence is a target; the epoch with the best validation recall@10 of the scorer alone,
ranking the whole catalogue, is kept. The paper gives no N, no optimiser and no schedule.

Legend: U sequences, S purchases, B targets, L codebooks, N negatives, V valid prefixes of one depth.
"""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import VALIDATION, Case, load_catalogue, load_interactions
from gream.decoding.path_scorer import PrefixPathScorer, ScorerShape, save_scorer
from gream.errors import InputError
from gream.evaluation import metrics
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import load_names

STAGE = "prm"
REPORT_FILE = "prm_report.json"
SCORED_PATHS = 1 << 16  # pairs of user and item that validation scores at a time, bounds its memory

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PrmConfig(StageConfig):
    """Settings of the stage `prm`."""

    data: str = input_folder("data", doc="folder written by `gream data`")
    sids: str = input_folder("sids", doc="folder written by `gream sids`")
    output: str = option("prm", doc="name of the folder that this stage writes inside run_dir")
    hidden_size: int = option(64, doc="width of the scorer")
    num_layers: int = option(1, doc="layers of the history encoder")
    num_heads: int = option(2, doc="attention heads")
    dropout: float = option(0.3, doc="dropout of history, attention and feed-forward")
    max_history: int = option(50, doc="newest purchases that the scorer looks at")
    num_negatives: int = option(16, doc="wrong prefixes against each true one, at every depth")
    epochs: int = option(10, doc="passes over the training purchases")
    batch_size: int = option(128, doc="training sequences in a batch")
    learning_rate: float = option(3e-3, doc="peak learning rate, falling to 0 along a cosine")
    weight_decay: float = option(0.01, doc="weight decay of AdamW")
    validation_users: int = option(1000, doc="validation cases that choose the epoch, drawn at random")


CONFIG = PrmConfig


@dataclass(frozen=True)
class Window:
    """A stretch of one training sequence; purchases from `first_target` on are learned from it."""

    items: np.ndarray  # (S,)
    first_target: int


@dataclass(frozen=True)
class Batch:
    """Windows padded at the end to one length."""

    items: Tensor  # (U, S)
    is_target: Tensor  # (U, S) bool


def run(config: PrmConfig) -> None:
    """Train the scorer and write weights, shape and the figures of every epoch.

    Raises:
        InputError: names and data do not belong together, nothing to learn from, or a diverged loss.
    """
    names = load_names(config.locate("sids"))
    num_items = len(load_catalogue(config.locate("data")))
    if num_items != len(names):
        raise InputError(
            f"{config.locate('sids')} names {len(names)} items, but {config.locate('data')} has {num_items}; "
            "run `gream sids` again on this data."
        )
    interactions = load_interactions(config.locate("data"))
    sequences = interactions.training_sequences()
    cases = _draw(interactions.cases(VALIDATION), config.validation_users, config.seed)
    shape = ScorerShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
        max_history=config.max_history,
    )
    with artifacts.writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            scorer = PrefixPathScorer(TrieConstraint(names), shape)
            epochs = train(scorer, sequences, cases, config)
        save_scorer(draft.path, scorer, names)
        best = best_epoch(epochs)
        report = {"best_epoch": best["epoch"], "validation_users": len(cases), "epochs": epochs}
        (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
        draft.counts.update(best, targets=sum(map(len, sequences)), paths=scorer.level_nodes[-1].stop - 1)
    logger.info(
        "%(targets)d purchases, %(paths)d prefixes; epoch %(epoch)d is best: "
        "recall@10 %(recall@10).4f, ndcg@10 %(ndcg@10).4f on validation",
        draft.counts,
    )


def train(
    scorer: PrefixPathScorer, sequences: list[np.ndarray], cases: list[Case], config: PrmConfig
) -> list[dict[str, float]]:
    """Train in place and leave the weights of the best epoch; return the figures of every epoch.

    Args:
        scorer: an untrained scorer; its dropout uses torch's global generator.
        sequences: (S,) item ids each, oldest first, training purchases only.
        cases: validation cases that choose the epoch.
        config: epochs, batch_size, num_negatives, learning_rate, weight_decay and seed are used.

    Raises:
        InputError: no training purchase, no validation case, or a loss that is no number.
    """
    windows = [w for s in sequences for w in split_windows(s, config.max_history)]
    if not windows or not cases:
        raise InputError(
            f"The path scorer got {len(windows)} training sequences and {len(cases)} validation cases, "
            "but needs some of both; run `gream data` on more purchases."
        )
    generator = torch.Generator().manual_seed(config.seed)
    per_epoch = math.ceil(len(windows) / config.batch_size)
    mean_targets = sum(len(w.items) - w.first_target for w in windows) / per_epoch
    optimizer = torch.optim.AdamW(scorer.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * per_epoch)
    figures: list[dict[str, float]] = []
    best_weights = copy.deepcopy(scorer.state_dict())
    with tqdm(total=config.epochs * per_epoch, desc=STAGE, disable=None) as progress:
        for epoch in range(1, config.epochs + 1):
            scorer.train()
            total = 0.0
            for batch in _batches(windows, config.batch_size, generator):
                # batches hold sequences of like length: a mean of their own would favour short ones
                loss = scorer_loss(scorer, batch, config.num_negatives, generator) / mean_targets
                if not torch.isfinite(loss):
                    raise InputError(
                        f"The path scorer's loss is {loss.item()} in epoch {epoch}; lower `learning_rate` "
                        f"(it is {config.learning_rate})."
                    )
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += loss.item()
                progress.update()
            ranks = ranks_by_scorer(scorer, cases)
            recall, ndcg = metrics.recall(ranks, 10), metrics.ndcg(ranks, 10)
            figures.append({"epoch": epoch, "loss": total / per_epoch, "recall@10": recall, "ndcg@10": ndcg})
            if best_epoch(figures) is figures[-1]:
                best_weights = copy.deepcopy(scorer.state_dict())
            progress.set_postfix(recall=f"{recall:.4f}")
            logger.debug("epoch %d: %s", epoch, figures[-1])
    scorer.load_state_dict(best_weights)
    scorer.eval()
    return figures


def best_epoch(figures: list[dict[str, float]]) -> dict[str, float]:
    """Choose by recall@10, then NDCG@10; of equals the earliest."""
    return max(figures, key=lambda epoch: (epoch["recall@10"], epoch["ndcg@10"]))


def scorer_loss(
    scorer: PrefixPathScorer, batch: Batch, num_negatives: int, generator: torch.Generator
) -> Tensor:
    """Add the InfoNCE and next-prefix losses of all depths and all targets of a batch.

    A target is scored against the purchases strictly before it.
    """
    users, counts = batch.is_target.nonzero(as_tuple=True)
    context = scorer.contexts_at(batch.items[:, :-1], users, counts)
    true_nodes = scorer.item_nodes[batch.items[users, counts]]  # (B, L)
    loss = context.state.new_zeros(())
    for level, valid in enumerate(scorer.level_nodes):
        positives = true_nodes[:, level] - valid.start  # (B,)
        negatives = sample_negatives(positives, len(valid), num_negatives, generator)
        candidates = valid.start + torch.cat([positives[:, None], negatives], dim=1)
        affinities = scorer.affinities(context, level)  # (B, V)
        loss = loss + info_nce(scorer.logits(context, level, candidates, affinities))
        loss = loss + F.cross_entropy(affinities, positives, reduction="sum")
    return loss


def info_nce(scores: Tensor) -> Tensor:
    """Sum -log softmax of the first score over rows: (B, N + 1) scores, the positive first, to ()."""
    return -scores.log_softmax(dim=-1)[:, 0].sum()


def sample_negatives(
    positives: Tensor, num_valid: int, num_negatives: int, generator: torch.Generator
) -> Tensor:
    """Draw, for every positive, a uniform set of distinct others out of `num_valid`.

    Args:
        positives: (B,) integers below `num_valid`.
        num_valid: number of valid prefixes V at the depth.
        num_negatives: size N of each set; V - 1 where that is less, which is then all others.
        generator: source of the draws.

    Returns:
        (B, min(N, V - 1)) integers below `num_valid`; the order inside a row means nothing.
    """
    others = num_valid - 1
    if num_negatives >= others:
        drawn = torch.arange(others).expand(len(positives), -1)
    else:
        # Floyd's algorithm on all rows at once: exact, and its cost does not depend on V
        drawn = torch.full((len(positives), num_negatives), -1)
        for column, newest in enumerate(range(others - num_negatives, others)):
            draw = torch.randint(newest + 1, (len(positives),), generator=generator)
            taken = (drawn[:, :column] == draw[:, None]).any(dim=1)
            drawn[:, column] = torch.where(taken, newest, draw)
    return drawn + (drawn >= positives[:, None])


def ranks_by_scorer(scorer: PrefixPathScorer, cases: list[Case]) -> np.ndarray:
    """Rank the whole catalogue by the scorer's last level: (B,) places of the targets, 1 is first."""
    scorer.eval()
    leaves = scorer.item_nodes[:, -1]
    items = torch.arange(len(leaves))
    chunk = max(1, SCORED_PATHS // len(leaves))
    ranks: list[Tensor] = []
    for start in range(0, len(cases), chunk):
        part = cases[start : start + chunk]
        targets = torch.tensor([c.target for c in part])[:, None]
        context = scorer.context([c.history.tolist() for c in part])
        scores = scorer.score(context, len(scorer.level_nodes) - 1, leaves.expand(len(part), -1))
        reached = scores.gather(1, targets)
        before = (scores > reached) | ((scores == reached) & (items < targets))  # ties by lower item id
        ranks.append(1 + before.sum(dim=1))
    return torch.cat(ranks).numpy()


def split_windows(sequence: np.ndarray, max_history: int) -> list[Window]:
    """Cut a sequence into stretches of at most max_history + 1 purchases; each is a target once.

    The stretches overlap by half, so that a target of a later one has half a history at least.
    """
    windows = [Window(sequence[: max_history + 1], 0)] if len(sequence) else []
    start, end = 0, max_history + 1
    while end < len(sequence):
        start += max(1, max_history // 2)
        windows.append(Window(sequence[start : start + max_history + 1], end - start))
        end = start + max_history + 1
    return windows


def _batches(windows: list[Window], batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """Shuffle, put windows of like length together, and give the batches in random order."""
    order = torch.randperm(len(windows), generator=generator).tolist()
    order.sort(key=lambda i: len(windows[i].items))
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    for g in torch.randperm(len(groups), generator=generator).tolist():
        yield collate([windows[i] for i in groups[g]])


def collate(windows: list[Window]) -> Batch:
    """Pad windows at the end with item 0, which is no target and which nothing before it sees."""
    width = max(len(w.items) for w in windows)
    items = torch.zeros(len(windows), width, dtype=torch.int64)
    is_target = torch.zeros(len(windows), width, dtype=torch.bool)
    for row, window in enumerate(windows):
        items[row, : len(window.items)] = torch.as_tensor(window.items, dtype=torch.int64)
        is_target[row, window.first_target : len(window.items)] = True
    return Batch(items, is_target)


def _draw(cases: list[Case], count: int, seed: int) -> list[Case]:
    """Draw `count` cases without replacement, in their order; all where there are not more."""
    if count >= len(cases):
        return cases
    chosen = np.random.default_rng(seed).choice(len(cases), size=count, replace=False)
    return [cases[i] for i in sorted(chosen)]


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
