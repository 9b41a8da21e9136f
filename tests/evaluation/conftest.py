"""A run of the toy shop, ready to be evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.language.vocab import save_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, save_names


@pytest.fixture
def run_dir(
    tmp_path: Path,
    catalogue: Catalogue,
    interactions: Interactions,
    names: Names,
    model_and_tokenizer: tuple[Any, Any],
) -> Path:
    """A run up to the evaluation: data, names, a model, the same model as the one before, a scorer."""
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
        draft.counts["best_reachable_recall@5"] = 0.9
    for folder in ("sids", "model", "prm"):
        (tmp_path / folder).mkdir()
    save_names(tmp_path / "sids", names)
    save_model(tmp_path / "model", *model_and_tokenizer, names)
    shape = ScorerShape(hidden_size=8, num_layers=1, num_heads=2)
    save_scorer(tmp_path / "prm", PrefixPathScorer(TrieConstraint(names), shape), names)
    return tmp_path
