"""`gream export RUN --to FOLDER`: purchases, items and names in the forms of RecBole and LC-Rec.

So that people can compare gream with those tools on the same data, and go to them without a script.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from gream.arguments import StageConfig, input_folder, option
from gream.data.lcrec import write_lcrec
from gream.data.recbole import write_recbole
from gream.data.store import INTERACTIONS_FILE, load_catalogue, load_interactions
from gream.errors import InputError
from gream.semantic_ids.index_file import INDEX_SUFFIX, write_index
from gream.semantic_ids.layout import load_names

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ExportConfig(StageConfig):
    """Settings of `gream export`."""

    data: str = input_folder("data", doc="folder written by `gream data`")
    sids: str = input_folder("sids", doc="folder written by `gream sids`; empty leaves the names out")
    to: str = option("", doc="folder to write into; its name is the name of the set")


def export(config: ExportConfig) -> list[Path]:
    """Write `X.inter`, `X.item` (RecBole) and `X.inter.json`, `X.item.json`, `X.index.json` (LC-Rec).

    Returns:
        All files of the folder, sorted.

    Raises:
        InputError: no place to write to, one that holds something, or names of another catalogue.
    """
    if not config.to:
        raise InputError("`gream export` needs a folder to write into; give it as `--to FOLDER`.")
    folder = Path(config.to).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already and not an empty folder; choose another `--to`.")
    data = config.locate("data")
    catalogue, interactions = load_catalogue(data), load_interactions(data)
    names = load_names(config.locate("sids")) if config.sids else None
    if names is not None and len(names) != len(catalogue):
        raise InputError(
            f"{config.locate('sids')} names {len(names):,} items, but {data} has {len(catalogue):,}; give "
            "the `--sids` that was made for this data."
        )
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.resolve().name
    times = pl.read_parquet(data / INTERACTIONS_FILE).sort("user", "position")["timestamp"]
    write_recbole(folder, name, catalogue, interactions, times if times.null_count() == 0 else None)
    write_lcrec(folder, name, catalogue, interactions)
    if names is not None:
        write_index(folder / f"{name}{INDEX_SUFFIX}", names)
    files = sorted(folder.iterdir())
    logger.info("wrote %s", ", ".join(str(file) for file in files))
    return files
