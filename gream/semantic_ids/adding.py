"""`gream sids --add items.jsonl`: name items that came later, without any retraining.

The stored text space, the stored codebooks, the stored names: nothing of them changes, so every model that
knows the old names goes on. Two folders are written beside those of the run, `data-added` and `sids-added`
(the names of the stages' folders with that ending), and the run's `run.json` points to them from then on.
Adding again adds to these; purchases are always those of the stage `data`.

Legend: N items of the stage, M new items, D embedding.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream import artifacts
from gream.data.sources import read_items
from gream.data.store import CATALOGUE_FILE, Catalogue, load_catalogue
from gream.data.unusable import Unusable
from gream.errors import InputError
from gream.semantic_ids.build import STAGE, SidsConfig, codebook_sizes, fit
from gream.semantic_ids.collisions import name_new_items, unique_names
from gream.semantic_ids.constraint_file import save_constraint
from gream.semantic_ids.embed import require_finite
from gream.semantic_ids.embeddings_file import load_embeddings
from gream.semantic_ids.item_text import STAGE as TEXT_STAGE
from gream.semantic_ids.item_text import item_texts
from gream.semantic_ids.layout import Names, load_names, save_names
from gream.semantic_ids.neighbourhood import find_neighbours
from gream.semantic_ids.new_items import embed_new_items
from gream.semantic_ids.quantiser import Quantiser, load_quantiser, save_quantiser

logger = logging.getLogger(__name__)

ENDING = "-added"
REPORT_FILE = "added_report.json"
RUN_FILE = "run.json"
LARGEST_REBUILD = 20_000  # items up to which a full rebuild is made to compare with; ours
_NAMED = 3


@dataclass(frozen=True)
class Run:
    """What items are added to: the stage's folders, and what was added to them before."""

    data: Path
    sids: Path
    names: Names  # all names so far
    added: pl.DataFrame  # catalogue rows of the items that were added before

    @property
    def new_data(self) -> Path:
        """Where the longer catalogue is."""
        return _beside(self.data)

    @property
    def new_sids(self) -> Path:
        """Where the longer names are."""
        return _beside(self.sids)


def add_items(config: SidsConfig, file: Path) -> dict[str, Any]:
    """Name the items of a JSONL file and write the longer catalogue and names.

    Args:
        config: the recipe's configuration of the stage `sids`, which has run.
        file: one item a line, as in the `items.jsonl` that `gream data` reads.

    Returns:
        What `added_report.json` holds: counts, the new names, and how far they are from a full rebuild.

    Raises:
        InputError: the stage has not run, an unusable line, an item that has a name already, or no free name.
    """
    manifest = artifacts.read_manifest(config.output_path, stage=STAGE)
    # The settings that made the names, whatever the recipe says by now.
    config = replace(config, **{k: v for k, v in manifest.config.items() if k != "output"})
    run = find_run(config.locate("data"), config.output_path)
    point_run_to(Path(config.run_dir), run)  # an interrupted command may have left it behind
    items = _read(file, run)
    quantiser = load_quantiser(run.sids)
    vectors = _embed(config, items)
    names = name_new_items(vectors, quantiser, run.names)
    spelled = {raw: names.spell(len(run.names) + place) for place, raw in enumerate(items["item_id"])}
    report: dict[str, Any] = {
        "items_before": len(run.names),
        "items_added": len(items),
        "names": spelled,
        "rebuild": compare_with_rebuild(vectors, quantiser, names, config),
    }
    _write(config, run, items, names, quantiser, report, file)
    point_run_to(Path(config.run_dir), find_run(run.data, run.sids))
    logger.info(format_added(report, run))
    return report


