"""Stage `synthesize`: reasoning traces from the training purchases, and the reason for every dropped one.

The teacher is the rule-based one, which needs nothing, or a model behind an endpoint; the filters are the
same.

Several processes share the users of the rule-based teacher out: `torchrun --nproc_per_node 2 -m gream.cli
synthesize --config FILE`, or `accelerate launch` in its place. An endpoint is asked by the first one alone,
which waits for `concurrency` answers at a time: a budget is for all of them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from data_synthesis.account import Account
from data_synthesis.asking import Question, ask_all
from data_synthesis.denoise import removal_quality
from data_synthesis.filters import Facts, reason_to_drop
from data_synthesis.model_teacher import ModelTeacher, Purchase, schema
from data_synthesis.near_copies import near_copies
from data_synthesis.rehearsal import describe_calls
from data_synthesis.settings import TeacherConfig, check_teacher
from data_synthesis.teacher import RuleTeacher
from data_synthesis.trace_report import REPORT_FILE, format_report, text_of
from data_synthesis.words import CatalogueWords
from gream.arguments import input_folder, option
from gream.artifacts import Draft
from gream.data.simulate import has_truth, load_truth
from gream.data.store import Catalogue, Interactions, load_catalogue, load_interactions
from gream.errors import InputError
from gream.language.reasoning import Trace, save_traces
from gream.processes import ALONE, Team, find_team, writing_once

logger = logging.getLogger(__name__)

STAGE = "synthesize"
DROPPED_FILE = "dropped.parquet"
RULES = "rules"
ALL, FORMAT = "all", "format"
_TOGETHER = 64  # users that one of several processes explains before the next one's turn; ours


@dataclass(kw_only=True)
class SynthesizeConfig(TeacherConfig):
    """Settings of `gream synthesize traces`; the rule-based teacher needs none of an endpoint's."""

    output: str = option("traces", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    teacher: str = option(RULES, doc="`rules`, or the base URL of an endpoint, as http://127.0.0.1:8000/v1")
    structured: bool = option(True, doc="ask the endpoint to hold its answers to the fields of the JSON")
    min_history: int = option(2, doc="fewest purchases before the target of a trace")
    max_history: int = option(20, doc="newest purchases that a trace looks at")
    per_user: int = option(2, doc="training purchases of each user that are explained, the newest first")
    attempts: int = option(4, doc="intents that the rule-based teacher may try for one purchase")
    denoise: bool = option(True, doc="the rule-based teacher leaves out of step 5 what does not fit")
    filters: str = option(ALL, doc="which traces are dropped: `all` bad ones, or those of a broken `format`")


CONFIG = SynthesizeConfig


@dataclass(frozen=True)
class Dropped:
    """One dropped attempt; an attempt for the same purchase may have been kept."""

    user: int
    target: int
    reason: str
    text: str  # what the teacher wrote, of a chain its texts alone


def run(config: SynthesizeConfig) -> None:
    """Write `traces.parquet`, `dropped.parquet` and `traces_report.md`."""
    if config.filters not in (ALL, FORMAT):
        raise InputError(f"filters is {config.filters!r}; give `{ALL}` or `{FORMAT}`.")
    catalogue = load_catalogue(config.locate("data"))
    interactions = load_interactions(config.locate("data"))
    team = find_team()
    with writing_once(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        kept: list[Trace] = []
        dropped: list[Dropped] = []
        if config.teacher == RULES:
            teacher = RuleTeacher(catalogue, interactions.training_sequences(), denoise=config.denoise)
            kept, dropped = synthesize(teacher, interactions, config, team)
        elif draft:
            kept, dropped, account = ask_model(catalogue, interactions, config)
            draft.counts.update(account.counts())
            for sentence in account.sentences():
                logger.info("%s", sentence)
        if draft:
            if config.filters == ALL:
                kept, dropped = _without_copies(kept, dropped)
            _write(draft, kept, dropped, (catalogue, interactions), config)
            draft.counts["processes"] = team.size
    team.wait()  # nobody reads the folder before it is there
    logger.info("%s traces kept, %s attempts dropped", len(kept), len(dropped))


def rehearse(config: SynthesizeConfig) -> str:
    """What `run` would ask the model, in numbers and three examples; asks nothing and writes nothing.

    Raises:
        InputError: the teacher is the rule-based one.
    """
    if config.teacher == RULES:
        raise InputError(
            "`teacher: rules` makes no calls, so there is nothing to rehearse; give an endpoint's URL."
        )
    catalogue = load_catalogue(config.locate("data"))
    config = _asked_of_model(config)
    return describe_calls(_questions(catalogue, load_interactions(config.locate("data")), config), config)


def purchases(interactions: Interactions, config: SynthesizeConfig) -> Iterator[Purchase]:
    """The newest training purchases of every user, each with the training purchases before it."""
    for user, sequence in enumerate(interactions.training_sequences()):
        yield from _purchases_of(user, sequence, config)


def synthesize(
    teacher: RuleTeacher, interactions: Interactions, config: SynthesizeConfig, team: Team = ALONE
) -> tuple[list[Trace], list[Dropped]]:
    """Explain purchases by rules; of each one the first attempt that no filter drops is kept.

    A user's intents are drawn from a seed of the user's own, whoever explains the others. Processes of a team
    share the users out, and the main one gets what all of them made.
    """
    sequences = interactions.training_sequences()

    def explained(first: int) -> tuple[list[Trace], list[Dropped]]:
        kept: list[Trace] = []
        dropped: list[Dropped] = []
        for user in range(first, min(first + _TOGETHER, len(sequences))):
            rng = np.random.default_rng([config.seed, user])
            for purchase in _purchases_of(user, sequences[user], config):
                for trace in _attempts(teacher, purchase, rng, config.attempts):
                    reason = reason_to_drop(trace, teacher.facts, format_only=config.filters == FORMAT)
                    if reason is None:
                        kept.append(trace)
                        break
                    dropped.append(_dropped(trace, reason))
        return kept, dropped

    shares = team.share_out(range(0, len(sequences), _TOGETHER), explained)
    return [trace for share, _ in shares for trace in share], [one for _, share in shares for one in share]


def ask_model(
    catalogue: Catalogue, interactions: Interactions, config: SynthesizeConfig
) -> tuple[list[Trace], list[Dropped], Account]:
    """Let a model explain purchases; what it wrote goes through the same filters.

    Args:
        catalogue: what purchases are shown by, and filters judge by.
        interactions: everybody's purchases, of which the training part is used.
        config: settings with an endpoint as `teacher`.

    Returns:
        What was kept, every answer that was not used with its reason, and what the calls used.
    """
    config = _asked_of_model(config)
    replies, account = ask_all(_questions(catalogue, interactions, config), config)
    facts = Facts(CatalogueWords(catalogue))
    kept: list[Trace] = []
    dropped: list[Dropped] = []
    for purchase, reply in zip(purchases(interactions, config), replies, strict=True):
        dropped += [
            Dropped(purchase.user, purchase.target, reason, text)
            for reason, text in zip(reply.reasons, reply.texts, strict=True)
        ]
        if reply.value is None:
            continue
        reason = reason_to_drop(reply.value, facts, format_only=config.filters == FORMAT)
        if reason is None:
            kept.append(reply.value)
        else:
            dropped.append(_dropped(reply.value, reason))
    return kept, dropped, account


def _purchases_of(user: int, sequence: np.ndarray, config: SynthesizeConfig) -> Iterator[Purchase]:
    first = max(config.min_history, len(sequence) - config.per_user)
    for place in range(first, len(sequence)):
        history = tuple(int(i) for i in sequence[max(0, place - config.max_history) : place])
        yield Purchase(user, history, int(sequence[place]))


def _write(
    draft: Draft,
    kept: list[Trace],
    dropped: Sequence[Dropped],
    shop: tuple[Catalogue, Interactions],
    config: SynthesizeConfig,
) -> None:
    """Write the files and their counts.

    Raises:
        InputError: nothing was kept.
    """
    catalogue, interactions = shop
    reasons = Counter(d.reason for d in dropped)
    if not kept:
        told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(4))
        raise InputError(
            f"No trace is left of {len(dropped)} attempts ({told}); the items need categories, and users "
            f"at least {config.min_history + 1} training purchases (lower `min_history`)."
        )
    save_traces(draft.path, kept)
    pl.DataFrame([vars(d) for d in dropped], schema=list(Dropped.__annotations__)).write_parquet(
        draft.path / DROPPED_FILE
    )
    removal = _removal(kept, interactions, config)
    (draft.path / REPORT_FILE).write_text(format_report(kept, dropped, removal, catalogue), "utf-8")
    draft.counts.update(traces=len(kept), attempts=len(kept) + len(dropped))
    draft.counts.update({f"dropped: {reason}": number for reason, number in reasons.most_common()})
    draft.counts.update({f"denoising: {name}": value for name, value in removal.items()})


def _without_copies(kept: list[Trace], dropped: list[Dropped]) -> tuple[list[Trace], list[Dropped]]:
    """Drop every trace that nearly repeats an earlier one."""
    copies = near_copies(kept)
    repeated = [
        _dropped(trace, "is a near-copy of an earlier trace")
        for trace, original in zip(kept, copies, strict=True)
        if original is not None
    ]
    return [t for t, original in zip(kept, copies, strict=True) if original is None], dropped + repeated


def _dropped(trace: Trace, reason: str) -> Dropped:
    return Dropped(trace.user, trace.target, reason, text_of(trace))


def _removal(
    kept: list[Trace], interactions: Interactions, config: SynthesizeConfig
) -> dict[str, int | float | None]:
    """How well step 5 leaves out the noise, where the simulator knows it; nothing of real purchases."""
    if not has_truth(config.locate("data")):
        return {}
    return removal_quality(kept, interactions.sequences, load_truth(config.locate("data")).is_noise)


def _asked_of_model(config: SynthesizeConfig) -> SynthesizeConfig:
    """The settings with which calls are made: checked, and with the answer's form in the request."""
    check_teacher(config)
    if not config.structured or "response_format" in config.parameters:
        return config
    return replace(config, parameters=config.parameters | {"response_format": schema()})


def _questions(
    catalogue: Catalogue, interactions: Interactions, config: SynthesizeConfig
) -> list[Question[Trace]]:
    teacher = ModelTeacher(catalogue)
    return [teacher.question(purchase) for purchase in purchases(interactions, config)]


def _attempts(teacher: RuleTeacher, p: Purchase, rng: np.random.Generator, attempts: int) -> list[Trace]:
    return [
        Trace(
            p.user,
            p.history,
            p.target,
            e.evidence,
            e.kinds,
            e.preference,
            e.intent,
            e.recommendation,
            e.rewritten,
        )
        for e in teacher.explain(p.history, rng, attempts)
    ]
