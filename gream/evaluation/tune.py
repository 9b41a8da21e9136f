"""Stage `baselines`: tune item kNN and SASRec on the validation split, once for a data set.

A result counts only beside a neighbourhood model and a SASRec that somebody took trouble with. Every
setting is chosen by NDCG@10 of the validation split, what was bought left out of the lists; both learn from
training purchases alone here. `gream evaluate` fits kNN again with what was chosen, on all that comes before
the purchases it asks for; SASRec is used as it was trained.

Legend: N items.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import VALIDATION, Case, load_catalogue, load_interactions
from gream.devices import compute_device
from gream.errors import InputError
from gream.evaluation.baseline_file import Tuned, save_tuned
from gream.evaluation.baselines import ItemKNN
from gream.evaluation.exam import draw_cases
from gream.evaluation.sasrec import SASRec, SASRecSettings, best_epoch, fit, validate

STAGE = "baselines"

# Tried one row after the other, each with the best of those before it.
KNN_GRIDS: tuple[dict[str, list[float]], ...] = (
    {"window": [1, 2, 5, 10], "shrinkage": [0, 5, 20, 50]},
    {"decay": [0.3, 0.5, 0.7, 0.85], "backward": [0.0, 0.3, 1.0]},
)

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BaselinesConfig(StageConfig):
    """Settings of the stage `baselines`."""

    data: str = input_folder("data", doc="folder written by `gream data`")
    output: str = option("baselines", doc="name of the folder that this stage writes inside run_dir")
    validation_users: int = option(0, doc="validation cases, drawn at random, that choose; 0: all")
    sasrec_size: int = option(128, doc="hidden size of SASRec")
    sasrec_dropouts: list[float] = option([0.3, 0.5], doc="dropout rates of SASRec that are tried")
    sasrec_learning_rate: float = option(1e-3, doc="learning rate of SASRec")
    sasrec_epochs: int = option(60, doc="most passes of SASRec over the training purchases")

    def __post_init__(self) -> None:
        for name, least in (("sasrec_size", 2), ("sasrec_epochs", 1), ("validation_users", 0)):
            if getattr(self, name) < least:
                raise InputError(f"`{name}` is {getattr(self, name)}; give at least {least}.")
        if self.sasrec_size % SASRecSettings.num_heads:
            raise InputError(f"`sasrec_size` is {self.sasrec_size}; give an even number.")
        if not 0 < self.sasrec_learning_rate < 1:
            raise InputError(
                f"`sasrec_learning_rate` is {self.sasrec_learning_rate}; give a number between 0 and 1."
            )
        if not self.sasrec_dropouts or not all(0 <= rate < 1 for rate in self.sasrec_dropouts):
            raise InputError(f"`sasrec_dropouts` is {self.sasrec_dropouts}; give rates from 0 to below 1.")


CONFIG = BaselinesConfig


@dataclass
class _Log:
    """What was tried, with its figures."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, model: str, settings: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        self.rows.append({"model": model, **settings, **{k: round(v, 6) for k, v in figures.items()}})

    def best(self, model: str) -> dict[str, Any]:
        """Return the row with the best NDCG@10; of equals the first that was tried."""
        return max((row for row in self.rows if row["model"] == model), key=lambda row: row["ndcg@10"])


def run(config: BaselinesConfig) -> None:
    """Tune both, and write what was chosen, all that was tried, and SASRec's weights.

    Raises:
        InputError: settings out of range, or too few purchases to learn from and choose by.
    """
    data = config.locate("data")
    num_items, interactions = len(load_catalogue(data)), load_interactions(data)
    cases = draw_cases(interactions.cases(VALIDATION), config.validation_users, config.seed)
    sequences = interactions.training_sequences()
    log = _Log()
    with artifacts.writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        knn = tune_knn(sequences, num_items, cases, log)
        sasrec = _tune_sasrec(config, sequences, num_items, cases, log)
        save_tuned(draft.path, Tuned(knn, sasrec), log.rows)
        for model in ("item_knn", "sasrec"):
            best = log.best(model)
            draft.counts |= {f"{model} {name}": best[name] for name in ("recall@10", "ndcg@10")}
    logger.info("chosen on %d validation cases of %d items: item kNN with %s", len(cases), num_items, knn)
    logger.info("SASRec with dropout %s, %d epochs", sasrec.settings.dropout, log.best("sasrec")["epoch"])
    logger.info(
        "recall@10 and NDCG@10: item kNN %(item_knn recall@10).4f, %(item_knn ndcg@10).4f; SASRec "
        "%(sasrec recall@10).4f, %(sasrec ndcg@10).4f",
        draft.counts,
    )


def tune_knn(
    sequences: Sequence[np.ndarray], num_items: int, cases: Sequence[Case], log: _Log | None = None
) -> dict[str, Any]:
    """Return the arguments of `ItemKNN` that give the best NDCG@10 on the cases; grid after grid."""
    log = log or _Log()
    chosen: dict[str, Any] = {}
    total = sum(len(_points(grid)) for grid in KNN_GRIDS)
    with tqdm(total=total, desc="item kNN", disable=None) as progress:
        for grid in KNN_GRIDS:
            for point in _points(grid):
                settings = chosen | point
                log.add("item_knn", settings, validate(ItemKNN(sequences, num_items, **settings), cases))
                progress.update()
            best = log.best("item_knn")
            chosen = {name: best[name] for name in (*chosen, *grid) if name in best}
    return chosen


def _points(grid: Mapping[str, Iterable[float]]) -> list[dict[str, float]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def _tune_sasrec(
    config: BaselinesConfig, sequences: Sequence[np.ndarray], num_items: int, cases: Sequence[Case], log: _Log
) -> SASRec:
    models = []
    for rate in config.sasrec_dropouts:
        settings = SASRecSettings(
            hidden_size=config.sasrec_size,
            dropout=rate,
            epochs=config.sasrec_epochs,
            learning_rate=config.sasrec_learning_rate,
        )
        with tqdm(total=settings.epochs, desc=f"SASRec, dropout {rate}", disable=None) as progress:

            def told(figures: dict[str, float], progress: Any = progress) -> None:
                progress.update()
                progress.set_postfix(ndcg=f"{figures['ndcg@10']:.4f}")

            model, epochs = fit(
                sequences,
                num_items,
                cases,
                settings,
                seed=config.seed,
                device=compute_device(),
                on_epoch=told,
            )
        log.add("sasrec", {"dropout": rate}, best_epoch(epochs))
        models.append(model)
    rates = [row["dropout"] for row in log.rows if row["model"] == "sasrec"]
    return models[rates.index(log.best("sasrec")["dropout"])]


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
