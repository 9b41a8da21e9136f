"""Rollouts through a vLLM engine as TRL makes it in colocated mode, against the torch engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_backend import _CPU_ENVIRONMENT, VllmBackend
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import build_model, extend, save_model, train_tokenizer
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names
from gream.training.rollouts import RolloutWriter
from tests.training.trie_reference import name_logps, sharpen, unordered

G, L = 4, 3
HISTORIES = [[3, 1], [7, 2, 9, 4]]


@pytest.fixture(scope="module")
def model(catalogue: Catalogue, names: Names, codebooks: list[np.ndarray]) -> tuple[Any, Any]:
    """A toy model of heads that vLLM can run on a CPU, and its tokenizer."""
    tokenizer = train_tokenizer([*catalogue.titles, *catalogue.descriptions], 400)
    model = build_model(len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, seed=1)
    extend(model, tokenizer, names, codebooks, seed=1)
    sharpen(model, scale=0.15)
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def engines(
    model: tuple[Any, Any], names: Names, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[TorchBackend, VllmBackend]]:
    vllm = pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, *model, names)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _CPU_ENVIRONMENT.items():
            patch.setenv(name, value)
        # What of TRL's arguments changes numbers; the dtype is ours.
        llm = vllm.LLM(
            model=str(folder), dtype="float32", max_model_len=256, max_num_seqs=64,
            gpu_memory_utilization=0.3, logprobs_mode="processed_logprobs", enforce_eager=True,
        )  # fmt: skip
        backend = VllmBackend.around(llm)
        yield TorchBackend(model[0], 0), backend
        backend.close()


@pytest.mark.vllm
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["constrained", "beam"])
def test_both_engines_write_the_same_direct_completions(
    engines: tuple[TorchBackend, VllmBackend], model: tuple[Any, Any], names: Names, kind: str, ordered: bool
) -> None:
    given = names if ordered else unordered(names)
    prompter, constraint = Prompter(model[1], given, max_history=5), constraint_of(given)
    prompts = [prompter.direct(history) for history in HISTORIES]
    options: dict[str, Any] = {"num_generations": G, "temperature": 0.7, "max_tokens": 20}
    by_torch, by_vllm = (
        RolloutWriter(engine, prompter, constraint, kind=kind, **options).write(prompts, seed=2)
        for engine in engines
    )
    assert [w.ids for w in by_torch] == [w.ids for w in by_vllm]
    for a, b in zip(by_torch, by_vllm, strict=True):
        # float32 in both, other kernels
        np.testing.assert_allclose(a.code_logps, b.code_logps, atol=1e-4)
        assert (a.score is None) == (kind == "constrained")
        assert b.score is a.score or b.score == pytest.approx(a.score, abs=1e-4)


@pytest.mark.vllm
def test_answers_after_chains_are_real_and_as_probable_as_the_model_says(
    engines: tuple[TorchBackend, VllmBackend], model: tuple[Any, Any], names: Names
) -> None:
    """The untaught model hardly writes `<answer>`, so a line break opens the answer here."""
    prompter, constraint = Prompter(model[1], names, max_history=5), constraint_of(names)
    prompter.answer_start = prompter.encode("\n")[0]
    prompts = [prompter.reasoning(history) for history in HISTORIES]
    writer = RolloutWriter(
        engines[1], prompter, constraint,
        kind="constrained", num_generations=30, temperature=2.0, max_tokens=80,
    )  # fmt: skip
    written = writer.write(prompts, seed=2)
    assert [w.ids for w in written] == [w.ids for w in writer.write(prompts, seed=2)]
    whole = [(row, w) for row, w in enumerate(written) if w.code_logps]
    assert 0 < len(whole) < len(written)
    for row, completion in whole:
        context, name = prompts[row // 30] + completion.ids[: -L - 2], completion.ids[-L - 2 : -2]
        assert context[-1] == prompter.answer_start
        expected = name_logps(model[0], prompter, context, name, 2.0).detach()  # fails for what is no item
        np.testing.assert_allclose(completion.code_logps, expected, atol=1e-4)


def test_an_engine_that_gives_logits_is_refused() -> None:
    class Engine:
        class llm_engine:  # noqa: N801
            class model_config:  # noqa: N801
                logprobs_mode = "raw_logits"

    with pytest.raises(InputError, match="gives raw_logits; make it with logprobs_mode='raw_logprobs'"):
        VllmBackend.around(Engine())  # type: ignore[arg-type]
