"""`gream sids --add items.jsonl`: name items that came later, without any retraining.

The stored text space, the stored codebooks, the stored names: nothing of them changes, so every model that
knows the old names goes on. Two folders are written beside those of the run, `data-added` and `sids-added`
(the names of the stages' folders with that ending), and the run's `run.json` points to them from then on.
Adding again adds to these.

Legend: N items so far, M new items, D embedding.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream import artifacts
from gream.arguments import StageConfig
from gream.data.sources import read_items
from gream.data.store import CATALOGUE_FILE, Catalogue, load_catalogue
from gream.data.unusable import Unusable
from gream.errors import InputError
from gream.semantic_ids.build import SidsConfig, name_items
from gream.semantic_ids.collisions import name_new_items
from gream.semantic_ids.embed import load_embeddings, require_finite
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
_NAMED = 3


@dataclass(frozen=True)
class Run:
    """The folders that items are added to, and those that will hold the result."""

    data: Path
    sids: Path
    new_data: Path
    new_sids: Path


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
    run = _find_run(config)
    catalogue, names = load_catalogue(run.data), load_names(run.sids)
    items = _read(file, catalogue)
    quantiser = load_quantiser(run.sids)
    vectors = _embed(config, items)
    added = name_new_items(vectors, quantiser, names)
    report: dict[str, Any] = {
        "items_before": len(names),
        "items_added": len(vectors),
        "names": {raw: added.spell(len(names) + place) for place, raw in enumerate(items["item_id"])},
        "rebuild": compare_with_rebuild(vectors, quantiser, added, catalogue, config),
    }
    _write_data(config, run, items, file)
    _write_sids(config, run, added, quantiser, report, file)
    _point_run_to(config, run)
    logger.info(format_added(report, run))
    return report


def compare_with_rebuild(
    vectors: np.ndarray, quantiser: Quantiser, added: Names, catalogue: Catalogue, config: SidsConfig
) -> dict[str, Any] | None:
    """Fit the quantiser again on all items and compare what it says of the new ones.

    Args:
        vectors: (M, D) of the new items.
        quantiser: the stored one.
        added: names of all items, the new ones last.
        catalogue: the items before.
        config: of the stage, which decides the quantiser.

    Returns:
        With the stored and the rebuilt codebooks: the error of the new items as a share of their squared
        length, and the share of their ten nearest neighbours that have the same first code. None for
        imported names, which nothing can rebuild.
    """
    if config.method == "index":
        return None
    known = load_embeddings(config.locate("embeddings"))
    every = np.concatenate([known, vectors])
    first, rebuilt, names = name_items(every, catalogue, config)
    new = np.arange(len(known), len(every))
    codes = np.concatenate([added.codes[: len(known)], added.codes[len(added) - len(vectors) :]])
    near = find_neighbours(every, new).nearest
    return {
        name: {
            "error": _error(found, vectors, table[new]),
            "neighbours_with_the_first_code": float((table[near, 0] == table[new, None, 0]).mean()),
        }
        for name, found, table in (("stored", quantiser, codes), ("rebuilt", rebuilt, names.codes))
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


def _find_run(config: SidsConfig) -> Run:
    """Add to what was added before, if that still belongs to the names of the stage."""
    data, sids = config.locate("data"), config.output_path
    artifacts.read_manifest(sids, stage="sids")
    new_data, new_sids = data.with_name(data.name + ENDING), sids.with_name(sids.name + ENDING)
    if (new_sids / artifacts.MANIFEST).is_file() and (new_data / artifacts.MANIFEST).is_file():
        longer = load_names(new_sids)
        same = longer.fingerprint() == load_names(sids).fingerprint()
        if same and len(longer) == len(load_catalogue(new_data)):
            return Run(new_data, new_sids, new_data, new_sids)
    return Run(data, sids, new_data, new_sids)


def _read(file: Path, catalogue: Catalogue) -> pl.DataFrame:
    unusable = Unusable()
    items, _ = read_items(file, unusable)
    unusable.check(0.0, "nothing: every line of this file must be an item")
    known = [raw for raw in items["item_id"] if raw in catalogue.index]
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


def _write_data(config: SidsConfig, run: Run, items: pl.DataFrame, file: Path) -> None:
    """Write the longer catalogue beside the purchases as they are."""
    before = artifacts.read_manifest(run.data, stage="data")
    catalogue = pl.read_parquet(run.data / CATALOGUE_FILE)
    rows = items.with_columns(
        item=pl.int_range(len(catalogue), len(catalogue) + len(items), dtype=pl.Int64),
        price=pl.col("price").fill_null(float("nan")),
    ).select(catalogue.columns)
    inputs = {"data": config.locate("data"), "items": file}
    with _writing(run.new_data, "data", before, config, inputs) as draft:
        for name in before.outputs:
            if name != CATALOGUE_FILE:
                shutil.copy(run.data / name, draft.path / name)
        pl.concat([catalogue, rows], how="vertical_relaxed").write_parquet(draft.path / CATALOGUE_FILE)
        draft.counts.update(before.counts, items=len(catalogue) + len(items), items_added=len(items))


def _write_sids(
    config: SidsConfig, run: Run, added: Names, quantiser: Quantiser, report: dict[str, Any], file: Path
) -> None:
    before = artifacts.read_manifest(run.sids, stage="sids")
    with _writing(run.new_sids, "sids", before, config, {"sids": config.output_path, "items": file}) as draft:
        save_names(draft.path, added)
        save_quantiser(draft.path, quantiser)
        (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        draft.counts.update(items=len(added), items_added=report["items_added"])


def _writing(
    folder: Path, stage: str, before: artifacts.Manifest, config: StageConfig, inputs: dict[str, Path]
) -> Any:
    return artifacts.writing(
        folder, stage=stage, config={**before.config, "added_to": True}, inputs=inputs, seed=config.seed
    )


def _point_run_to(config: SidsConfig, run: Run) -> None:
    """Let a finished run be served with the new items from now on."""
    file = Path(config.run_dir) / RUN_FILE
    if not file.is_file():
        return
    settings = json.loads(file.read_text())
    names = {run.data.name, run.new_data.name}, {run.sids.name, run.new_sids.name}
    if settings["data"] in names[0] and settings["sids"] in names[1]:
        settings |= {"data": run.new_data.name, "sids": run.new_sids.name}
        file.write_text(json.dumps(settings, indent=2) + "\n")


def _error(quantiser: Quantiser, vectors: np.ndarray, codes: np.ndarray) -> float:
    books = range(len(quantiser.codebooks))
    left = vectors - quantiser.reconstruct(quantiser.project(vectors), codes, books)
    length = float((vectors**2).sum(dtype=np.float64))
    return float((left**2).sum(dtype=np.float64)) / max(length, 1e-12)  # guard: vectors of nothing but zeros