def find_run(data: Path, sids: Path) -> Run:
    """Find what was added to the folders of both stages, if it still belongs to their names.

    Raises:
        InputError: one of the stages has not run.
    """
    artifacts.read_manifest(sids, stage=STAGE)
    names, catalogue = load_names(sids), load_catalogue(data)
    rows, added = _rows(data), _beside(sids)
    if (added / artifacts.MANIFEST).is_file() and (_beside(data) / artifacts.MANIFEST).is_file():
        longer, more = load_names(added), _rows(_beside(data))
        same_items = more["item_id"][: len(rows)].equals(rows["item_id"])
        # An interruption may have left a longer catalogue than names: what has no name was not added.
        if longer.fingerprint() == names.fingerprint() and same_items and len(longer) <= len(more):
            return Run(data, sids, longer, more[len(catalogue) : len(longer)])
    return Run(data, sids, names, rows[:0])


def compare_with_rebuild(
    vectors: np.ndarray, quantiser: Quantiser, names: Names, config: SidsConfig
) -> dict[str, Any] | None:
    """Fit the quantiser again on all items and compare what it says of the new ones.

    Args:
        vectors: (M, D) of the new items.
        quantiser: the stored one.
        names: of all items, the new ones last.
        config: of the stage, which decides the quantiser.

    Returns:
        With the stored and the rebuilt codebooks: the error of the new items as a share of their squared
        length, and the share of their ten nearest neighbours that have the same first code. None for
        imported names, which nothing can rebuild, and for large catalogues, where it would take long.
    """
    known = load_embeddings(config.locate("embeddings"))
    every = np.concatenate([known, vectors])
    if config.method == "index" or len(every) > LARGEST_REBUILD or not len(vectors):
        return None
    first, rebuilt = fit(every, codebook_sizes(config, len(every)), config)
    new = np.arange(len(known), len(every))
    again = unique_names(every, first, rebuilt).codes
    stored = np.concatenate([names.codes[: len(known)], names.codes[len(names) - len(vectors) :]])
    near = find_neighbours(every, new).nearest
    return {
        name: {
            "error": _error(found, vectors, codes[new]),
            "neighbours_with_the_first_code": float((codes[near, 0] == codes[new, :1]).mean()),
        }
        for name, found, codes in (("stored", quantiser, stored), ("rebuilt", rebuilt, again))
    }


def format_added(report: dict[str, Any], run: Run) -> str:
    """Tell what was added, three names as a taste, and how far they are from a rebuild."""
    taste = ", ".join(f"{raw} {name}" for raw, name in list(report["names"].items())[:_NAMED])
    more = ", ..." if report["items_added"] > _NAMED else ""
    text = (
        f"{report['items_added']:,} items named ({taste}{more}); "
        f"all {report['items_before']:,} names before are as they were"
    )
    if report["rebuild"]:
        stored, rebuilt = report["rebuild"]["stored"], report["rebuild"]["rebuilt"]
        text += (
            f"\nnew items: {stored['error']:.3f} of the vector is left unsaid (a full rebuild: "
            f"{rebuilt['error']:.3f}), {stored['neighbours_with_the_first_code']:.0%} of the nearest "
            "neighbours have the same first code (a full rebuild: "
            f"{rebuilt['neighbours_with_the_first_code']:.0%})"
        )
    return f"{text}\nin {run.new_data} and {run.new_sids}"


def _read(file: Path, run: Run) -> pl.DataFrame:
    unusable = Unusable()
    items, _ = read_items(file, unusable)
    unusable.check(0.0, "nothing: every line of this file must be an item")
    named = {*_rows(run.data)["item_id"], *run.added["item_id"]}
    known = [raw for raw in items["item_id"] if raw in named]
    if known:
        raise InputError(
            f"{file} has {len(known):,} items that are named already "
            f"({', '.join(f'`{raw}`' for raw in known[:_NAMED])}); leave them out, names never change."
        )
    return items


