"""Supervised fine-tuning: loss on answers alone, and a model that has learnt its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.artifacts import writing
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.training import sft
from gream.training.sft import (
    IGNORED,
    SftConfig,
    answer_trainer,
    rows_dataset,
    run,
    train,
    trainer_arguments,
)


def test_prompt_tokens_carry_no_loss() -> None:
    [row] = list(rows_dataset([([5, 6, 7], [8, 9])], max_length=10))
    assert row == {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, IGNORED, 8, 9]}


def test_a_row_that_is_too_long_is_an_error_not_a_cut() -> None:
    with pytest.raises(InputError, match="has 5 tokens, but max_length is 4"):
        rows_dataset([([5, 6, 7], [8, 9])], max_length=4)


def test_the_trainers_loss_is_the_mean_over_answer_tokens(
    model_and_tokenizer: tuple[Any, Any], tmp_path: Path
) -> None:
    """Two rows of unequal length, learning rate 0: the first logged loss by hand."""
    model, tokenizer = model_and_tokenizer
    rows = [([5, 6, 7], [8, 9, 10]), ([11], [12])]
    losses = []
    for prompt, answer in rows:
        logps = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0], -1)
        losses += [-logps[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer)]
    config = SftConfig(batch_size=2, learning_rate=0.0)
    log = train(model, tokenizer, rows_dataset(rows, 10), config, tmp_path / "t")
    assert log[-1]["train_loss"] == pytest.approx(np.mean(losses), abs=1e-4)  # float32, other order of sums


def test_scoring_the_answers_only_gives_trls_loss_and_gradient(
    model_and_tokenizer: tuple[Any, Any], tmp_path: Path
) -> None:
    """Rows of unequal prompts and answers, padded; TRL's own loss is the slow and obvious one."""
    from trl import SFTTrainer

    model, tokenizer = model_and_tokenizer
    rows = rows_dataset([([5, 6, 7], [8, 9]), ([11], [12]), ([3, 4], [5, 6, 7, 8])], 10)
    results = []
    for trainer_class in (SFTTrainer, answer_trainer()):
        arguments = trainer_arguments(SftConfig(batch_size=3), tmp_path / "t")
        trainer = trainer_class(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
        batch = next(iter(trainer.get_train_dataloader()))
        model.zero_grad()
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=torch.tensor(7))
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        results.append((loss.detach(), gradient))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)  # other order of sums


@pytest.fixture
def run_dir(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Path:
    with writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)
    (tmp_path / "sids").mkdir()
    save_names(tmp_path / "sids", names)
    save_model(tmp_path / "base", *model_and_tokenizer, names)
    return tmp_path


def _config(run_dir: Path, output: str) -> SftConfig:
    return SftConfig(
        run_dir=str(run_dir),
        output=output,
        tasks={"title_to_name": 1.0},
        epochs=40,
        batch_size=8,
        learning_rate=1e-2,
    )


def test_the_stage_teaches_names_and_repeats_itself_byte_for_byte(
    run_dir: Path, names: Names, catalogue: Catalogue
) -> None:
    for output in ("one", "two"):
        run(_config(run_dir, output))
    one, two = ((run_dir / o / "model.safetensors").read_bytes() for o in ("one", "two"))
    assert one == two
    log = json.loads((run_dir / "one" / "sft_report.json").read_text())
    assert log[0]["loss"] > 2 * log[-2]["loss"]
    model, tokenizer = load_model(run_dir / "one", names)
    assert not model.training


def test_no_folder_is_left_when_the_tasks_are_wrong(run_dir: Path) -> None:
    config = _config(run_dir, "bad")
    config.tasks = {"unknown": 1.0}
    with pytest.raises(InputError, match="Unknown task"):
        run(config)
    assert not (run_dir / "bad").exists()


def test_names_without_an_order_are_taught_in_the_order_that_was_asked_for(
    run_dir: Path, names: Names, catalogue: Catalogue
) -> None:
    """24 titles, 40 times: after canonical training nearly all first codes come from codebook 0."""
    free = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    save_names(run_dir / "sids", free)
    save_model(run_dir / "base", *load_model(run_dir / "base", names), free)
    first_book: dict[str, float] = {}
    for name_order in ("canonical", "random"):
        config = _config(run_dir, name_order)
        config.name_order = name_order
        run(config)
        model, tokenizer = load_model(run_dir / name_order, free)
        prompter = Prompter(tokenizer, free)
        prompt = torch.tensor([prompter.question("title_to_name", title=catalogue.titles[0])])
        shares = model(prompt).logits[0, -1].softmax(-1)
        first_book[name_order] = float(shares[list(prompter.level_block(0))].sum().detach())
    assert first_book["canonical"] > 0.95
    assert 0.1 < first_book["random"] < 0.6


def test_every_epoch_spells_the_names_anew(
    run_dir: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 titles in two epochs: one order in six comes again by chance."""
    free = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    save_names(run_dir / "sids", free)
    save_model(run_dir / "base", *load_model(run_dir / "base", names), free)
    seen: list[Any] = []
    monkeypatch.setattr(sft, "rows_dataset", lambda rows, length: seen.extend(rows) or rows_dataset(rows, 1))
    config = _config(run_dir, "two")
    config.epochs = 2
    with pytest.raises(InputError, match="max_length is 1"):  # so that nothing is trained
        run(config)
    assert len(seen) == 48 and len({(tuple(prompt), tuple(answer)) for prompt, answer in seen}) > 36


def test_an_unknown_order_of_names_is_told(run_dir: Path) -> None:
    config = _config(run_dir, "bad")
    config.name_order = "alphabetical"
    with pytest.raises(InputError, match="give one of random, canonical"):
        run(config)
    assert not (run_dir / "bad").exists()
