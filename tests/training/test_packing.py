"""Packed rows see themselves alone: logits, loss, gradient and order are those of the rows one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from gream.errors import InputError
from gream.training.packing import (
    IGNORED,
    ROW_BY_ROW,
    answers_of_packed,
    attention,
    check_packable,
)
from gream.training.sft import SftConfig
from gream.training.sft_trainer import AnswerTrainer, rows_dataset, trainer_arguments
from tests.decoding.tiny import tiny_model

# Unequal prompts and answers; a row of two tokens, and two that begin alike.
ROWS = [([5, 6, 7], [8, 9, 10, 11]), ([11], [12]), ([5, 6, 7], [3, 4]), ([30, 2, 9, 4, 1, 8], [7, 7, 21])]


def packed(rows: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """What TRL's collator makes of the rows of a step."""
    return DataCollatorForLanguageModeling(0, padding_free=True)(list(rows_dataset(rows)))


def test_the_logits_of_packed_rows_are_those_of_each_row_alone() -> None:
    model = tiny_model().eval()
    batch = packed(ROWS)
    labels = batch.pop("labels")
    with torch.no_grad(), attention(model, ROW_BY_ROW):
        together = model(**batch, use_cache=False).logits[0]
    with torch.no_grad():
        alone = [model(torch.tensor([prompt + answer])).logits[0] for prompt, answer in ROWS]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)  # other shapes of products
    assert labels[0].tolist() == [t for p, a in ROWS for t in [IGNORED] * len(p) + a]


def test_a_packed_step_has_the_loss_and_gradient_of_its_rows_alone() -> None:
    model = tiny_model()
    tokens = sum(len(answer) for _, answer in ROWS)

    def gradient() -> torch.Tensor:
        found = torch.cat([p.grad.flatten() for p in model.parameters()])
        model.zero_grad()
        return found

    with attention(model, ROW_BY_ROW):
        loss = model(**answers_of_packed(packed(ROWS)), num_items_in_batch=torch.tensor(tokens)).loss
        loss.backward()
    together = gradient()
    alone = torch.tensor(0.0)
    for prompt, answer in ROWS:
        logps = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        alone = alone - sum(logps[i, t] for i, t in zip(places, answer, strict=True)) / tokens
    alone.backward()
    torch.testing.assert_close(loss, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, gradient(), atol=1e-5, rtol=1e-3)  # sums of a thousand products


def test_a_change_in_one_row_changes_no_other() -> None:
    model = tiny_model().eval()
    other = [*ROWS[:1], ([62], [63]), *ROWS[2:]]
    with torch.no_grad(), attention(model, ROW_BY_ROW):
        one, two = (
            model(**{k: v for k, v in packed(rows).items() if k != "labels"}, use_cache=False).logits[0]
            for rows in (ROWS, other)
        )
    changed = (one != two).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [7, 8]  # the second row's places, to the bit


def test_only_the_places_before_answer_tokens_are_scored() -> None:
    """And positions restart with each row: rotary ones would not show it."""
    asked = answers_of_packed(packed(ROWS[:2]))
    assert asked["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1]]
    assert asked["logits_to_keep"].tolist() == [2, 3, 4, 5, 7]
    assert asked["labels"].tolist() == [[8, 9, 10, 11, 12]]


def test_steps_have_the_rows_and_the_order_of_the_plan(
    model_and_tokenizer: tuple[Any, Any], tmp_path: Path
) -> None:
    """Nine rows of falling and rising lengths, four a step: what is fed is the plan, end to end."""
    model, tokenizer = model_and_tokenizer
    rows = [([i + 3] * (1 + 5 * i % 7), [40 + i] * (1 + i % 3)) for i in range(9)]
    trainer = AnswerTrainer(
        model=model,
        args=trainer_arguments(SftConfig(batch_size=4, packing=True), tmp_path),
        train_dataset=rows_dataset(rows),
        processing_class=tokenizer,
    )
    steps = [batch["input_ids"][0].tolist() for batch in trainer.get_train_dataloader()]
    assert [t for step in steps for t in step] == [t for prompt, answer in rows for t in prompt + answer]
    assert [len(step) for step in steps] == [
        sum(len(p) + len(a) for p, a in rows[i : i + 4]) for i in range(0, 9, 4)
    ]


def test_the_model_gets_its_own_attention_back() -> None:
    model = tiny_model()
    before = model.config._attn_implementation
    with pytest.raises(KeyError), attention(model, ROW_BY_ROW):
        assert model.config._attn_implementation == ROW_BY_ROW
        raise KeyError
    assert model.config._attn_implementation == before != ROW_BY_ROW


def test_a_model_that_forgets_is_refused() -> None:
    check_packable(tiny_model())
    sliding = MistralForCausalLM(
        MistralConfig(
            vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
            num_key_value_heads=1, sliding_window=4,
        )
    )  # fmt: skip
    with pytest.raises(InputError, match="packing needs full attention; leave `packing` out"):
        check_packable(sliding)
