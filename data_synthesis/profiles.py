"""Stage `synthesize profiles`: title, description and reviews of each item as one product text by a model.

As in GREAM (arXiv 2510.20815, text enrichment in its reference implementation): up to eight reviews of at
least 20 characters, of purchases in the training part only, and the text takes the place of the description.
Ours asks for items without a review too, draws reviews by seed, and keeps what it made apart from the
catalogue, so that a second run never enriches the enriched text.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from data_synthesis.asking import Question, Unusable, ask_all
from data_synthesis.questions import question
from data_synthesis.rehearsal import describe_calls
from data_synthesis.settings import TeacherConfig, check_teacher
from gream.arguments import input_folder, option
from gream.artifacts import Draft
from gream.data.store import Catalogue, load_catalogue, load_training_reviews
from gream.errors import InputError
from gream.processes import find_team, writing_once
from gream.semantic_ids.item_text import PROFILES_FILE, PROFILES_STAGE

logger = logging.getLogger(__name__)

STAGE = PROFILES_STAGE

_SHORTEST_REVIEW = 20  # characters
_LONGEST_DESCRIPTION = 2000  # characters that a prompt shows
_SHORTEST_PROFILE = 40  # characters; less describes nothing


@dataclass(kw_only=True)
class ProfilesConfig(TeacherConfig):
    """Settings of `gream synthesize profiles`."""

    output: str = option("profiles", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    max_reviews: int = option(8, doc="reviews of an item that are shown, drawn by seed")
    max_review: int = option(500, doc="characters of a review that are shown")


CONFIG = ProfilesConfig


def run(config: ProfilesConfig) -> None:
    """Write `profiles.parquet` with the columns item, item_id and profile."""
    check_teacher(config)
    catalogue = load_catalogue(config.locate("data"))
    team = find_team()
    with writing_once(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        if draft:  # of several processes one asks: a budget is for all calls
            _write(draft, catalogue, config)
    team.wait()  # nobody reads the folder before it is there


def rehearse(config: ProfilesConfig) -> str:
    """What `run` would ask, in numbers and three examples; asks nothing and writes nothing."""
    check_teacher(config)
    catalogue = load_catalogue(config.locate("data"))
    _, questions = questions_about(catalogue, load_training_reviews(config.locate("data")), config)
    return describe_calls(questions, config)


def questions_about(
    catalogue: Catalogue, reviews: dict[int, list[str]], config: ProfilesConfig
) -> tuple[list[int], list[Question[str]]]:
    """The items of which anything is known, and what to ask about each of them."""
    rng = np.random.default_rng(config.seed)
    items: list[int] = []
    questions: list[Question[str]] = []
    for item, (title, description) in enumerate(zip(catalogue.titles, catalogue.descriptions, strict=True)):
        shown = _draw(reviews.get(item, []), config, rng)
        if not (title.strip() or description.strip() or shown):
            continue
        path = catalogue.categories[item]
        messages = question(
            "profile",
            title=title,
            brand=catalogue.brands[item],
            category=path[-1] if path else "",
            description=description[:_LONGEST_DESCRIPTION],
            reviews=shown,
        )
        items.append(item)
        questions.append(Question(messages, read_profile))
    return items, questions


def read_profile(text: str) -> str:
    """Read an answer as a product text on one line.

    Raises:
        Unusable: the answer is next to nothing.
    """
    profile = " ".join(text.rpartition("</think>")[2].split())
    if len(profile) < _SHORTEST_PROFILE:
        raise Unusable(f"the text has less than {_SHORTEST_PROFILE} characters")
    return profile


def _write(draft: Draft, catalogue: Catalogue, config: ProfilesConfig) -> None:
    """Ask, and write what was answered.

    Raises:
        InputError: no item has a profile.
    """
    items, questions = questions_about(catalogue, load_training_reviews(config.locate("data")), config)
    replies, account = ask_all(questions, config)
    for sentence in account.sentences():
        logger.info("%s", sentence)
    rows = [
        (item, catalogue.item_ids[item], reply.value)
        for item, reply in zip(items, replies, strict=True)
        if reply.value is not None
    ]
    reasons = Counter(reason for reply in replies for reason in reply.reasons)
    if not rows:
        told = ", ".join(f"{reason} {number}" for reason, number in reasons.most_common(4))
        raise InputError(f"No item has a profile ({told or 'none was asked for'}); see to the teacher.")
    schema = {"item": pl.Int64, "item_id": pl.String, "profile": pl.String}
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(draft.path / PROFILES_FILE)
    draft.counts.update(items=len(catalogue), profiles=len(rows), **account.counts())
    draft.counts.update({f"not used: {reason}": number for reason, number in reasons.most_common()})
    logger.info("%s of %s items have a profile", f"{len(rows):,}", f"{len(catalogue):,}")


def _draw(reviews: list[str], config: ProfilesConfig, rng: np.random.Generator) -> list[str]:
    long = [text for text in reviews if len(text.strip()) >= _SHORTEST_REVIEW]
    drawn = rng.choice(len(long), size=min(config.max_reviews, len(long)), replace=False)
    return [long[place].strip()[: config.max_review] for place in sorted(drawn)]
