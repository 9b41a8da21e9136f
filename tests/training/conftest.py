"""What tests of the training stages share: a run folder up to the model, a trie, a scorer, categories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.artifacts import writing
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.decoding.consistency import item_categories
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_shape import ScorerShape
from gream.language.vocab import save_model
from gream.semantic_ids.constraint import TrieConstraint
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


@pytest.fixture
def trie(names: Names) -> TrieConstraint:
    """The trie of the toy shop."""
    return TrieConstraint(names)


@pytest.fixture
def scorer(trie: TrieConstraint) -> PrefixPathScorer:
    """A scorer with an encoder of its own, whose every weight matters."""
    torch.manual_seed(0)
    shape = ScorerShape(hidden_size=8, num_layers=1, num_heads=2, dropout=0.2, max_history=6)
    scorer = PrefixPathScorer(trie, shape)
    for weight in scorer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return scorer.eval()


@pytest.fixture
def categories(catalogue: Catalogue) -> np.ndarray:
    """Two of them: office and camping."""
    return item_categories(catalogue.categories)
