"""What is trained and what stays: adapters that become plain weights, and rows of new tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_backend import VllmBackend
from gream.language.prompting import MARKERS, Prompter
from gream.language.vocab import build_model, load_model, save_model
from gream.semantic_ids.layout import Names
from gream.training import srpo
from gream.training.adapters import adapt, merge, plain_model
from gream.training.sft import SftConfig, run
from gream.training.srpo import SRPOConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture(params=["tied", "untied"])
def model(request: pytest.FixtureRequest, model_and_tokenizer: tuple[Any, Any]) -> Any:
    """The toy model, and one whose output embedding has weights of its own."""
    tied = model_and_tokenizer[0]
    if request.param == "tied":
        return tied
    torch.manual_seed(3)
    config = type(tied.config).from_dict(tied.config.to_dict() | {"tie_word_embeddings": False})
    return Qwen3ForCausalLM(config).eval()


def trained(adapted: Any, steps: int = 3) -> Any:
    """Take some large steps on tokens of the whole vocabulary."""
    optimiser = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.1)
    tokens = torch.arange(adapted.config.vocab_size - 6).reshape(2, -1)
    for _ in range(steps):
        adapted(input_ids=tokens, labels=tokens).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return adapted.eval()


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    """Rows that differ, of every weight that does."""
    assert {name: t.shape for name, t in before.items()} == {name: t.shape for name, t in after.items()}
    return {
        name: (before[name] != after[name]).reshape(len(tensor), -1).any(dim=1).nonzero().flatten().tolist()
        for name, tensor in before.items()
        if not torch.equal(tensor, after[name])
    }


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_merged_adapters_give_the_adapted_models_logits(
    model: Any, prompter: Prompter, tmp_path: Path
) -> None:
    """And so does transformers, which knows nothing of adapters, from the saved folder."""
    before, tied = weights(model), model.config.tie_word_embeddings
    adapted = trained(adapt(model, prompter, "lora", rank=4, alpha=8, seed=0))
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        logits = adapted(input_ids=tokens).logits
        merged = merge(adapted)
        assert type(merged) is Qwen3ForCausalLM
        # float32: weights are added first here, products there
        torch.testing.assert_close(merged(tokens).logits, logits, atol=1e-3, rtol=1e-3)
        save_model(tmp_path / "saved", merged, prompter.tokenizer, prompter.names)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="auto")
        torch.testing.assert_close(loaded(tokens).logits, merged(tokens).logits, atol=1e-6, rtol=0)
    shared = merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    assert shared is tied
    assert not [name for name in load_file(tmp_path / "saved" / "model.safetensors") if "lora" in name]
    rows = sorted({*prompter.item_block, *prompter.tokenizer.convert_tokens_to_ids(list(MARKERS))})
    found = changed(before, weights(merged))
    assert found[EMBEDDING] == found[HEAD] == rows  # a shared weight stands under both names
    layers = {name for name in before if "proj" in name}
    assert set(found) == {EMBEDDING, HEAD, *layers}  # no norm


def test_an_adapter_begins_as_the_model_itself(model: Any, prompter: Prompter) -> None:
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = model(tokens).logits
        for trainable in ("lora", "names"):
            adapted = adapt(model, prompter, trainable, rank=4, alpha=8, seed=0)
            torch.testing.assert_close(adapted(input_ids=tokens).logits, before, atol=1e-6, rtol=0)
            model = merge(adapted)


def test_the_seed_draws_the_adapters(model: Any, prompter: Prompter) -> None:
    def first_adapter(seed: int) -> torch.Tensor:
        nonlocal model
        adapted = adapt(model, prompter, "lora", rank=4, alpha=8, seed=seed)
        found = next(p.detach().clone() for name, p in adapted.named_parameters() if "lora_A" in name)
        model = adapted.unload()
        return found

    one, again, other = first_adapter(1), first_adapter(1), first_adapter(2)
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_training_everything_wraps_nothing(model: Any, prompter: Prompter) -> None:
    assert adapt(model, prompter, "full", rank=4, alpha=8, seed=0) is model
    assert merge(model) is model is plain_model(model)
    adapted = adapt(model, prompter, "names", rank=4, alpha=8, seed=0)
    assert isinstance(adapted, PeftModel) and plain_model(adapted) is model


def _config(run_dir: Path, trainable: str, **options: Any) -> SftConfig:
    return SftConfig(
        run_dir=str(run_dir), output=trainable, tasks={"title_to_name": 1.0, "next_item": 1.0}, epochs=2,
        batch_size=8, learning_rate=1e-2, trainable=trainable, lora_rank=4, lora_alpha=8, **options,
    )  # fmt: skip


@pytest.mark.parametrize("packing", [False, True])
def test_the_warm_up_leaves_every_other_byte_as_it_was(
    run_dir: Path, model: Any, model_and_tokenizer: tuple[Any, Any], names: Names, packing: bool
) -> None:
    """Through the whole stage, with weight decay: only the rows of the item tokens differ."""
    tokenizer = model_and_tokenizer[1]
    save_model(run_dir / "base", model, tokenizer, names)
    run(_config(run_dir, "names", packing=packing, weight_decay=0.1))
    before, after = (load_file(run_dir / f / "model.safetensors") for f in ("base", "names"))
    block = list(Prompter(tokenizer, names).item_block)
    tied = model.config.tie_word_embeddings
    assert changed(before, after) == ({EMBEDDING: block} if tied else {EMBEDDING: block, HEAD: block})


def test_the_stage_writes_a_model_like_any_other(run_dir: Path, names: Names) -> None:
    run(_config(run_dir, "lora", packing=True))
    files = sorted(path.name for path in (run_dir / "lora").iterdir())
    assert not [name for name in files if "adapter" in name]
    base, lora = (load_file(run_dir / f / "model.safetensors") for f in ("base", "lora"))
    assert {k: v.shape for k, v in base.items()} == {k: v.shape for k, v in lora.items()}
    model, _ = load_model(run_dir / "lora", names)
    assert type(model) is Qwen3ForCausalLM and model.config.tie_word_embeddings


def test_reinforcement_learning_goes_on_from_the_merged_folder(run_dir: Path, names: Names) -> None:
    """Every weight of the merged model learns; `evaluate` takes it in the recipe's own test."""
    run(_config(run_dir, "lora"))
    srpo.run(
        SRPOConfig(
            run_dir=str(run_dir), model="lora", output="srpo", num_generations=4, prompts_per_batch=2,
            micro_batch_size=4, max_steps=2, max_completion_length=6, max_history=5, min_history=2, bonus_k=2,
            learning_rate=1e-3, reasoning_share=0.0,
        )
    )  # fmt: skip
    before, after = (load_file(run_dir / f / "model.safetensors") for f in ("lora", "srpo"))
    assert set(changed(before, after)) == set(before)


@pytest.mark.vllm
def test_vllm_takes_the_merged_folder(run_dir: Path, names: Names) -> None:
    """The scores of the item block are those of the torch engine, on the same folder."""
    pytest.importorskip("vllm")
    _, tokenizer = load_model(run_dir / "base", names)
    wider = build_model(len(tokenizer), hidden_size=64, num_layers=2, num_heads=2, seed=1)  # heads of 32
    wider.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    save_model(run_dir / "base", wider, tokenizer, names)
    run(_config(run_dir, "lora", packing=True))
    model, tokenizer = load_model(run_dir / "lora", names)
    by_torch, by_vllm = TorchBackend(model, tokenizer.pad_token_id), VllmBackend(run_dir / "lora")
    prompts = [[5, 6, 7, 8], [9]]
    try:
        block = Prompter(tokenizer, names).item_block
        ours, theirs = (engine.start(prompts).first(block) for engine in (by_torch, by_vllm))
    finally:
        by_vllm.close()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)  # float32 in both, other kernels
