"""Files for other tools: what is written is read back as the same data and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream import artifacts
from gream.data.lcrec import read_lcrec
from gream.data.recbole import read_recbole
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids.export import ExportConfig, export
from gream.semantic_ids.index_file import read_index
from gream.semantic_ids.layout import Names, SidLayout, save_names


@pytest.fixture
def run_dir(tmp_path: Path, catalogue: Catalogue, interactions: Interactions, names: Names) -> Path:
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    with artifacts.writing(tmp_path / "sids", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, names)
    return tmp_path


def test_all_files_come_back_as_the_same_data(
    run_dir: Path, tmp_path: Path, catalogue: Catalogue, interactions: Interactions, names: Names
) -> None:
    folder = tmp_path / "toys"
    files = export(ExportConfig(run_dir=str(run_dir), to=str(folder)))
    assert {file.name for file in files} >= {
        "toys.inter", "toys.item", "toys.inter.json", "toys.item.json", "toys.index.json", "toys.item2id",
    }  # fmt: skip
    bought = [
        (user, catalogue.item_ids[item])
        for user, items in zip(interactions.user_ids, interactions.sequences, strict=True)
        for item in items
    ]
    for source in (read_recbole(folder / "toys.inter", None), read_lcrec(folder, None)):
        assert source.purchases.select("user_id", "item_id").rows() == bought
        titles = dict(source.items.select("item_id", "title").rows())
        used = set(raw for _, raw in bought)
        assert titles == {
            r: t for r, t in zip(catalogue.item_ids, catalogue.titles, strict=True) if r in used
        }
    assert read_index(folder / "toys.index.json", catalogue)[0].codes.tolist() == names.codes.tolist()


def test_names_can_be_left_out(run_dir: Path, tmp_path: Path) -> None:
    files = export(ExportConfig(run_dir=str(run_dir), to=str(tmp_path / "toys"), sids=""))
    assert "toys.index.json" not in {file.name for file in files}


def test_a_place_that_holds_something_is_left_alone(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a folder to write into"):
        export(ExportConfig(run_dir=str(run_dir)))
    with pytest.raises(InputError, match="is there already"):
        export(ExportConfig(run_dir=str(run_dir), to=str(run_dir)))


def test_names_of_another_catalogue_are_refused(run_dir: Path, tmp_path: Path) -> None:
    with artifacts.writing(run_dir / "few", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, Names(SidLayout((2,)), np.array([[0], [1]], np.int32)))
    with pytest.raises(InputError, match="few names 2 items, but .* has 24"):
        export(ExportConfig(run_dir=str(run_dir), to=str(tmp_path / "toys"), sids="few"))


def test_times_of_purchases_come_back(
    run_dir: Path, tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    times = list(range(1000, 1000 + sum(map(len, interactions.sequences))))
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions, timestamps=pl.Series(times))
    export(ExportConfig(run_dir=str(run_dir), to=str(tmp_path / "toys")))
    source = read_recbole(tmp_path / "toys" / "toys.inter", None)
    assert source.purchases["timestamp"].to_list() == times
