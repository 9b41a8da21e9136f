"""The trainer: loss on answers alone, normalised by their number."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl import SFTTrainer

from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training.checkpoints import Checkpoints
from gream.training.packing import IGNORED
from gream.training.sft import SftConfig
from gream.training.sft_trainer import AnswerTrainer, check_rows, rows_dataset, train, trainer_arguments

ROWS = [([5, 6, 7], [8, 9, 10]), ([11], [12])]


def loss_by_hand(model: Any, rows: list[tuple[list[int], list[int]]]) -> float:
    """Mean over the answer tokens of all rows, each row alone."""
    losses = []
    for prompt, answer in rows:
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        losses += [-logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]
    return float(np.mean(losses))


def test_prompt_tokens_carry_no_loss() -> None:
    [row] = list(rows_dataset([([5, 6, 7], [8, 9])]))
    assert row == {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, IGNORED, 8, 9]}


def test_a_row_that_is_too_long_is_an_error_not_a_cut() -> None:
    check_rows([([5, 6, 7], [8, 9])], max_length=5)
    with pytest.raises(InputError, match="has 5 tokens, but max_length is 4"):
        check_rows([([5, 6, 7], [8, 9])], max_length=4)


@pytest.mark.parametrize("micro", [0, 1])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("trainable", ["full", "lora", "names"])
def test_the_trainers_loss_is_the_mean_over_answer_tokens(
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    tmp_path: Path,
    trainable: str,
    packing: bool,
    micro: int,
) -> None:
    """Two rows of unequal length, in one pass or two, learning rate 0: the logged loss by hand."""
    model, tokenizer = model_and_tokenizer
    expected = loss_by_hand(model, ROWS)
    config = SftConfig(
        batch_size=2, micro_batch_size=micro, learning_rate=0.0, packing=packing, trainable=trainable
    )
    with Checkpoints(tmp_path / "out", {}) as checkpoints:
        trained = train(model, Prompter(tokenizer, names), ROWS, config, checkpoints)
    assert trained.log[-1]["train_loss"] == pytest.approx(expected, abs=1e-5)  # float32, other order of sums
    assert not trained.model.training


def test_scoring_the_answers_only_gives_trls_loss_and_gradient(
    model_and_tokenizer: tuple[Any, Any], tmp_path: Path
) -> None:
    """Rows of unequal prompts and answers, padded; TRL's own loss is the slow and obvious one."""
    model, tokenizer = model_and_tokenizer
    rows = rows_dataset([([5, 6, 7], [8, 9]), ([11], [12]), ([3, 4], [5, 6, 7, 8])])
    results = []
    for trainer_class in (SFTTrainer, AnswerTrainer):
        arguments = trainer_arguments(SftConfig(batch_size=3), tmp_path / "t")
        trainer = trainer_class(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        batch = next(iter(trainer.get_train_dataloader()))
        model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(7))
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)  # other order of sums


@pytest.mark.parametrize("trainable", ["full", "lora"])
@pytest.mark.parametrize("saving", [{"micro_batch_size": 1}, {"gradient_checkpointing": True}])
def test_what_saves_memory_changes_no_weight(
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    tmp_path: Path,
    trainable: str,
    saving: dict[str, Any],
) -> None:
    """Rows of unequal answers, three steps: weights are those of a training that saves nothing."""
    model, tokenizer = model_and_tokenizer
    results = []
    for number, settings in enumerate(({}, saving)):
        config = SftConfig(batch_size=2, learning_rate=1e-3, trainable=trainable, **settings)
        with Checkpoints(tmp_path / f"out{number}", {}) as checkpoints:
            trained = train(
                copy.deepcopy(model), Prompter(tokenizer, names), ROWS * 3, config, checkpoints
            ).model
        results.append(torch.cat([p.detach().flatten() for p in trained.parameters()]))
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    moved = (results[0] - start).norm()
    assert moved > 1e-3 and (results[0] - results[1]).norm() < 1e-3 * moved  # other order of sums


def test_memory_settings_reach_the_trainer(tmp_path: Path) -> None:
    """Weights are equal with and without, so only the arguments tell."""
    given = trainer_arguments(
        SftConfig(batch_size=6, micro_batch_size=2, gradient_checkpointing=True), tmp_path
    )
    assert (given.per_device_train_batch_size, given.gradient_accumulation_steps) == (2, 3)
    assert given.gradient_checkpointing
    assert not trainer_arguments(SftConfig(), tmp_path).gradient_checkpointing
