"""Stage `evaluate`: baselines and both modes of the model on the same users, whole catalogue, one report.

Every user of the split is counted unless `max_users` draws some. The rows of the report are `popularity`,
`item_knn`, `direct_before_srpo`, `direct`, `prm` (direct mode guided by the scorer) and `reasoning`; each
stands beside the baselines of the same run, and its time is that of its searches alone, loading not counted.

Several processes share the batches of users out: `torchrun --nproc_per_node 2 -m gream.cli evaluate --config
FILE`, or `accelerate launch` in its place. The first one judges and writes; times are those of all together.

Legend: B users, G chains of a user, N items.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gream import artifacts
from gream.data.store import (
    SPLIT_NAMES,
    TEST,
    Case,
    Catalogue,
    Interactions,
    load_catalogue,
    load_interactions,
)
from gream.decoding.answer import Answer
from gream.decoding.recommend import Engine, Search, load_engine, recommend_many
from gream.errors import InputError
from gream.evaluation.baseline_file import load_tuned
from gream.evaluation.baseline_rows import baseline_rows, purchases_before, purchases_of
from gream.evaluation.chain_examples import choose_chains
from gream.evaluation.exam import Exam, Row, draw_cases
from gream.evaluation.examples import Examples, draw_examples
from gream.evaluation.mentions import Vocabulary
from gream.evaluation.prefix_recall import false_prune_rate
from gream.evaluation.ranks_file import save_ranks
from gream.evaluation.reasoning_quality import Facts
from gream.evaluation.reasoning_row import judge_chains, reasoning_figures
from gream.evaluation.report import write_report
from gream.evaluation.scaling import settings_of, sweep
from gream.evaluation.scaling_report import format_scaling, write_scaling
from gream.evaluation.settings import EvaluateConfig, report_searches
from gream.evaluation.strata import close_figures
from gream.evaluation.taste import true_tastes
from gream.processes import ALONE, Team, find_team, writing_once

STAGE = "evaluate"

logger = logging.getLogger(__name__)

Recommend = Callable[..., list[Answer]]  # `recommend_many`, or a stand-in with its arguments


CONFIG = EvaluateConfig


def run(config: EvaluateConfig) -> None:
    """Evaluate, and write report.json, report.md, examples.json and the plots.

    Raises:
        InputError: settings out of range, an empty split, or folders that do not belong together.
    """
    split, searches = _split(config.split), report_searches(config)  # wrong settings are told before any work
    team = find_team()
    with writing_once(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        data = config.locate("data")
        catalogue, interactions = load_catalogue(data), load_interactions(data)
        everyone = interactions.cases(split)
        cases = draw_cases(everyone, config.max_users, config.seed)
        exam = _exam(config, cases, interactions, len(catalogue))
        earlier = purchases_before(interactions, split)
        rows, lists = _baselines(config, exam, earlier) if draft else ({}, {})
        if config.before:
            engine = _load(config, "before", exam, catalogue, earlier)
            direct = {"direct_before_srpo": searches["direct"]}
            found, answers = model_rows(exam, engine, direct, batch_size=config.batch_size, team=team)
            rows |= found
            lists |= items_of(answers)
            del engine  # two models at once need not fit
        engine = _load(config, "model", exam, catalogue, earlier)
        _refuse_states_of_another(config, engine)
        found, answers = model_rows(exam, engine, searches, batch_size=config.batch_size, team=team)
        rows |= found
        lists |= items_of(answers)
        if draft:
            ranks = {name: exam.ranks(of_row) for name, of_row in lists.items()}
            examples = _judge(config, exam, rows, answers, (catalogue, interactions), engine)
            report = {
                **_head(config, exam, everyone),
                **best_reachable(artifacts.read_manifest(data).counts, split),
                **rows,
                **close_figures(exam, ranks),
            }
            save_ranks(draft.path, exam, ranks, catalogue, interactions)
            _write(draft, report, examples)
        if config.scaling:
            swept = _sweep(config, "model", exam, engine, team)
            if config.smaller:
                del engine
                engine = _load(config, "smaller", exam, catalogue, earlier)
                swept += _sweep(config, "smaller", exam, engine, team)
            if draft:
                write_scaling(draft.path, report, swept)
                draft.counts["searches compared"] = len(swept)
        if draft:
            draft.counts["processes"] = team.size
    team.wait()  # nobody reads the folder before it is there
    if config.scaling:
        logger.info("%s", format_scaling(config.output_path))
    logger.info("%d of %d users, %d items ranked for each", len(cases), len(everyone), exam.num_items)


def _exam(config: EvaluateConfig, cases: list[Case], interactions: Interactions, num_items: int) -> Exam:
    return Exam(
        cases,
        num_items,
        config.k,
        config.seed,
        tuple(config.also_at),
        config.exclude_seen,
        purchases_of(interactions, num_items),
    )


def _head(config: EvaluateConfig, exam: Exam, everyone: Sequence[Case]) -> dict[str, Any]:
    """Return what the report says of the questions."""
    return {
        "users": len(set(exam.users)),
        "users_in_split": len({case.user for case in everyone}),
        "cases": len(exam.cases),
        "items": exam.num_items,
        "split": config.split,
        "k": config.k,
        "also_at": config.also_at,
        "exclude_seen": config.exclude_seen,
        "seed": config.seed,
    }


def _refuse_states_of_another(config: EvaluateConfig, engine: Engine) -> None:
    """Refuse a second model beside a scorer that reads the first one's hidden states."""
    if config.smaller and engine.scorer is not None and engine.scorer.reads_states:
        raise InputError(
            f"The scorer {config.scorer} reads the hidden states of {config.model}, which {config.smaller} "
            "does not have; compare the two with a scorer that `gream prm` trained with `context: own`."
        )


