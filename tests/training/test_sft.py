"""The stage: settings that are refused, names that are learnt, and the same bytes for the same seed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gream.data.store import Catalogue
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.training import sft
from gream.training.sft import SftConfig, run
from gream.training.sft_trainer import check_rows


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


@pytest.mark.parametrize(("trainable", "learns_in"), [("full", torch.float32), ("lora", torch.bfloat16)])
def test_a_model_in_bfloat16_learns_in_float32_and_is_saved_as_it_came(
    run_dir: Path, names: Names, trainable: str, learns_in: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision loses a step of 5e-5; under adapters, float32 themselves, nothing is stepped."""
    model, tokenizer = load_model(run_dir / "base", names)
    save_model(run_dir / "base", model.to(torch.bfloat16), tokenizer, names)
    seen: list[torch.dtype] = []
    train = sft.train

    def watched(model: Any, *rest: Any) -> Any:
        seen.append(model.dtype)
        return train(model, *rest)

    monkeypatch.setattr(sft, "train", watched)
    run(replace(_config(run_dir, "out"), epochs=1, trainable=trainable))
    assert seen == [learns_in]
    assert load_model(run_dir / "out", names)[0].dtype == torch.bfloat16


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


@pytest.mark.parametrize("packing", [True, False])
def test_packing_keeps_the_order_of_the_plan_and_padding_meets_like_lengths(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    """What is trained is the plan of all epochs; without packing the same rows by length."""
    plans, trained = [], []
    build = sft.training_plan
    monkeypatch.setattr(sft, "training_plan", lambda *a, **o: plans.append(build(*a, **o)) or plans[-1])
    monkeypatch.setattr(sft, "train", lambda model, prompter, rows, *_: trained.extend(rows) or 1 / 0)
    config = _config(run_dir, "out")
    config.epochs, config.packing = 3, packing
    with pytest.raises(ZeroDivisionError):  # nothing is trained
        run(config)
    [plan] = plans
    planned = plan.rows
    assert sorted(planned) == sorted(trained)
    assert (planned == trained) is packing


def test_every_epoch_spells_the_names_anew(
    run_dir: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 titles in two epochs: one order in six comes again by chance."""
    free = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    save_names(run_dir / "sids", free)
    save_model(run_dir / "base", *load_model(run_dir / "base", names), free)
    seen: list[Any] = []
    monkeypatch.setattr(sft, "check_rows", lambda rows, length: seen.extend(rows) or check_rows(rows, 1))
    config = _config(run_dir, "two")
    config.epochs = 2
    with pytest.raises(InputError, match="max_length is 1"):  # so that nothing is trained
        run(config)
    assert len(seen) == 48 and len({(tuple(prompt), tuple(answer)) for prompt, answer in seen}) > 36


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("name_order", "alphabetical", "give one of random, canonical"),
        ("trainable", "some", "trainable is 'some'; give one of full, lora, names"),
        ("lora_rank", 0, "lora_rank is 0; give at least 1"),
        ("lora_alpha", -1, "lora_alpha is -1; give at least 1"),
        ("validation_users", -1, "validation_users is -1; give a number of users"),
        ("validate_every", 0.0, "validate_every is 0.0; give a share of the training above 0"),
        ("validate_every", 1.5, "validate_every is 1.5; give a share of the training above 0"),
        ("patience", 0, "patience is 0; give at least 1"),
        ("save_steps", -5, "save_steps is -5; give at least 0"),
        ("epochs", 0, "epochs is 0; give at least 1"),
        ("batch_size", 0, "batch_size is 0; give at least 1"),
        ("micro_batch_size", 3, "micro_batch_size is 3, which does not share out batch_size = 8"),
        ("micro_batch_size", -1, "give a divisor of it, or 0"),
        ("max_length", 5, "tokens, but max_length is 5; raise max_length"),
    ],
)
def test_a_setting_that_cannot_be_is_told_before_any_work(
    run_dir: Path, setting: str, value: Any, told: str
) -> None:
    config = _config(run_dir, "bad")
    setattr(config, setting, value)
    before = sorted(run_dir.iterdir())
    with pytest.raises(InputError, match=told):
        run(config)
    assert sorted(run_dir.iterdir()) == before
