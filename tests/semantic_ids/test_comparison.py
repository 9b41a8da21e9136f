"""Names side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids.build import SidsConfig, run
from gream.semantic_ids.comparison import compare, summary
from gream.semantic_ids.embeddings_file import EMBEDDINGS_FILE


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


def test_names_of_different_catalogues_are_compared_with_care(
    run_dir: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    few = Interactions(interactions.user_ids[:1], interactions.sequences[:1], interactions.splits[:1])
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, few)
    run(SidsConfig(run_dir=str(run_dir), output="other", num_codebooks=2, codebook_size=4))
    assert "different catalogues" in compare([run_dir / "residual", run_dir / "other"]).splitlines()[-1]


def test_names_without_a_report_are_refused(run_dir: Path) -> None:
    (run_dir / "parallel" / "sids_report.json").unlink()
    with pytest.raises(InputError, match="sids_report.json is missing, damaged or changed since"):
        compare([run_dir / "residual", run_dir / "parallel"])


def test_the_figures_of_a_report_by_hand() -> None:
    level = {
        "quantised": True, "perplexity": 7.6, "balance": 1.25, "reconstruction_error": 0.5,
        "error_without": 0.75, "category_purity": [0.9, 0.4], "neighbours": {"kept": 0.3},
    }  # fmt: skip
    last = level | {"quantised": False, "reconstruction_error": None, "error_without": None}
    figures = summary(
        {
            "method": "opq", "codebook_sizes": [8, 2], "ordered": False, "items": 40,
            "collisions": {"rate_before": 0.2, "items_before": 8, "items_renamed": 2, "rate_after": 0.0},
            "levels": [level, last], "neighbours_kept": 0.25, "bits_for_the_next_item": 4.5,
            "verdict": {"passed": True, "sentence": "Pass."},
        }
    )  # fmt: skip
    assert list(figures.values()) == [
        "opq", "8 x 2", "no", "40", "20.0%", "5.0%", "0.0%", "8", "1.2", "0.500", "0.750", "0.400", "0.300",
        "0.250", "4.50", "pass",
    ]  # fmt: skip
