"""A real catalogue: the evidence for fused vectors, names that pass, and names that other tools read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from gream.data.prepare import DataConfig
from gream.data.prepare import run as run_data
from gream.data.store import load_catalogue
from gream.semantic_ids.build import SidsConfig
from gream.semantic_ids.build import run as run_sids
from gream.semantic_ids.embed import EmbedConfig
from gream.semantic_ids.embed import run as run_embed
from gream.semantic_ids.export import ExportConfig, export
from gream.semantic_ids.index_file import read_index
from gream.semantic_ids.item_text import TextConfig
from gream.semantic_ids.item_text import run as run_text
from gream.semantic_ids.layout import load_names

REAL = Path(os.environ.get("GREAM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "scientific"


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent; set GREAM_DATA to the folder with the real data")
    run_dir = tmp_path_factory.mktemp("real")
    run_data(DataConfig(run_dir=str(run_dir), source="jsonl", path=str(REAL), deduplicate=False))
    run_text(TextConfig(run_dir=str(run_dir)))
    run_embed(EmbedConfig(run_dir=str(run_dir), dim=96, collaborative=0.5))
    run_sids(SidsConfig(run_dir=str(run_dir)))
    return run_dir


@pytest.mark.real_data
def test_text_and_purchases_together_predict_better_than_either(named: Path) -> None:
    report = json.loads((named / "embeddings" / "embeddings_report.json").read_text())
    recall = {row["weight"]: row["recall@10"] for row in report["rows"]}
    # An eighth more than the better one; the recorded figures are .104, .135 and .110.
    assert recall[0.5] > 1.125 * max(recall[0.0], recall[1.0])


@pytest.mark.real_data
def test_names_of_a_real_catalogue_are_unique_and_pass(named: Path) -> None:
    report = json.loads((named / "sids" / "sids_report.json").read_text())
    assert report["items"] == 4344 == len(np.unique(load_names(named / "sids").codes, axis=0))
    assert report["verdict"]["passed"], report["verdict"]["sentence"]
    first = report["levels"][0]
    assert first["balance"] < 1.1
    assert first["neighbours"]["kept"] > 50 * first["neighbours"]["chance"]
    assert first["next_item"]["bits"] < first["next_item"]["bits_without_last"] - 0.5
    assert report["bits_for_the_next_item"] < np.log2(4344)


@pytest.mark.real_data
def test_its_index_is_read_again(named: Path, tmp_path: Path) -> None:
    export(ExportConfig(run_dir=str(named), to=str(tmp_path / "scientific")))
    names, _ = read_index(tmp_path / "scientific" / "scientific.index.json", load_catalogue(named / "data"))
    assert names.codes.tolist() == load_names(named / "sids").codes.tolist()
