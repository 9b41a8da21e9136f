"""Stage `sft`: supervised fine-tuning on TRL's SFTTrainer, with the loss on the answers only.

One stage serves both halves of GREAM's supervised part: alignment (names, titles, next items) and the
reasoning curriculum; the recipe's `tasks` say which rows are seen, its `schedule` when. Rows arrive
tokenised, because text from data must not be tokenised by the trainer (see `gream.language.prompting`).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from gream.arguments import StageConfig, input_folder, option
from gream.data.store import load_catalogue, load_interactions
from gream.errors import InputError
from gream.language.curriculum import Curriculum, group_by_length, training_plan
from gream.language.name_order import check_name_order
from gream.language.prompting import Prompter
from gream.language.reasoning import load_traces
from gream.language.vocab import load_model, save_model
from gream.processes import launched, writing_once
from gream.semantic_ids.layout import load_names
from gream.training.adapters import FULL, check_trainable
from gream.training.checkpoints import Checkpoints, training_of, wait_for_all
from gream.training.early_stop import check_validation, validation_cases
from gream.training.packing import check_packable
from gream.training.plan_report import plan_table, write_plan
from gream.training.sft_trainer import check_rows, train

logger = logging.getLogger(__name__)

STAGE = "sft"


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
    micro_batch_size: int = option(
        0, doc="rows in one forward and backward pass, which bounds memory; 0 takes all of a step at once"
    )
    gradient_checkpointing: bool = option(
        False, doc="whether activations are computed again in the backward pass: less memory, more time"
    )
    learning_rate: float = option(1e-3, doc="peak learning rate; cosine to zero after the warm-up")
    warmup_share: float = option(0.05, doc="share of the steps with a rising learning rate")
    weight_decay: float = option(0.01, doc="weight decay of AdamW")
    max_history: int = option(20, doc="newest purchases that a prompt shows")
    max_length: int = option(512, doc="longest row in tokens; a longer one is an error, never cut")
    packing: bool = option(
        False, doc="whether the rows of a step lie in one sequence without padding; else like lengths meet"
    )
    trainable: str = option(
        FULL,
        doc="what is trained: `full`, `lora` (adapters and the rows of new tokens) or `names` (rows of "
        "the item tokens alone)",
    )
    lora_rank: int = option(16, doc="rank of the adapters; no effect unless trainable is `lora`")
    lora_alpha: int = option(32, doc="adapters are scaled by lora_alpha / lora_rank; no effect unless `lora`")
    validation_users: int = option(
        0, doc="users, drawn by seed, whose validation purchase is searched to stop early; 0 never stops"
    )
    validate_every: float = option(
        0.1, doc="share of the training between two validations; no effect without validation_users"
    )
    patience: int = option(
        3, doc="validations without a better recall after which training stops; no effect without users"
    )
    save_steps: int = option(
        0, doc="optimiser steps between two states that an interrupted training goes on from; 0 for none"
    )


CONFIG = SftConfig


def run(config: SftConfig) -> None:
    """Train on the recipe's tasks and write the model.

    Raises:
        InputError: settings out of range, tasks that give no rows, or folders that do not belong together.
    """
    _check(config)
    names = load_names(config.locate("sids"))
    catalogue = load_catalogue(config.locate("data"))
    interactions = load_interactions(config.locate("data"))
    model, tokenizer = load_model(config.locate("model"), names)
    stored = model.dtype
    if config.trainable == FULL:
        model.float()  # master weights: a small step is lost in bfloat16; adapters are float32 anyway
    prompter = Prompter(tokenizer, names, max_history=config.max_history)
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
    if not config.packing:
        plan = group_by_length(plan, config.batch_size * launched())
    check_rows(plan.rows, config.max_length)
    if config.packing:
        check_packable(model)
    users = config.validation_users
    cases = validation_cases(interactions, users, config.seed) if users else []
    logger.info("%s", plan_table(plan, config.schedule))
    training = training_of(config.recorded(), config.inputs(), plan.rows)
    with (
        Checkpoints(config.output_path, training) as checkpoints,
        writing_once(
            config.output_path,
            stage=STAGE,
            config=config.recorded(),
            inputs=config.inputs(),
            seed=config.seed,
        ) as draft,
    ):
        if draft:
            write_plan(draft.path, plan, config.schedule)
        trained = train(model, prompter, plan.rows, config, checkpoints, cases)
        if draft:
            save_model(draft.path, trained.model.to(stored), tokenizer, names)
            (draft.path / "sft_report.json").write_text(json.dumps(trained.log, indent=2) + "\n")
            draft.counts.update(rows=len(plan.rows), processes=launched(), **trained.counts)
            draft.counts.update(_task_counts(plan))
    wait_for_all()  # nobody reads the folder before it is there
    logger.info("%s rows, training loss %.3f; %s", len(plan.rows), trained.counts["loss"], trained.told)


def _check(config: SftConfig) -> None:
    check_name_order(config.name_order)
    check_trainable(config.trainable, rank=config.lora_rank, alpha=config.lora_alpha)
    check_validation(users=config.validation_users, every=config.validate_every, patience=config.patience)
    for name, least in (("epochs", 1), ("batch_size", 1), ("save_steps", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give at least {least}.")
    if config.micro_batch_size < 0 or config.batch_size % (config.micro_batch_size or config.batch_size):
        raise InputError(
            f"micro_batch_size is {config.micro_batch_size}, which does not share out batch_size = "
            f"{config.batch_size}; give a divisor of it, or 0."
        )


def _task_counts(plan: Curriculum) -> dict[str, int]:
    return {f"rows_{task}": number for task, number in plan.counts.items()}


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
