"""Stage `prm`: train the path scorer of PROMISE on the training purchases.

Source: PROMISE (arXiv 2601.04674); the loss is in `path_loss`. Two contexts: `own` learns from every
purchase (`history_targets`), `policy` reads a policy's hidden states, after it or jointly with it
(`policy_targets`).

Differs from the paper in (ours): the epoch with the best validation recall@10 of the scorer alone, ranking
the whole catalogue, is kept; a scorer that looks at neighbours of the history is calibrated after it. The
paper gives no optimiser and no schedule.

Legend: B cases.
"""

from __future__ import annotations

import copy
import json
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gream.data.store import VALIDATION, Case, load_catalogue, load_interactions
from gream.decoding.engines import ready
from gream.decoding.neighbours import Neighbours, copurchased, held_out_copurchased, lookalikes
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.devices import compute_device
from gream.errors import InputError
from gream.evaluation import metrics
from gream.evaluation.exam import draw_cases
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.processes import ALONE, Team, find_team, no_bar, writing_once
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.embeddings_file import load_text_vectors
from gream.semantic_ids.layout import Names, load_names
from gream.training.calibration import SCORED_AT_ONCE, calibrate
from gream.training.history_targets import HistoryTargets
from gream.training.policy_targets import PolicyTargets
from gream.training.prm_settings import PrmConfig
from gream.training.sums import add_gradients, add_up

STAGE = "prm"
REPORT_FILE = "prm_report.json"
MODEL_FOLDER = "model"  # inside the output: the policy that was trained along

logger = logging.getLogger(__name__)

Targets = HistoryTargets | PolicyTargets


CONFIG = PrmConfig