def _embed(config: SidsConfig, items: pl.DataFrame) -> np.ndarray:
    """Vectors (M, D) of the new items, made as `gream text` and `gream embed` made the others."""
    folder = config.locate("embeddings")
    manifest = artifacts.read_manifest(folder, stage="embed")
    text = artifacts.read_manifest(Path(config.run_dir) / manifest.config["text"], stage=TEXT_STAGE)
    new = Catalogue(
        item_ids=items["item_id"].to_list(),
        titles=items["title"].to_list(),
        descriptions=items["description"].to_list(),
        brands=items["brand"].to_list(),
        categories=[tuple(path) for path in items["categories"].to_list()],
        prices=items["price"].fill_null(float("nan")).to_numpy(),
    )
    texts = item_texts(new, max_description=text.config["max_description"])
    vectors = embed_new_items(folder, texts)
    require_finite(vectors, new.item_ids, "new items")
    return vectors


def _write(
    config: SidsConfig,
    run: Run,
    items: pl.DataFrame,
    names: Names,
    quantiser: Quantiser,
    report: dict[str, Any],
    file: Path,
) -> None:
    """Write the longer catalogue, with the purchases as they are, and the longer names."""
    before = artifacts.read_manifest(run.data)
    rows = items.with_columns(item=pl.lit(0, dtype=pl.Int64), price=pl.col("price").fill_null(float("nan")))
    old = _rows(run.data)
    catalogue = pl.concat([old, run.added, rows.select(old.columns)], how="vertical_relaxed")
    inputs = {"data": run.data, "sids": run.sids, "items": file}
    # Both are written before either takes its place, so that little can come between them.
    with (
        _writing(run.new_sids, STAGE, config, inputs) as sids,
        _writing(run.new_data, "data", config, inputs) as data,
    ):
        for name in before.outputs:
            if name != CATALOGUE_FILE:
                shutil.copy(run.data / name, data.path / name)
        numbers = pl.Series("item", range(len(catalogue)), dtype=pl.Int64)
        catalogue.with_columns(numbers).write_parquet(data.path / CATALOGUE_FILE)
        data.counts.update(before.counts, items=len(catalogue), items_added=len(items))
        save_names(sids.path, names)
        save_constraint(sids.path, names)
        save_quantiser(sids.path, quantiser)
        (sids.path / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        sids.counts.update(items=len(names), items_added=len(items))


def _writing(folder: Path, stage: str, config: SidsConfig, inputs: dict[str, Path]) -> Any:
    recorded = {**config.recorded(), "output": folder.name, "added": True}
    return artifacts.writing(folder, stage=stage, config=recorded, inputs=inputs, seed=config.seed)


def point_run_to(run_dir: Path, run: Run) -> None:
    """Let a finished run that uses these names be served with the added items from now on."""
    file = run_dir / RUN_FILE
    if not file.is_file() or not len(run.added):
        return
    settings = json.loads(file.read_text())
    used = {name: run_dir / settings.get(name, "") for name in ("data", "sids")}
    if used["data"] in (run.data, run.new_data) and used["sids"] in (run.sids, run.new_sids):
        settings |= {"data": _beside_name(settings["data"]), "sids": _beside_name(settings["sids"])}
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(json.dumps(settings, indent=2) + "\n")
        os.replace(partial, file)
    else:
        logger.info("%s is served with other names and stays as it is", file)


def _rows(data: Path) -> pl.DataFrame:
    """Catalogue rows of a data folder, in the order of items."""
    artifacts.read_manifest(data, stage="data")
    return pl.read_parquet(data / CATALOGUE_FILE).sort("item")


def _beside(folder: Path) -> Path:
    return folder.with_name(folder.name + ENDING)


def _beside_name(name: str) -> str:
    return name if name.endswith(ENDING) else name + ENDING


def _error(quantiser: Quantiser, vectors: np.ndarray, codes: np.ndarray) -> float:
    books = range(len(quantiser.codebooks))
    left = vectors - quantiser.reconstruct(quantiser.project(vectors), codes, books)
    length = float((vectors**2).sum(dtype=np.float64))
    if not length:  # texts without a known word: there is nothing that a name could say
        return 1.0
    return float((left**2).sum(dtype=np.float64)) / length
