"""TRL's SFTTrainer over rows that are token ids already, with the loss on the answers only.

A step's loss is the sum over its answer tokens divided by their number, packed or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer
from trl import SFTConfig as TrlConfig
from trl import SFTTrainer

from gream.data.store import Case
from gream.devices import computed_in
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.rows import Row
from gream.processes import is_main, launched
from gream.training.adapters import FULL, adapt, merge, plain_model
from gream.training.checkpoints import Checkpoints
from gream.training.early_stop import ValidationStop
from gream.training.meter import Meter
from gream.training.packing import (
    IGNORED,
    ROW_BY_ROW,
    answers_of_packed,
    answers_of_padded,
    attention,
)
from gream.training.shared_weights import check_processes, gathered, number_of
from gream.training.validation import RECALL

if TYPE_CHECKING:
    from gream.training.sft import SftConfig

# What a clock measured, or what is counted from nought after a resume: the same seed writes the same bytes.
_LEFT_OUT = (
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "total_flos",
    "num_tokens",
)


@dataclass(frozen=True)
class Trained:
    """A trained model with plain weights, its log, and counts for the manifest."""

    model: Any  # in the process that writes
    log: list[dict[str, float]]  # the last entry has `train_loss`
    counts: dict[str, Any]
    told: str  # speed, padding and memory in words


class AnswerTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """TRL's trainer, which on a CPU scores the answers only.

    Away from a GPU TRL scores every position against the whole vocabulary, the prompt's too, and again for
    the gradient: twice the time of a step for a small model. The loss is the same.
    """

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the mean loss over the answer tokens of a step."""
        if inputs["labels"].is_cuda:
            return super().compute_loss(model, inputs, *args, **kwargs)
        answers_of = answers_of_packed if self.padding_free else answers_of_padded
        return Trainer.compute_loss(self, model, answers_of(inputs), *args, **kwargs)


def check_rows(rows: Sequence[Row], max_length: int) -> None:
    """Refuse rows that do not fit.

    Raises:
        InputError: a row is longer than `max_length`; cutting it would teach half a name.
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    if longest > max_length:
        raise InputError(
            f"The longest training row has {longest} tokens, but max_length is {max_length}; "
            "raise max_length, or lower max_history."
        )


def filled_up(rows: Sequence[Row], config: SftConfig) -> list[Row]:
    """Add rows without an answer until each of several processes has as many rows in the last pass.

    They carry no loss. Otherwise accelerate gives the last pass the first rows of all a second time.
    """
    rows_at_once = launched() * (config.micro_batch_size or config.batch_size)
    filler: Row = (rows[-1][0][:1], [])
    return [*rows, *[filler] * (-len(rows) % rows_at_once if launched() > 1 else 0)]


def rows_dataset(rows: Sequence[Row]) -> Dataset:
    """Turn prompt and answer ids into a dataset whose labels are the answers."""
    return Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in rows],
            "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in rows],
        }
    )


def train(
    model: Any,
    prompter: Prompter,
    rows: Sequence[Row],
    config: SftConfig,
    checkpoints: Checkpoints,
    cases: Sequence[Case] = (),
) -> Trained:
    """Train on the rows once, in their order, going on from a checkpoint where there is one.

    Args:
        model: a causal language model of transformers; its weights change.
        prompter: knows the tokenizer and the tokens of names.
        rows: prompt and answer ids in training order.
        config: the stage's settings.
        checkpoints: where an unfinished training is kept.
        cases: what validation asks for; none without early stop.
    """

    def adapters(plain: Any) -> Any:
        size = {"rank": config.lora_rank, "alpha": config.lora_alpha}
        return adapt(plain, prompter, config.trainable, seed=config.seed, **size)

    adapted = adapters(model)  # before the arguments: PEFT looks for a GPU where they ask for ZeRO-3
    arguments = trainer_arguments(config, checkpoints.drafts)  # joins the processes
    token_rows = "" if config.trainable == FULL else f"trainable: {config.trainable}"
    check_processes(arguments, ["validation_users"] if cases else [], token_rows)
    stop = None
    if cases:
        stop = ValidationStop(adapted, prompter, cases, every=config.validate_every, patience=config.patience)
    meter = _meter(rows, config, stop)
    before = checkpoints.prepare()
    if stop:
        checkpoints.save_also.append(stop.save)
        if before:
            stop.load(before)
    trainer = AnswerTrainer(
        model=adapted.train(),
        args=arguments,
        train_dataset=rows_dataset(filled_up(rows, config)),
        processing_class=prompter.tokenizer,
        # In this order: a stop takes the checkpoint of its step away, and gives it a line in the log.
        callbacks=[*([stop] if stop else []), checkpoints, meter],
    )
    trainer.remove_callback(PrinterCallback)  # the log goes to the report, not to the terminal
    packed = attention(plain_model(adapted), ROW_BY_ROW) if config.packing else contextlib.nullcontext()
    with packed:
        trainer.train(resume_from_checkpoint=str(before) if before else None)
    if stop:
        stop.restore()
    log = _log(trainer.state.log_history)
    counts = _counts(adapted, trainer.state.global_step, log, meter, stop)
    trained = gathered(trainer, adapters)
    return Trained(merge(trained).eval() if is_main() else trained, log, counts, meter.told())


def trainer_arguments(config: SftConfig, folder: Path) -> TrlConfig:
    """Translate the settings into TRL's."""
    on_cpu = not torch.cuda.is_available()
    return TrlConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=config.micro_batch_size or config.batch_size,
        gradient_accumulation_steps=config.batch_size // (config.micro_batch_size or config.batch_size),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_length=None,
        padding_free=config.packing,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",  # the rows are in training order
        seed=config.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        gradient_checkpointing=config.gradient_checkpointing,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=config.save_steps or 1,  # no effect where nothing is saved
        report_to="none",
        ddp_find_unused_parameters=False,  # there are none
        logging_steps=20,
        disable_tqdm=True,  # the meter draws a bar of its own
    )


def _log(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Leave out what a clock measured, and take the mean loss over all steps, those before a resume too."""
    # Sorted, because a checkpoint sorts what it holds.
    log = [{k: v for k, v in sorted(entry.items()) if k not in _LEFT_OUT} for entry in history]
    total, last = 0.0, 0.0
    for entry in log:
        if "loss" in entry:
            total, last = total + entry["loss"] * (entry["step"] - last), entry["step"]
    log[-1]["train_loss"] = total / last
    return log


def _counts(
    adapted: Any, steps: int, log: list[dict[str, float]], meter: Meter, stop: ValidationStop | None
) -> dict[str, Any]:
    counts = {
        "tokens": meter.tokens,
        "steps": steps,
        "trained_weights": sum(number_of(p) for p in adapted.parameters() if p.requires_grad),
        "loss": log[-1]["train_loss"],
        "padding_share": round(meter.padding_share, 4),
        "tokens_per_second": round(meter.tokens_per_second),
        "mixed_precision": computed_in(),
    }
    if stop:
        counts |= {"best_step": stop.step, RECALL: stop.score, "validation_seconds": round(stop.seconds, 2)}
    return counts


def _meter(rows: Sequence[Row], config: SftConfig, stop: ValidationStop | None) -> Meter:
    return Meter(
        [len(prompt) + len(answer) for prompt, answer in rows],
        config.batch_size * launched(),
        config.micro_batch_size or config.batch_size,
        packing=config.packing,
        elsewhere=lambda: _seconds(stop),
    )


def _seconds(stop: ValidationStop | None) -> float:
    return stop.seconds if stop else 0.0
