"""Stage `text`: one text for each item, out of title, brand, category path and description.

GREAM (arXiv 2510.20815) encodes title and description separately and averages the vectors; ours makes one
text, so that brand and categories count too and a missing description weighs nothing. As there, a profile
that a teacher wrote of an item (`gream synthesize profiles`) takes the place of its description.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import Catalogue, load_catalogue
from gream.errors import InputError

logger = logging.getLogger(__name__)

STAGE = "text"
TEXT_FILE = "item_text.parquet"
PROFILES_STAGE = "synthesize profiles"
PROFILES_FILE = "profiles.parquet"  # item, item_id, profile; items without a profile are left out

_NAMED_IDS = 3  # items without a text that the log names before it only counts them


@dataclass(kw_only=True)
class TextConfig(StageConfig):
    """Settings of the stage `text`."""

    output: str = option("text", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder written by `gream data`")
    profiles: str = input_folder("", doc="folder written by `gream synthesize profiles`; empty for none")
    max_description: int = option(
        500, doc="characters of a description, or profile, that are used; 0 leaves it out"
    )


CONFIG = TextConfig


def run(config: TextConfig) -> None:
    """Write `item_text.parquet` with the columns item and text; an item that has no text gets an empty one.

    Raises:
        InputError: `max_description` is negative, the input is no data folder, or the profiles are of another
            catalogue.
    """
    catalogue = load_catalogue(config.locate("data"))
    if config.profiles:
        catalogue = with_profiles(catalogue, config.locate("profiles"))
    with artifacts.writing(
        config.output_path,
        stage=STAGE,
        config=config.recorded(),
        inputs=config.inputs(),
        seed=config.seed,
    ) as draft:
        texts = item_texts(catalogue, max_description=config.max_description)
        items = np.arange(len(texts), dtype=np.int64)
        pl.DataFrame({"item": items, "text": pl.Series(texts, dtype=pl.String)}).write_parquet(
            draft.path / TEXT_FILE
        )
        characters = sum(map(len, texts))
        draft.counts.update(
            items=len(texts),
            without_text=texts.count(""),
            without_title=sum(not title.strip() for title in catalogue.titles),
            without_description=sum(not text.strip() for text in catalogue.descriptions),
            **({"with_profile": _read_profiles(config.locate("profiles")).height} if config.profiles else {}),
            mean_characters=round(characters / max(len(texts), 1), 1),
        )
    empty = [raw for raw, text in zip(catalogue.item_ids, texts, strict=True) if not text]
    if empty:
        logger.info(
            "%s items have no text (%s%s); only their purchases can say what they are",
            f"{len(empty):,}",
            ", ".join(empty[:_NAMED_IDS]),
            ", ..." if len(empty) > _NAMED_IDS else "",
        )
    logger.info("%s; in %s", ", ".join(f"{k} {v:,}" for k, v in draft.counts.items()), config.output_path)


def with_profiles(catalogue: Catalogue, folder: Path) -> Catalogue:
    """The catalogue with profiles in place of descriptions; an item without a profile keeps its description.

    Raises:
        InputError: the folder is not the output of `gream synthesize profiles`, or is of another catalogue.
    """
    descriptions = list(catalogue.descriptions)
    for item, raw, profile in _read_profiles(folder).select("item", "item_id", "profile").iter_rows():
        if item >= len(catalogue) or catalogue.item_ids[item] != raw:
            raise InputError(
                f"{folder} holds a profile of `{raw}` as item {item}, where this catalogue of "
                f"{len(catalogue):,} items has another or none; run `gream synthesize profiles` for it."
            )
        descriptions[item] = profile
    return replace(catalogue, descriptions=descriptions)


def load_item_text(folder: Path) -> list[str]:
    """Read the texts, item 0 first.

    Raises:
        InputError: the folder is not the output of `gream text`.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    texts: list[str] = pl.read_parquet(folder / TEXT_FILE).sort("item")["text"].to_list()
    return texts


def item_texts(catalogue: Catalogue, *, max_description: int) -> list[str]:
    """Write the text of every item, empty for one without title, brand, category and description.

    Args:
        catalogue: the items.
        max_description: characters of a description that are used.

    Raises:
        InputError: `max_description` is negative.
    """
    if max_description < 0:
        raise InputError(
            f"`max_description` is {max_description}, but must be 0 or more; 0 leaves descriptions out."
        )
    fields = zip(
        catalogue.titles, catalogue.brands, catalogue.categories, catalogue.descriptions, strict=True
    )
    return [compose(*values, max_description=max_description) for values in fields]


def compose(
    title: str, brand: str, categories: Sequence[str], description: str, *, max_description: int
) -> str:
    """Join what is known of an item to one text: "Title. Brand. Coarse > Fine. Description".

    Whitespace is collapsed; parts that are empty are left out. A description longer than
    `max_description` characters ends at the last whole word before.
    """
    path = " > ".join(filter(None, (_collapse(name) for name in categories)))
    parts = (_collapse(title), _collapse(brand), path, _cut(_collapse(description), max_description))
    return ". ".join(filter(None, (part.rstrip(". ") for part in parts)))


def _read_profiles(folder: Path) -> pl.DataFrame:
    artifacts.read_manifest(folder, stage=PROFILES_STAGE)
    return pl.read_parquet(folder / PROFILES_FILE)


def _collapse(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    cut = text[:length]
    # A word cut in two is a wrong word; a text without any space is cut where the limit falls.
    return cut if text[length] == " " else cut.rpartition(" ")[0] or cut
