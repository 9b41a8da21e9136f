"""A run folder up to the model, for tests of the training stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gream.artifacts import writing
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.language.vocab import save_model
from gream.semantic_ids.layout import Names, save_names


@pytest.fixture
def run_dir(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Path:
    """Data, names and the fresh model of the toy shop."""
    with writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    (tmp_path / "sids").mkdir()
    save_names(tmp_path / "sids", names)
    save_model(tmp_path / "base", *model_and_tokenizer, names)
    return tmp_path
