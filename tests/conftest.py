"""A toy shop of 24 items and a model of a few thousand parameters, built from configs: no download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.artifacts import writing
from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions, save_dataset
from gream.decoding.recommender import RUN_FILE
from gream.language.prompting import Prompter
from gream.language.vocab import build_model, extend, save_model, train_tokenizer
from gream.semantic_ids.layout import Names, SidLayout, save_names

torch.set_num_threads(1)  # the models are so small that a second thread only waits

NUM_ITEMS, NUM_USERS = 24, 15
KINDS = ("printers", "ink", "paper", "tents", "stoves", "lamps")


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """24 items, four of each kind, two departments, three brands."""
    kinds = [KINDS[i // 4] for i in range(NUM_ITEMS)]
    brands = [("Volta", "Orrin", "Kesk")[i % 3] for i in range(NUM_ITEMS)]
    return Catalogue(
        item_ids=[f"item-{i}" for i in range(NUM_ITEMS)],
        titles=[f"{brands[i]} {kinds[i]} model {i}" for i in range(NUM_ITEMS)],
        descriptions=[f"Good {kinds[i]} for every day." for i in range(NUM_ITEMS)],
        brands=brands,
        categories=[("office" if i < 12 else "camping", kinds[i]) for i in range(NUM_ITEMS)],
        prices=np.linspace(1, 24, NUM_ITEMS).astype(np.float32),
    )


@pytest.fixture(scope="session")
def interactions() -> Interactions:
    """15 users with 4 to 9 different items each; the last two are validation and test."""
    rng = np.random.default_rng(3)
    sequences = [rng.permutation(NUM_ITEMS)[: 4 + user % 6].astype(np.int64) for user in range(NUM_USERS)]
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions(user_ids=[f"user-{u}" for u in range(NUM_USERS)], sequences=sequences, splits=splits)


@pytest.fixture(scope="session")
def names() -> Names:
    """Names of three unequal codebooks; the 24 paths are drawn from 60."""
    layout = SidLayout((3, 4, 5))
    every = np.stack(np.unravel_index(np.arange(60), layout.codebook_sizes), axis=1)
    chosen = np.random.default_rng(5).permutation(60)[:NUM_ITEMS]
    return Names(layout, every[chosen].astype(np.int32))


@pytest.fixture(scope="session")
def codebooks(names: Names) -> list[np.ndarray]:
    """Centroids that `names` could have come from."""
    rng = np.random.default_rng(6)
    return [rng.standard_normal((size, 8)).astype(np.float32) for size in names.layout.codebook_sizes]


@pytest.fixture
def model_and_tokenizer(catalogue: Catalogue, names: Names, codebooks: list[np.ndarray]) -> tuple[Any, Any]:
    """A fresh two-layer model that knows the item tokens, and its tokenizer."""
    tokenizer = train_tokenizer([*catalogue.titles, *catalogue.descriptions], 400)
    model = build_model(len(tokenizer), hidden_size=32, num_layers=2, num_heads=2, seed=1)
    extend(model, tokenizer, names, codebooks, seed=1)
    return model.eval(), tokenizer


@pytest.fixture
def prompter(model_and_tokenizer: tuple[Any, Any], names: Names) -> Prompter:
    """Prompter of the toy model; prompts show five purchases."""
    return Prompter(model_and_tokenizer[1], names, max_history=5)


@pytest.fixture
def run_folder(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Path:
    """A finished run of the toy shop, without a scorer."""
    with writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    with writing(tmp_path / "sids", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, names)
    save_model(tmp_path / "srpo", *model_and_tokenizer, names)
    folders = {"data": "data", "sids": "sids", "model": "srpo", "scorer": ""}
    settings = {"max_history": 5, "num_beams": 8, "rule": "sum"}
    settings |= {"scorer_weight": 0.5, "scorer_levels": [1, 2], "prune_threshold": None, "prune_level": None}
    settings |= {"num_chains": 4, "max_chain_tokens": 6, "temperature": 0.7, "choose": "best", "agree": 3}
    (tmp_path / RUN_FILE).write_text(json.dumps(folders | settings))
    return tmp_path
