"""How good a model in training is: recall of its lists for users of the validation split.

Every measurement asks the same users, and in reasoning mode draws their chains from the same seeds, so that
two measurements differ by the weights alone. What the users bought is asked for, never learnt from.

Two modes become one score, (1 - w) * direct recall + w * reasoning recall, with w the share of reasoning in
what is trained: a mode cannot pay for the other unseen. Ours; the paper's authors look at reasoning alone.

Legend: B users, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gream.data.store import Case
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.evaluation import metrics

SEARCH = Search(k=10, num_beams=20)
RECALL = f"validation_recall@{SEARCH.k}"
REASONING_RECALL = f"validation_reasoning_recall@{SEARCH.k}"
SCORE, ERROR = "validation_score", "validation_score_error"
COVERAGE, REASONING_COVERAGE = "validation_coverage", "validation_reasoning_coverage"


@dataclass(frozen=True)
class Measured:
    """One measurement."""

    score: float  # what the best weights have most of
    figures: dict[str, float]  # what goes into the log


def direct_recall(engine: Engine, cases: Sequence[Case]) -> Measured:
    """Measure recall@10 of direct mode; it is the score."""
    recall = float(np.mean(_hits(_lists(engine, cases, SEARCH), cases)))
    return Measured(recall, {RECALL: recall})


@dataclass(frozen=True)
class BothModes:
    """Measures direct and reasoning mode, and weighs their recall.

    Args:
        reasoning_share: weight of reasoning in the score, 0 to 1. At 0 no chain is written: nothing is asked
            of a mode that is not trained, and that the model may never have been taught.
        max_chain_tokens: tokens after which a chain is closed by force.
        seed: of the chains, one for each user.
    """

    reasoning_share: float
    max_chain_tokens: int
    seed: int

    def __call__(self, engine: Engine, cases: Sequence[Case]) -> Measured:
        """Measure recall@10 and coverage of both modes, the score, and the score's standard error.

        Coverage is the share of the N items that stand in the list of any of the B users.
        """
        num_items = len(engine.names)
        lists = _lists(engine, cases, SEARCH)
        hits = _hits(lists, cases)  # (B,)
        figures = {RECALL: float(hits.mean()), COVERAGE: _coverage(lists, num_items)}
        scores = hits
        if self.reasoning_share > 0:
            search = Search(
                k=SEARCH.k,
                num_beams=SEARCH.num_beams,
                mode="reasoning",
                num_chains=1,
                max_chain_tokens=self.max_chain_tokens,
                seed=self.seed,
            )
            lists = _lists(engine, cases, search)
            reasoned = _hits(lists, cases)  # (B,)
            figures |= {
                REASONING_RECALL: float(reasoned.mean()),
                REASONING_COVERAGE: _coverage(lists, num_items),
            }
            scores = (1 - self.reasoning_share) * hits + self.reasoning_share * reasoned
        score = float(scores.mean())
        return Measured(score, figures | {SCORE: score, ERROR: standard_error(scores)})


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean; infinite for fewer than two values, which tell nothing of it."""
    if len(values) < 2:
        return float("inf")
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def _lists(engine: Engine, cases: Sequence[Case], search: Search) -> list[np.ndarray]:
    return [a.items for a in recommend_many(engine, [case.history.tolist() for case in cases], search)]


def _hits(lists: list[np.ndarray], cases: Sequence[Case]) -> np.ndarray:
    return metrics.hits(metrics.ranks_of_targets(lists, [case.target for case in cases]), SEARCH.k)


def _coverage(lists: list[np.ndarray], num_items: int) -> float:
    return metrics.coverage(lists, num_items=num_items, k=SEARCH.k)
