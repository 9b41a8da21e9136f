"""Memory of a training, by hand on small shapes and against what torch itself keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

from gream.planning.memory import (
    Memory,
    Training,
    activation_bytes,
    block_bytes,
    cache_bytes,
    copies_of_weights,
    inference_memory,
    training_memory,
    vllm_tokens,
)
from gream.planning.shapes import ModelShape, shape_of

GIGA = 10**9
ANSWERS = 5  # of each of three sequences of 17
ROWS = range(10, 20)


def config(layers: int = 2) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=400,
        hidden_size=40,
        intermediate_size=88,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        max_position_embeddings=64,
    )


def training(**changes: Any) -> Training:
    """What `kept_by_torch` measures with the same settings."""
    plain = Training(
        shape=shape_of(config()),
        weight_bytes=4,
        compute_bytes=4,
        sequences=3,
        length=17,
        answers=3 * ANSWERS,
        masked=False,
    )
    return replace(plain, **changes)


def kept_by_torch(wanted: Training) -> int:
    """Bytes of everything that a forward pass saves for its backward pass, but weights."""
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config()).to(torch.bfloat16 if wanted.weight_bytes == 2 else torch.float32)
    if wanted.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if not wanted.full:
        model = get_peft_model(
            model,
            LoraConfig(
                task_type="CAUSAL_LM",
                r=wanted.rank,
                target_modules="all-linear",
                trainable_token_indices={"model.embed_tokens": list(ROWS)},
            ),
        )
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == wanted.trained
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in held:
            saved[storage.data_ptr()] = tensor  # held on to, so that no two have one address
        return tensor

    ids = torch.randint(400, (wanted.sequences, wanted.length))
    mask = torch.ones_like(ids)
    if wanted.masked:
        mask[0, -2:] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=wanted.compute_bytes == 2),
    ):
        model.train()(
            input_ids=ids,
            attention_mask=mask,
            labels=ids[:, -ANSWERS:],
            logits_to_keep=ANSWERS,
            use_cache=False,
        )
    return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"masked": True},
        {"checkpointing": True},
        {"compute_bytes": 2},
        {"weight_bytes": 2, "compute_bytes": 2},
        {"rank": 6, "rows": len(ROWS)},
        {"rank": 6, "rows": len(ROWS), "weight_bytes": 2, "compute_bytes": 2},
        {"rank": 6, "rows": len(ROWS), "weight_bytes": 4, "compute_bytes": 2},
    ],
    ids=str,
)
def test_activations_are_what_torch_keeps_for_the_backward_pass(changes: dict[str, Any]) -> None:
    """Exact but for what does not grow with width: token ids, labels, and the angles of positions.

    Those are 8 bytes a token and an answer, two tables of (17, 8) angles, a scalar, the places of trained
    rows, and in half precision those rows once more, while norms, 464 weights, are never copied.
    """
    wanted = training(**changes)
    expected = activation_bytes(wanted) + copies_of_weights(wanted) + 4 * wanted.answers * 400
    if wanted.checkpointing:  # the block that is computed again comes later, in the backward pass
        expected -= block_bytes(wanted)
    if wanted.rows and wanted.weight_bytes == wanted.compute_bytes:  # the table with its trained rows
        expected += wanted.weight_bytes * wanted.shape.table
    norms = 2 * 464 if copies_of_weights(wanted) else 0
    slack = 8 * (wanted.tokens + wanted.answers) + 2 * 17 * 8 * 4 + 4 + (3 * 8 + 2 * 40) * wanted.rows
    measured = kept_by_torch(wanted)
    assert expected - norms <= measured <= expected + slack


def billion(**changes: Any) -> Training:
    """No activations; 10^9 weights in two blocks, of which 10^6 are the table."""
    shape = ModelShape(
        hidden=1_000,
        feed_forward=1,
        layers=2,
        heads=1,
        query=1,
        key=1,
        vocabulary=1_000,
        tied=True,
        parameters=10**9,
        bytes=2,
    )
    plain = Training(
        shape=shape, weight_bytes=2, compute_bytes=2, sequences=0, length=1, answers=0, chunked_head=True
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("config", "weights", "gradients", "optimizer", "other"),
    [
        # in half precision, 4 devices; last the table's float32 gradient, 4 MB, and what follows
        ("single", 2.0, 2.0, 4.0, 0.004),
        ("ddp", 2.0, 2.0, 4.0, 0.004 + 2.0),  # buckets
        ("zero2", 2.0, 0.5, 3.0, 0.004 + 1.0),  # 12 bytes / 4; a bucket of 5 * 10^8 weights
        ("zero3", 0.5, 0.5, 3.0, 0.004 + 1.0 + 2.0),  # the bucket, and all 10^9 weights gathered
        ("fsdp", 1.0, 1.0, 2.0, 0.004 + 1.998),  # raised to float32; both blocks gathered
    ],
)
def test_shares_of_a_billion_weights_on_four_devices(
    config: str, weights: float, gradients: float, optimizer: float, other: float
) -> None:
    found = training_memory(billion(), config, devices=4)
    expected = Memory(*(round(part * GIGA) for part in (weights, gradients, optimizer, 0.0, other)))
    assert found == expected
    assert found.total == round((weights + gradients + optimizer + other) * GIGA)


def test_float32_weights_under_autocast_are_held_twice_and_so_is_the_reference_model() -> None:
    policy = billion(weight_bytes=4, reference=True)
    found = training_memory(policy, "single", devices=1)
    assert (found.weights, found.gradients, found.optimizer) == (4 * GIGA, 4 * GIGA, 8 * GIGA)
    assert found.other == 4_000_000 + 4 * GIGA + 2 * GIGA  # the table's gradient, the reference, the copies
    shared = training_memory(policy, "zero3", devices=4)
    assert (
        shared.other == 4_000_000 + 2 * GIGA // 4 + 2 * GIGA + GIGA
    )  # the reference is shared out in half precision


def test_adapters_add_their_own_weights_in_float32_and_need_no_reference_model() -> None:
    adapters = billion(rank=8, rows=10, reference=True)
    trained = 2 * 8 * (4 * 1_001 + 3 * 1_001) + 10 * 1_000
    assert adapters.trained == trained
    found = training_memory(adapters, "single", devices=1)
    assert found.weights == 2 * GIGA + 4 * trained
    assert (found.gradients, found.optimizer) == (4 * trained, 8 * trained)
    # copies of adapters in half precision, the table with its trained rows, its gradient, and the head's
    assert found.other == 2 * trained + 2 * 2 * 10**6 + 4 * 10**6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_gradients_and_moments_are_what_torch_holds(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model: Any = Qwen3ForCausalLM(config(layers=3)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(400, (1, 3))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    weights = list(model.parameters())
    moments = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    size = dtype.itemsize
    found = training_memory(
        replace(training(), shape=shape_of(config(layers=3)), weight_bytes=size, compute_bytes=size),
        "single",
        devices=1,
    )
    assert found.weights == sum(w.nbytes for w in weights)
    assert found.gradients == sum(w.grad.nbytes for w in weights)
    assert found.optimizer == sum(m.nbytes for m in moments)


def test_the_cache_keeps_keys_and_values_of_every_layer() -> None:
    shape = shape_of(config())  # 2 layers, 2 key heads of 8
    assert cache_bytes(shape, tokens=10, value_bytes=4) == 10 * 2 * 2 * 16 * 4
    found = inference_memory(shape, weight_bytes=4, compute_bytes=2, cached=10, at_once=3)
    assert found.weights == 4 * shape.parameters
    assert found.other == 10 * 2 * 2 * 16 * 2 + 2 * 3 * (3 * 88 + 4 * 40)


def test_vllm_keeps_what_its_share_leaves() -> None:
    shape = billion().shape  # 2 GB of weights, 4 numbers a token
    assert vllm_tokens(shape, 0.5, device=2 * (2 * GIGA + 2**30 + 800)) == 100
    assert vllm_tokens(shape, 0.3, device=2 * GIGA) == 0
