"""A real recommender over a tiny model, and clients of the service over it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.cli import main
from gream.data.store import Catalogue, Interactions
from gream.decoding.answer import Answer
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.recommend import Engine, Search
from gream.decoding.recommender import Question, Recommender
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
from fastapi.testclient import TestClient  # noqa: E402

from gream.serving import app as serve  # noqa: E402
from tests.serving.live import Service  # noqa: E402


class Watched(Recommender):
    """Remembers the groups that it answered, and waits for a word before each, where it is told to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.groups: list[int] = []
        self.threads: set[str] = set()
        self.gate: threading.Event | None = None

    def answer(self, questions: Sequence[Question], watch: Any = None) -> list[Answer]:
        self.threads.add(threading.current_thread().name)
        self.groups.append(len(questions))
        if self.gate:
            assert self.gate.wait(20)
        return super().answer(questions, watch)


@pytest.fixture
def recommender(
    model_and_tokenizer: tuple[Any, Any],
    prompter: Prompter,
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Watched:
    """24 items: titles that could be markup, one without a price."""
    model, tokenizer = model_and_tokenizer
    for weight in model.model.layers.parameters():  # strong layers, so that a history changes the list
        weight.data.mul_(12 if weight.dim() == 2 else 1)
    titles = [*catalogue.titles]
    titles[1] = "Ink <b>black</b> <a_1>"
    prices = np.array(catalogue.prices, dtype=np.float32)
    prices[2] = np.nan
    shop = replace(catalogue, titles=titles, prices=prices)
    constraint = TrieConstraint(names)
    scorer = PrefixPathScorer(constraint, ScorerShape(hidden_size=8)).eval().requires_grad_(False)
    engine = Engine(TorchBackend(model, tokenizer.pad_token_id), prompter, constraint, names, scorer)
    search = Search(num_beams=8, max_chain_tokens=12, temperature=1.0)
    return Watched(engine, shop, interactions, search)


@pytest.fixture
def client(recommender: Watched) -> Iterator[TestClient]:
    with TestClient(serve.create_app(recommender), base_url="http://localhost") as client:
        yield client


@pytest.fixture
def ask(client: TestClient) -> Callable[..., Any]:
    """Posts a request for recommendations."""
    return lambda **body: client.post("/v1/recommendations", json=body)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the simulator with names and an untrained model, in the least time."""
    folder = tmp_path_factory.mktemp("serving")
    run, recipe = folder / "run", folder / "recipe"
    recipe.mkdir()
    stages: dict[str, dict[str, Any]] = {
        "1-data": {"output": "data", "source": "simulator", "num_items": 120, "num_customers": 60},
        "2-text": {"data": "data", "output": "text"},
        "3-embed": {"data": "data", "text": "text", "output": "embeddings", "dim": 16},
        "4-sids": {"data": "data", "embeddings": "embeddings", "output": "sids", "codebook_size": 8},
        "5-vocab": {
            "sids": "sids",
            "text": "text",
            "output": "base",
            "hidden_size": 64,
            "num_layers": 1,
            "num_heads": 2,
        },
        "6-evaluate": {"data": "data", "sids": "sids", "model": "base", "output": "evaluation"}
        | {"reasoning": False, "max_users": 5},
    }
    for name, settings in stages.items():
        (recipe / f"{name}.yaml").write_text(json.dumps({"run_dir": str(run), **settings}))
    assert main(["run", str(recipe)]) == 0
    return run


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def service(run_folder: Path) -> Iterator[Service]:
    """A process that serves it."""
    service = Service(run_folder)
    yield service
    service.kill()
