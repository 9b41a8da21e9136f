"""Names side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids.build import SidsConfig, run
from gream.semantic_ids.comparison import compare
from gream.semantic_ids.embed import EMBEDDINGS_FILE


@pytest.fixture
def run_dir(tmp_path: Path, catalogue: Catalogue, interactions: Interactions) -> Path:
    vectors = np.random.default_rng(1).normal(size=(len(catalogue), 5)).astype(np.float32)
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    with artifacts.writing(tmp_path / "embeddings", stage="embed", config={}, inputs={}, seed=0) as draft:
        np.save(draft.path / EMBEDDINGS_FILE, vectors)
    for output, method in (("residual", "residual_kmeans"), ("parallel", "opq")):
        run(SidsConfig(run_dir=str(tmp_path), output=output, method=method, num_codebooks=2, codebook_size=4))
    return tmp_path


def test_every_set_of_names_gets_a_column(run_dir: Path) -> None:
    lines = compare([run_dir / "residual", run_dir / "parallel"]).splitlines()
    assert lines[0] == "| | residual | parallel |"
    table = {line.split("|")[1].strip(): line.split("|")[2:4] for line in lines[2:]}
    assert [cell.strip() for cell in table["method"]] == ["residual_kmeans", "opq"]
    assert [cell.strip() for cell in table["ordered"]] == ["yes", "no"]
    assert {"shared a name before", "bits for the next item", "error left by level", "verdict"} <= set(table)
    assert "different catalogues" not in lines[-1]


def test_folders_of_one_name_are_told_apart_by_their_paths(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "other").mkdir()
    (run_dir / "residual").rename(run_dir / "other" / "parallel")
    folders = [run_dir / "parallel", run_dir / "other" / "parallel"]
    assert compare(folders).splitlines()[0] == f"| | {folders[0]} | {folders[1]} |"


def test_one_folder_or_a_folder_without_names_is_refused(run_dir: Path) -> None:
    with pytest.raises(InputError, match="needs two or more folders"):
        compare([run_dir / "residual"])
    with pytest.raises(InputError, match="embeddings was written by `gream embed`"):
        compare([run_dir / "residual", run_dir / "embeddings"])