def best_reachable(counts: Mapping[str, Any], split: int) -> dict[str, dict[str, float]]:
    """Return what the simulator's oracle reaches on the test split, from the data folder's counts.

    Nothing when the data are real, or the split is another one.
    """
    prefix = "best_reachable_"
    found = {name.removeprefix(prefix): value for name, value in counts.items() if name.startswith(prefix)}
    return {"best_reachable": found} if found and split == TEST else {}


def items_of(answers: Mapping[str, Sequence[Answer]]) -> dict[str, list[np.ndarray]]:
    """Return the B lists of items of every row."""
    return {name: [answer.items for answer in of_row] for name, of_row in answers.items()}


def model_rows(
    exam: Exam,
    engine: Engine,
    searches: Mapping[str, Search],
    *,
    batch_size: int,
    recommend: Recommend = recommend_many,
    team: Team = ALONE,
) -> tuple[dict[str, Row], dict[str, list[Answer]]]:
    """Return the row and the B answers of every search, by the row's name; none but in the main process."""
    rows: dict[str, Row] = {}
    answers: dict[str, list[Answer]] = {}
    histories = [history.tolist() for history in exam.histories]
    for name, search in searches.items():
        team.wait()  # one that began earlier would make the search look faster than it is
        started = time.perf_counter()
        found = recommend(engine, histories, search, allowed=exam.allowed, batch_size=batch_size, team=team)
        if not team.is_main:
            continue
        rows[name] = exam.row([a.items for a in found], time.perf_counter() - started)
        if search.mode == "direct" and search.prune_threshold is not None:
            lost = false_prune_rate(found, exam.targets, engine.constraint, search)
            rows[name]["false_prune_rate"] = lost
        answers[name] = found
    return rows, answers


def _judge(
    config: EvaluateConfig,
    exam: Exam,
    rows: dict[str, Row],
    answers: Mapping[str, Sequence[Answer]],
    shop: tuple[Catalogue, Interactions],
    engine: Engine,
) -> Examples:
    """Add to the row of reasoning what its chains are worth; return the customers and chains to show."""
    catalogue, interactions = shop
    drawn = draw_examples(
        exam.cases, answers, catalogue, interactions, engine.names, length=exam.k, seed=config.seed
    )
    if "reasoning" not in answers:
        return {"customers": drawn}
    found = answers["reasoning"]
    facts = Facts(catalogue, engine.names, Vocabulary(catalogue), config.max_history)
    judged = judge_chains(exam, found, facts)
    tastes = true_tastes(config.locate("data"))
    rows["reasoning"] |= reasoning_figures(exam, found, judged, answers.get("direct"), facts, tastes)
    rows["reasoning"]["seconds_per_user_of_direct"] = rows["direct"]["seconds_per_user"]
    return {"customers": drawn, **choose_chains(exam, found, judged, facts, interactions.user_ids)}


def _sweep(config: EvaluateConfig, model: str, exam: Exam, engine: Engine, team: Team) -> list[Row]:
    settings = settings_of(config, engine.names.layout.num_codebooks)
    rows = sweep(exam, engine, settings, batch_size=config.batch_size, team=team)
    return [{"model": getattr(config, model), **row} for row in rows]


def _baselines(
    config: EvaluateConfig, exam: Exam, earlier: list[np.ndarray]
) -> tuple[dict[str, Row], dict[str, list[np.ndarray]]]:
    tuned = load_tuned(config.locate("baselines"), exam.num_items) if config.baselines else None
    return baseline_rows(exam, earlier, tuned)


def _load(
    config: EvaluateConfig, model: str, exam: Exam, catalogue: Catalogue, earlier: Sequence[np.ndarray]
) -> Engine:
    """Load a model; its scorer counts co-purchases in the same purchases as item kNN."""
    scorer = config.locate("scorer") if config.scorer and model != "before" else None
    engine = load_engine(
        config.locate("sids"),
        config.locate(model),
        scorer,
        engine=config.engine,
        max_history=config.max_history,
        catalogue=catalogue,
        purchases=earlier,
    )
    if len(engine.names) != exam.num_items:
        raise InputError(
            f"{config.locate('sids')} names {len(engine.names):,} items, but {config.locate('data')} has "
            f"{exam.num_items:,}; run `gream sids` again on that data."
        )
    return engine


def _split(name: str) -> int:
    if name not in SPLIT_NAMES[1:]:
        raise InputError(f"split is {name!r}; give one of {', '.join(SPLIT_NAMES[1:])}.")
    return SPLIT_NAMES.index(name)


def _write(draft: artifacts.Draft, report: Mapping[str, Any], examples: Examples) -> None:
    write_report(draft.path, report, examples)
    draft.counts["users"] = report["users"]
    draft.counts["users_in_split"] = report["users_in_split"]
    draft.counts["items"] = report["items"]
    for name, row in report.items():
        if isinstance(row, dict) and f"recall@{report['k']}" in row:
            draft.counts[f"{name} recall@{report['k']}"] = row[f"recall@{report['k']}"]
