"""Data folders for the stages that ask a model: the toy shop, with reviews that say where they stand."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from gream.artifacts import writing
from gream.cli import main
from gream.data.store import SPLIT_NAMES, Catalogue, Interactions, save_dataset
from tests.data_synthesis.scripted_server import ScriptedServer


def write_data(run_dir: Path, catalogue: Catalogue, interactions: Interactions) -> Path:
    """Write `run_dir/data`; every review names its user, its item and the part it belongs to."""
    reviews = [
        f"In the {SPLIT_NAMES[mark]} part user {user} says of thing {item} that it is good."
        for user, (items, marks) in enumerate(zip(interactions.sequences, interactions.splits, strict=True))
        for item, mark in zip(items, marks, strict=True)
    ]
    with writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions, reviews=pl.Series(reviews))
    return run_dir


def synthesize(run_dir: Path, server: ScriptedServer, *words: str, stage: str = "traces") -> int:
    """Run a stage on the command line with the server as teacher; returns the exit code."""
    given = ["--run_dir", str(run_dir), "--teacher", server.url, "--model", "m", *words]
    return main(["synthesize", stage, *given])


@pytest.fixture
def run_dir(tmp_path: Path, catalogue: Catalogue, interactions: Interactions) -> Path:
    """A run's folder that holds the prepared data."""
    return write_data(tmp_path / "run", catalogue, interactions)
