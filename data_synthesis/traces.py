"""Stage `synthesize`: reasoning traces from the training purchases, and the reason for every dropped one."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from data_synthesis.filters import reason_to_drop
from data_synthesis.teacher import RuleTeacher
from gream.arguments import StageConfig, input_folder, option
from gream.artifacts import writing
from gream.data.store import Interactions, load_catalogue, load_interactions
from gream.errors import InputError
from gream.language.reasoning import Trace, save_traces

logger = logging.getLogger(__name__)

STAGE = "synthesize"
DROPPED_FILE = "dropped.parquet"


@dataclass(kw_only=True)
class SynthesizeConfig(StageConfig):
    """Settings of `gream synthesize`."""

    output: str = option("traces", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    min_history: int = option(2, doc="fewest purchases before the target of a trace")
    max_history: int = option(20, doc="newest purchases that a trace looks at")
    per_user: int = option(2, doc="training purchases of each user that are explained, the newest first")
    attempts: int = option(4, doc="intents that the teacher may try for one purchase")


CONFIG = SynthesizeConfig


@dataclass(frozen=True)
class Dropped:
    """One dropped attempt; an attempt for the same purchase may have been kept."""

    user: int
    target: int
    reason: str
    recommendation: str


def run(config: SynthesizeConfig) -> None:
    """Write `traces.parquet` and `dropped.parquet`."""
    catalogue = load_catalogue(config.locate("data"))
    interactions = load_interactions(config.locate("data"))
    with writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        teacher = RuleTeacher(catalogue, interactions.training_sequences())
        kept, dropped = synthesize(teacher, interactions, config)
        if not kept:
            raise InputError(
                f"No trace is left of {len(dropped)} attempts; the items need categories, and users at least "
                f"{config.min_history + 1} training purchases (lower `min_history`)."
            )
        save_traces(draft.path, kept)
        pl.DataFrame([vars(d) for d in dropped], schema=list(Dropped.__annotations__)).write_parquet(
            draft.path / DROPPED_FILE
        )
        reasons = Counter(d.reason for d in dropped)
        draft.counts.update(traces=len(kept), attempts=len(kept) + len(dropped))
        draft.counts.update({f"dropped: {reason}": number for reason, number in reasons.most_common()})
    logger.info("%s traces kept, %s attempts dropped", len(kept), len(dropped))


def synthesize(
    teacher: RuleTeacher, interactions: Interactions, config: SynthesizeConfig
) -> tuple[list[Trace], list[Dropped]]:
    """Explain the newest training purchases of every user; the first attempt that no filter drops is kept."""
    rng = np.random.default_rng(config.seed)
    kept: list[Trace] = []
    dropped: list[Dropped] = []
    for user, sequence in enumerate(interactions.training_sequences()):
        first = max(config.min_history, len(sequence) - config.per_user)
        for place in range(first, len(sequence)):
            history = tuple(int(i) for i in sequence[max(0, place - config.max_history) : place])
            for trace in _attempts(teacher, user, history, int(sequence[place]), rng, config.attempts):
                reason = reason_to_drop(trace, teacher)
                if reason is None:
                    kept.append(trace)
                    break
                dropped.append(Dropped(user, trace.target, reason, trace.recommendation))
    return kept, dropped


def _attempts(
    teacher: RuleTeacher,
    user: int,
    history: tuple[int, ...],
    target: int,
    rng: np.random.Generator,
    attempts: int,
) -> list[Trace]:
    return [
        Trace(
            user, history, target, e.evidence, e.kinds, e.preference, e.intent, e.recommendation, e.rewritten
        )
        for e in teacher.explain(history, rng, attempts)
    ]
