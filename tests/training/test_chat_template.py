"""One chat template: what a training row shows is, token by token, what is asked for in every mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.data.store import TRAIN, Catalogue, Interactions
from gream.decoding.recommend import Engine, Search
from gream.decoding.recommender import Recommender
from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_backend import VllmBackend
from gream.language.history_tasks import next_item_rows
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace, reasoning_row
from gream.language.rows import Row, Source
from gream.language.vocab import build_model, save_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.training.packing import IGNORED
from gream.training.sft import SftConfig
from gream.training.sft_trainer import AnswerTrainer, rows_dataset, trainer_arguments

HISTORY = [3, 17, 5, 11, 2, 20, 8]  # more than the five that a prompt of the toy shop shows
TARGET = 9
SEARCH = Search(k=4, num_beams=6, num_chains=2, max_chain_tokens=5)
MODES = ("direct", "reasoning")


def row_of(mode: str, prompter: Prompter, catalogue: Catalogue) -> Row:
    """The training row whose history is `HISTORY`; the direct one from purchases, the other from a trace."""
    if mode == "reasoning":
        items, words = tuple(HISTORY), ("ink", "tents")
        trace = Trace(0, items, TARGET, items[:2], words, "prints", "needs ink", "paper", items[2:])
        return reasoning_row(trace, prompter)
    bought = Interactions(["u"], [np.array([*HISTORY, TARGET])], [np.full(8, TRAIN, dtype=np.int8)])
    source = Source(catalogue, bought, prompter)
    rng = np.random.default_rng(0)
    rows = [next_item_rows(source, rng)[0] for _ in range(600)]
    answer = [*prompter.name_ids(TARGET), prompter.end_of_turn]
    # Cut before the target one draw in seven; of all phrasings serving's is the most frequent.
    asked = Counter(tuple(prompt) for prompt, given in rows if given == answer)
    return list(asked.most_common(1)[0][0]), answer


def fed(row: Row, model: Any, prompter: Prompter, folder: Path, *, packing: bool) -> list[int]:
    """Prompt of a row as the trainer feeds it to the model: what stands before the first label."""
    trainer = AnswerTrainer(
        model=model,
        args=trainer_arguments(SftConfig(batch_size=1, packing=packing), folder),
        train_dataset=rows_dataset([row]),
        processing_class=prompter.tokenizer,
    )
    [batch] = trainer.get_train_dataloader()
    first = int((batch["labels"][0] != IGNORED).nonzero()[0])
    ids: list[int] = batch["input_ids"][0, :first].tolist()
    return ids


class Recorded:
    """A torch engine that notes the prompts it was given."""

    def __init__(self, backend: TorchBackend) -> None:
        self.backend, self.device = backend, backend.device
        self.prompts: list[list[int]] = []

    def complete(self, prompts: list[list[int]], **options: Any) -> Any:
        self.prompts += prompts
        return self.backend.complete(prompts, **options)

    def start(self, prompts: list[list[int]], **options: Any) -> Any:
        self.prompts += prompts
        return self.backend.start(prompts, **options)

    def close(self) -> None:
        self.backend.close()


@pytest.fixture
def recorded(model_and_tokenizer: tuple[Any, Any]) -> Recorded:
    model, tokenizer = model_and_tokenizer
    return Recorded(TorchBackend(model, tokenizer.pad_token_id))


@pytest.fixture
def recommender(
    recorded: Recorded, prompter: Prompter, names: Names, catalogue: Catalogue, interactions: Interactions
) -> Recommender:
    engine = Engine(recorded, prompter, TrieConstraint(names), names)
    return Recommender(engine, catalogue, interactions, SEARCH)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_torch_engine_is_asked_what_was_trained(
    mode: str, packing: bool, recommender: Recommender, recorded: Recorded, prompter: Prompter, tmp_path: Path
) -> None:
    history = [recommender.catalogue.item_ids[i] for i in HISTORY]
    recommender.recommend(history, k=4, mode=mode, num_chains=2)
    trained = fed(
        row_of(mode, prompter, recommender.catalogue),
        recorded.backend.model,
        prompter,
        tmp_path,
        packing=packing,
    )
    assert recorded.prompts[0] == trained
    assert len(recorded.prompts) == (
        1 if mode == "direct" else 3
    )  # chains from one prompt, a search after each
    assert all(prompt[: len(trained)] == trained for prompt in recorded.prompts)


@pytest.mark.parametrize("mode", MODES)
def test_the_name_is_asked_for_where_it_was_trained(
    mode: str, recommender: Recommender, recorded: Recorded, prompter: Prompter
) -> None:
    """After a chain that is closed by force, the tokens before the name are those of a training row."""
    recommender.recommend([recommender.catalogue.item_ids[i] for i in HISTORY], k=4, mode=mode, num_chains=2)
    prompt, answer = row_of(mode, prompter, recommender.catalogue)
    name = prompter.name_ids(TARGET)
    place = max(i for i in range(len(answer)) if answer[i : i + len(name)] == name)
    before = (prompt + answer[:place])[-3:]
    assert recorded.prompts[-1][-3:] == before


@pytest.mark.parametrize("mode", MODES)
def test_the_service_asks_what_was_trained(
    mode: str, recommender: Recommender, recorded: Recorded, prompter: Prompter, tmp_path: Path
) -> None:
    pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
    from fastapi.testclient import TestClient

    from gream.serving.app import create_app

    body = {"history": [recommender.catalogue.item_ids[i] for i in HISTORY], "k": 4, "mode": mode}
    with TestClient(create_app(recommender), base_url="http://localhost") as client:
        assert client.post("/v1/recommendations", json=body).status_code == 200
    trained = fed(
        row_of(mode, prompter, recommender.catalogue),
        recorded.backend.model,
        prompter,
        tmp_path,
        packing=False,
    )
    assert recorded.prompts[0] == trained


@pytest.fixture
def vllm_engine(
    prompter: Prompter, names: Names, codebooks: list[np.ndarray], tmp_path: Path
) -> Iterator[VllmBackend]:
    pytest.importorskip("vllm")
    model = build_model(len(prompter.tokenizer), hidden_size=64, num_layers=1, num_heads=2, seed=1)
    model.resize_token_embeddings(len(prompter.tokenizer), pad_to_multiple_of=64)
    save_model(tmp_path / "model", model, prompter.tokenizer, names)
    backend = VllmBackend(tmp_path / "model", max_num_seqs=16)
    yield backend
    backend.close()


@pytest.mark.vllm
def test_vllm_is_sent_what_was_trained(
    vllm_engine: VllmBackend,
    recorded: Recorded,
    prompter: Prompter,
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Both modes, at the last place before the engine: the requests themselves."""
    sent: list[list[int]] = []
    llm: Any = vllm_engine._engine
    generate = llm.generate

    def noted(requests: Any, *args: Any, **options: Any) -> Any:
        sent.extend(request["prompt_token_ids"] for request in requests)
        return generate(requests, *args, **options)

    monkeypatch.setattr(llm, "generate", noted)
    engine = Engine(vllm_engine, prompter, TrieConstraint(names), names)
    recommender = Recommender(engine, catalogue, interactions, SEARCH)
    for mode in MODES:
        sent.clear()
        recommender.recommend([catalogue.item_ids[i] for i in HISTORY], k=4, mode=mode, num_chains=2)
        trained = fed(
            row_of(mode, prompter, recommender.catalogue),
            recorded.backend.model,
            prompter,
            tmp_path / "t",
            packing=False,
        )
        assert sent[0] == trained
        assert all(prompt[: len(trained)] == trained for prompt in sent)
