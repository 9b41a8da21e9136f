"""Stage `sft`: supervised fine-tuning on TRL's SFTTrainer, with the loss on the answers only.

One stage serves both halves of GREAM's supervised part: alignment (names, titles, next items) and the
reasoning curriculum; the recipe's `tasks` say which rows are seen, its `schedule` when. Rows arrive
tokenised, because text from data must not be tokenised by the trainer (see `gream.language.prompting`).
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, Trainer

from gream.arguments import StageConfig, input_folder, option
from gream.artifacts import writing
from gream.data.store import load_catalogue, load_interactions
from gream.errors import InputError
from gream.language.curriculum import group_by_length, training_plan
from gream.language.name_order import check_name_order
from gream.language.prompting import Prompter
from gream.language.reasoning import load_traces
from gream.language.rows import Row
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import load_names
from gream.training.plan_report import plan_table, write_plan

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

logger = logging.getLogger(__name__)

STAGE = "sft"
IGNORED = -100  # label of a token that carries no loss
_TIMINGS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos")


@dataclass(kw_only=True)
class SftConfig(StageConfig):
    """Settings of `gream sft`."""

    output: str = option("sft", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    sids: str = input_folder("sids", doc="folder of the names")
    model: str = input_folder("base", doc="folder of the model to start from")
    traces: str = input_folder("", doc="folder of the reasoning traces, for the tasks that need them")
    tasks: dict[str, float] = option(
        {"sequence": 1.0, "next_item": 1.0, "title_to_name": 1.0, "name_to_title": 1.0},
        doc="passes over the rows of each task in one epoch",
    )
    schedule: str = option(
        "uniform",
        doc="when the rows of a task come in an epoch: `uniform`; `staged`, one task after the other; "
        "`rising`, GREAM's, reasoning late",
    )
    name_order: str = option(
        "random",
        doc="order of the codes in an answer, for names without an order: `random` or `canonical`; "
        "no effect on ordered names",
    )
    epochs: int = option(1, doc="number of times that the plan of tasks is made anew and trained on")
    batch_size: int = option(64, doc="rows of one optimiser step on one device")
    learning_rate: float = option(1e-3, doc="peak learning rate; cosine to zero after the warm-up")
    warmup_share: float = option(0.05, doc="share of the steps with a rising learning rate")
    weight_decay: float = option(0.01, doc="weight decay of AdamW")
    max_history: int = option(20, doc="newest purchases that a prompt shows")
    max_length: int = option(512, doc="longest row in tokens; a longer one is an error, never cut")


CONFIG = SftConfig


def run(config: SftConfig) -> None:
    """Train on the recipe's tasks and write the model."""
    names = load_names(config.locate("sids"))
    catalogue = load_catalogue(config.locate("data"))
    interactions = load_interactions(config.locate("data"))
    model, tokenizer = load_model(config.locate("model"), names)
    prompter = Prompter(tokenizer, names, max_history=config.max_history)
    check_name_order(config.name_order)
    traces = load_traces(config.locate("traces")) if config.traces else []
    plan = training_plan(
        config.tasks,
        catalogue,
        interactions,
        prompter,
        epochs=config.epochs,
        traces=traces,
        schedule=config.schedule,
        name_order=config.name_order,
        seed=config.seed,
    )
    plan = group_by_length(plan, config.batch_size)
    logger.info("%s", plan_table(plan, config.schedule))
    dataset = rows_dataset(plan.rows, config.max_length)
    with writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        write_plan(draft.path, plan, config.schedule)
        history = train(model, tokenizer, dataset, config, draft.path / "trainer")
        save_model(draft.path, model, tokenizer, names)
        (draft.path / "sft_report.json").write_text(json.dumps(history, indent=2) + "\n")
        draft.counts.update(
            rows=len(dataset),
            tokens=_tokens(dataset),
            loss=history[-1]["train_loss"],
            **{f"rows_{task}": number for task, number in plan.counts.items()},
        )
    logger.info("%s rows, training loss %.3f", len(dataset), history[-1]["train_loss"])


def answer_trainer() -> type[SFTTrainer]:
    """Return TRL's trainer, which on a CPU scores the answers only.

    Away from a GPU TRL scores every position against the whole vocabulary, the prompt's too, and again for
    the gradient: twice the time of a step for a small model. The loss is the same.
    """
    from trl import SFTTrainer

    class AnswerTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
        def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            labels = inputs["labels"]
            if labels.is_cuda:
                return super().compute_loss(model, inputs, *args, **kwargs)
            first = int((labels != IGNORED).any(dim=0).int().argmax())
            kept = labels.shape[1] - first + 1  # the position before the first answer predicts it
            fewer = {**inputs, "labels": labels[:, -kept:], "logits_to_keep": kept, "use_cache": False}
            return Trainer.compute_loss(self, model, fewer, *args, **kwargs)

    return AnswerTrainer


def rows_dataset(rows: list[Row], max_length: int) -> Dataset:
    """Turn prompt and answer ids into a dataset whose labels are the answers.

    Raises:
        InputError: a row is longer than `max_length`; cutting it would teach half a name.
    """
    from datasets import Dataset

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    if longest > max_length:
        raise InputError(
            f"The longest training row has {longest} tokens, but max_length is {max_length}; "
            "raise max_length, or lower max_history."
        )
    return Dataset.from_dict(
        {
            "input_ids": [prompt + answer for prompt, answer in rows],
            "labels": [[IGNORED] * len(prompt) + answer for prompt, answer in rows],
        }
    )


def train(
    model: Any, tokenizer: Any, dataset: Dataset, config: SftConfig, folder: Path
) -> list[dict[str, float]]:
    """Run TRL's trainer over the rows once; returns its log, whose last entry has `train_loss`."""
    model.train()
    trainer = answer_trainer()(
        model=model,
        args=trainer_arguments(config, folder),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)  # the log goes to the report, not to the terminal
    trainer.train()
    model.eval()
    # Without what a clock measured: the same seed must write the same bytes.
    return [{k: v for k, v in entry.items() if k not in _TIMINGS} for entry in trainer.state.log_history]


def trainer_arguments(config: SftConfig, folder: Path) -> TrlConfig:
    """Translate the settings into TRL's."""
    from trl import SFTConfig as TrlConfig

    on_cpu = not torch.cuda.is_available()
    return TrlConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_share,
        weight_decay=config.weight_decay,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="sequential",  # the rows are in training order
        seed=config.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        disable_tqdm=not sys.stderr.isatty(),
    )


def _tokens(dataset: Dataset) -> int:
    return sum(len(ids) for ids in dataset["input_ids"])


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