def run(config: PrmConfig) -> None:
    """Train the scorer and write weights, shape and the figures of every epoch.

    A policy that is trained along is written in the precision it came in; the figures are of float32.

    Raises:
        InputError: names and data do not belong together, nothing to learn from, or a diverged loss.
    """
    team = find_team()
    names = load_names(config.locate("sids"))
    num_items = len(load_catalogue(config.locate("data")))
    if num_items != len(names):
        raise InputError(
            f"{config.locate('sids')} names {len(names)} items, but {config.locate('data')} has {num_items}; "
            "run `gream sids` again on this data."
        )
    interactions = load_interactions(config.locate("data"))
    sequences = interactions.training_sequences()
    cases = draw_cases(interactions.cases(VALIDATION), config.validation_users, config.seed)
    policy, tokenizer = load_model(config.locate("model"), names) if config.model else (None, None)
    stored = policy.dtype if policy is not None else None
    if policy is not None:
        # Half precision would lose the small steps of what learns.
        policy = policy.float().to(compute_device()) if config.train_policy else ready(policy)
    with writing_once(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            scorer = PrefixPathScorer(TrieConstraint(names), _shape(config, policy))
            _look_up_neighbours(scorer, config, sequences)
            scorer.to(compute_device())
            targets = _targets(config, sequences, names, policy, tokenizer, team)
            if team.size > 1:
                torch.manual_seed(config.seed + team.rank)  # each drops of its own rows
            epochs = train(scorer, targets, cases, config, team)
            counts = _calibrated(scorer, targets, cases) if scorer.sources else {}
        best = best_epoch(epochs)
        counts |= best | {"targets": len(targets), "paths": scorer.level_nodes[-1].stop - 1}
        if draft:
            save_scorer(draft.path, scorer, names)
            if policy is not None and config.train_policy:
                save_model(draft.path / MODEL_FOLDER, policy.to(stored), tokenizer, names)
            report = {"best_epoch": best["epoch"], "validation_users": len(cases), "epochs": epochs}
            (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
            draft.counts.update(counts, processes=team.size)
    team.wait()  # nobody reads the folder before it is there
    logger.info(
        "%(targets)d purchases, %(paths)d prefixes; epoch %(epoch)d is best: "
        "recall@10 %(recall@10).4f, ndcg@10 %(ndcg@10).4f on validation",
        counts,
    )


def train(
    scorer: PrefixPathScorer,
    targets: Targets,
    cases: list[Case],
    config: PrmConfig,
    team: Team = ALONE,
) -> list[dict[str, float]]:
    """Train in place and leave the weights of the best epoch; return the figures of every epoch.

    Args:
        scorer: an untrained scorer; its dropout uses torch's global generator.
        targets: the training purchases, and what is trained beside the scorer.
        cases: validation cases that choose the epoch.
        config: the settings of the optimiser, epochs, num_negatives and seed are used.
        team: of processes that train together, as the targets have it.

    Raises:
        InputError: no training purchase, no validation case, or a loss that is no number.
    """
    if not len(targets) or not cases:
        raise InputError(
            f"The path scorer got {len(targets)} training purchases and {len(cases)} validation cases, "
            "but needs some of both; run `gream data` on more purchases."
        )
    generator = torch.Generator().manual_seed(config.seed)
    modules = [scorer, *targets.trained]
    optimizer = _optimizer(scorer, targets, config)
    steps = config.epochs * targets.num_batches
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    figures: list[dict[str, float]] = []
    best_weights = [copy.deepcopy(m.state_dict()) for m in modules]
    with tqdm(total=steps, desc=STAGE, disable=no_bar()) as progress:
        for epoch in range(1, config.epochs + 1):
            for module in modules:
                module.train()
            total = 0.0
            for loss in targets.losses(scorer, config.num_negatives, generator):
                # batches hold sequences of like length: a mean of their own would favour short ones
                total += _step(loss * targets.num_batches / len(targets), optimizer, epoch, config, team)
                schedule.step()
                progress.update()
            ranks = ranks_by_scorer(scorer, targets, cases)
            recall, ndcg = metrics.recall(ranks, 10), metrics.ndcg(ranks, 10)
            loss_of_epoch = total / targets.num_batches
            figures.append({"epoch": epoch, "loss": loss_of_epoch, "recall@10": recall, "ndcg@10": ndcg})
            if best_epoch(figures) is figures[-1]:
                best_weights = [copy.deepcopy(m.state_dict()) for m in modules]
            progress.set_postfix(recall=f"{recall:.4f}")
            logger.debug("epoch %d: %s", epoch, figures[-1])
    for module, weights in zip(modules, best_weights, strict=True):
        module.load_state_dict(weights)
        module.eval()
    return figures


def _calibrated(scorer: PrefixPathScorer, targets: Targets, cases: list[Case]) -> dict[str, float]:
    """Calibrate the scorer; returns the figures before and after, which the report's epochs lack."""
    before, after = calibrate(scorer, targets, cases)
    ranks = ranks_by_scorer(scorer, targets, cases)
    return {
        "calibration loss before": before,
        "calibration loss": after,
        "calibrated recall@10": metrics.recall(ranks, 10),
        "calibrated ndcg@10": metrics.ndcg(ranks, 10),
    }


def best_epoch(figures: list[dict[str, float]]) -> dict[str, float]:
    """Choose by recall@10, then NDCG@10; of equals the earliest."""
    return max(figures, key=lambda epoch: (epoch["recall@10"], epoch["ndcg@10"]))


def ranks_by_scorer(scorer: PrefixPathScorer, targets: Targets, cases: list[Case]) -> np.ndarray:
    """Rank the whole catalogue by the scorer's last level: (B,) places of the true items, 1 is first."""
    scorer.eval()
    leaves = scorer.item_nodes[:, -1]
    items = torch.arange(len(leaves), device=leaves.device)
    chunk = max(1, SCORED_AT_ONCE // len(leaves))
    ranks: list[Tensor] = []
    for start in range(0, len(cases), chunk):
        part = cases[start : start + chunk]
        truth = torch.tensor([c.target for c in part], device=leaves.device)[:, None]
        context = targets.contexts(scorer, part)
        scores = scorer.score(context, len(scorer.level_nodes) - 1, leaves.expand(len(part), -1))
        reached = scores.gather(1, truth)
        before = (scores > reached) | ((scores == reached) & (items < truth))  # ties by lower item id
        ranks.append(1 + before.sum(dim=1))
    return torch.cat(ranks).cpu().numpy()


def _shape(config: PrmConfig, policy: Any) -> ScorerShape:
    return ScorerShape(
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        dropout=config.dropout,
        max_history=config.max_history,
        policy_size=policy.config.hidden_size if config.model else 0,
        neighbours=config.neighbours,
        lookalikes=config.lookalikes,
    )


def _look_up_neighbours(scorer: PrefixPathScorer, config: PrmConfig, sequences: list[np.ndarray]) -> None:
    """Fill the tables that validation, and later serving, look into."""
    num_items = len(scorer.item_nodes)
    if config.neighbours:
        scorer.sources["copurchases"].fill(copurchased(sequences, num_items, config.neighbours))
    if config.lookalikes:
        folder = config.locate("embeddings")
        vectors = load_text_vectors(folder)
        if len(vectors) != num_items:
            raise InputError(
                f"{folder} has {len(vectors):,} text vectors, but {config.locate('sids')} names "
                f"{num_items:,} items; run `gream embed` again on this data."
            )
        scorer.sources["lookalikes"].fill(lookalikes(vectors, config.lookalikes))


def _targets(
    config: PrmConfig,
    sequences: list[np.ndarray],
    names: Names,
    policy: Any,
    tokenizer: Any,
    team: Team,
) -> Targets:
    tables = None
    if config.neighbours:
        found = held_out_copurchased(sequences, len(names), config.neighbours)
        device = compute_device()
        tables = Neighbours(found.items.to(device), found.strengths.to(device))
    if not config.model:
        return HistoryTargets(sequences, config.max_history, config.batch_size, tables, team)
    return PolicyTargets(
        policy,
        Prompter(tokenizer, names, max_history=config.max_history),
        sequences,
        config.batch_size,
        per_sequence=config.targets_per_sequence,
        train_policy=config.train_policy,
        tables=tables,
        team=team,
    )


def _optimizer(scorer: PrefixPathScorer, targets: Targets, config: PrmConfig) -> torch.optim.AdamW:
    groups: list[dict[str, Any]] = [{"params": list(scorer.parameters())}]
    groups += [{"params": list(m.parameters()), "lr": config.policy_learning_rate} for m in targets.trained]
    return torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, epoch: int, config: PrmConfig, team: Team) -> float:
    """Make one step of the optimiser; returns the loss of all processes."""
    total = add_up(team, loss)
    if not torch.isfinite(total):
        raise InputError(
            f"The path scorer's loss is {total.item()} in epoch {epoch}; lower `learning_rate` "
            f"(it is {config.learning_rate})."
        )
    optimizer.zero_grad()
    if loss.requires_grad:  # not where other processes have all rows
        loss.backward()  # type: ignore[no-untyped-call]
    add_gradients(team, (weight for group in optimizer.param_groups for weight in group["params"]))
    optimizer.step()
    return total.item()


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
