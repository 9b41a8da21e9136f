"""The example in the documentation of `Recommender` runs as it stands there."""

from __future__ import annotations

import doctest
from pathlib import Path

import polars as pl
import pytest

from gream.artifacts import writing
from gream.data.store import CATALOGUE_FILE
from gream.decoding import recommender


def test_the_documented_example_runs(
    run_folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder where `runs/demo` is the toy run, with ids as the demo spells them."""
    data = run_folder / "data"
    ids = pl.format("item-{}", pl.col("item").cast(pl.String).str.zfill(4))
    with writing(data, stage="data", config={}, inputs={}, seed=0) as draft:
        for file in data.glob("*.parquet"):
            (draft.path / file.name).write_bytes(file.read_bytes())
        catalogue = pl.read_parquet(data / CATALOGUE_FILE).with_columns(item_id=ids)
        catalogue.write_parquet(draft.path / CATALOGUE_FILE)
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(run_folder)
    monkeypatch.chdir(folder)
    [example] = [
        test for test in doctest.DocTestFinder().find(recommender) if test.name.endswith("Recommender")
    ]
    result = doctest.DocTestRunner().run(example)
    assert (result.failed, result.attempted) == (0, 9)
