"""Stage `srpo`: reinforcement learning on a verifiable reward, on TRL's GRPOTrainer.

GREAM (https://arxiv.org/abs/2510.20815), sparse-regularised group policy optimisation (SRPO): GRPO with the
residual-sensitive reward of `rewards` and the bonus-calibrated advantage of `advantages`. Prompts are made
from training purchases only, see `srpo_prompts`.

Differs from the authors' code in: direct prompts are trained beside reasoning prompts, because training
reasoning alone costs direct mode its quality (dossier: about 5 % on Instruments); one batch holds one mode,
so that short answers neither wait for chains nor drown in their token mean; no resampling of groups without
signal, their share is logged instead; the steps on one batch are passes over all of it, not four parts.

TRL has no hook for an advantage, so three methods of its trainer are overridden; each calls its parent or
is one line. `tests/training/test_srpo.py` says which names of TRL they stand on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from gream.arguments import StageConfig, input_folder, option
from gream.artifacts import writing
from gream.data.store import load_interactions
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import load_names
from gream.semantic_ids.paths import Constraint
from gream.training.advantages import bonus_calibrated_advantages
from gream.training.completions import Mode, read_completions
from gream.training.rewards import exact_hits, residual_sensitive_reward
from gream.training.srpo_prompts import Prompts, training_prompts

logger = logging.getLogger(__name__)

STAGE = "srpo"
REPORT_FILE = "srpo_report.json"
WARMUP = 10  # optimiser steps with a rising learning rate, from the authors' script; a tenth of a short run

RewardFunction = Callable[..., list[float]]


@dataclass(kw_only=True)
class SRPOConfig(StageConfig):
    """Settings of `gream srpo`."""

    output: str = option("srpo", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    sids: str = input_folder("sids", doc="folder of the names")
    model: str = input_folder("sft", doc="folder of the model to start from, also the reference model")
    max_history: int = option(20, doc="newest purchases that a prompt shows")
    min_history: int = option(4, doc="purchases that a user must have before a target")
    reasoning_share: float = option(0.5, doc="share of the prompts that ask for reasoning, 0 to 1")
    num_generations: int = option(8, doc="completions of one prompt, G")
    prompts_per_batch: int = option(8, doc="prompts that are completed at once, over all devices")
    micro_batch_size: int = option(64, doc="completions in one forward and backward pass of one device")
    num_iterations: int = option(1, doc="optimiser steps on every batch of completions")
    max_steps: int = option(100, doc="optimiser steps in all")
    max_completion_length: int = option(256, doc="tokens after which a completion is cut, and worth nothing")
    learning_rate: float = option(2e-6, doc="learning rate after a short warm-up")
    temperature: float = option(1.0, doc="temperature of sampling")
    beta: float = option(0.001, doc="weight of the divergence from the model to start from; 0 for none")
    epsilon: float = option(0.2, doc="how far the ratio of old to new probability may move before it is cut")
    bonus_k: int = option(4, doc="number of tries of the pass@k bonus")
    bonus_weight: float = option(1.0, doc="weight of the pass@k bonus; 0 leaves plain GRPO")


CONFIG = SRPOConfig


def run(config: SRPOConfig) -> None:
    """Train on prompts from training purchases and write the model and `srpo_report.json`.

    Raises:
        InputError: settings that contradict each other, or no user with enough training purchases.
    """
    _check(config)
    names = load_names(config.locate("sids"))
    interactions = load_interactions(config.locate("data"))
    model, tokenizer = load_model(config.locate("model"), names)
    prompter = Prompter(tokenizer, names, max_history=config.max_history)
    prompts = training_prompts(interactions, prompter, config)
    with writing(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        log = train(model, prompter, constraint_of(names), prompts, config)
        save_model(draft.path, model, tokenizer, names)
        report = {"targets_available": prompts.available, "log_history": log}
        (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
        draft.counts.update(_counts(prompts, log, config))
    logger.info(
        "%s prompts of %s, %s steps; reward %.3f, exact hits %.1f %%, live groups %.0f %%",
        f"{len(prompts.rows):,}", f"{prompts.available:,}", config.max_steps,
        draft.counts["reward"], 100 * draft.counts["exact_hits"], 100 * draft.counts["live_groups"],
    )  # fmt: skip


def reward_functions(prompter: Prompter, constraint: Constraint) -> list[RewardFunction]:
    """Make the two columns that the trainer asks for: the graded reward, and the exact hit.

    The exact hit has weight 0: it is logged and carried to the advantage, and never graded.
    """

    def residual_sensitive(
        completion_ids: list[list[int]],
        target: list[list[int]],
        mode: list[Mode],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float]:
        answers = read_completions(completion_ids, prompter, constraint, mode)
        layout = prompter.names.layout
        reward = residual_sensitive_reward(
            answers.path,
            torch.tensor(target),
            answers.valid,
            ordered=layout.ordered,
            disambiguation=layout.disambiguation,
        )
        log_metric("well_formed", float(answers.well_formed.float().mean()))
        log_metric("valid", float(answers.valid.float().mean()))
        for each in sorted(set(mode)):
            log_metric(f"reward_{each}", float(reward[[m == each for m in mode]].mean()))
        return reward.tolist()

    def exact_hit(
        completion_ids: list[list[int]], target: list[list[int]], mode: list[Mode], **_: Any
    ) -> list[float]:
        answers = read_completions(completion_ids, prompter, constraint, mode)
        return exact_hits(answers.path, torch.tensor(target), answers.valid).tolist()

    return [residual_sensitive, exact_hit]


class SRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # trl has no types
    """GRPOTrainer with the bonus-calibrated advantage.

    Expects two reward functions: the graded reward with weight 1, the exact hit with weight 0.

    Args:
        bonus_k: number of tries of the pass@k bonus.
        bonus_weight: its weight; 0 leaves plain GRPO.
        options: everything that GRPOTrainer takes.
    """

    def __init__(self, *, bonus_k: int, bonus_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.bonus_k = bonus_k
        self.bonus_weight = bonus_weight
        self._graded = torch.empty(0, 2)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # The parent lets the tokenizer add its own special tokens, a second BOS for example.
        tokenizer: Any = self.processing_class
        return [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts], None, {}

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._graded = super()._calculate_rewards(*args, **kwargs)  # (rows of all devices, 2)
        return self._graded

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        size: Any = self.num_generations
        rewards, hits = self._graded.view(-1, size, 2).unbind(-1)  # (P, G) each
        advantages = bonus_calibrated_advantages(rewards, hits, self.bonus_k, self.bonus_weight)
        mine = self.accelerator.process_index * len(inputs)
        output["advantages"] = advantages.flatten()[mine : mine + len(inputs)].to(output["advantages"])
        self._metrics["train"]["live_groups"].append((advantages != 0).any(dim=1).float().mean().item())
        # The parent has logged its own advantages; the deque holds exactly one batch of all devices.
        logged: Any = self._logs["advantages"]
        logged.clear()
        logged.extend(advantages.flatten().tolist())
        return output


def train(
    model: Any, prompter: Prompter, constraint: Constraint, prompts: Prompts, config: SRPOConfig
) -> list[dict[str, float]]:
    """Train the model in place; returns the trainer's log, without what a clock measured."""
    model.float()  # master weights: a step of 2e-6 is lost in bfloat16
    with tempfile.TemporaryDirectory() as folder:
        trainer = SRPOTrainer(
            model=model,
            reward_funcs=reward_functions(prompter, constraint),
            args=trainer_arguments(config, Path(folder)),
            train_dataset=Dataset.from_list(prompts.rows),
            processing_class=prompter.tokenizer,
            bonus_k=config.bonus_k,
            bonus_weight=config.bonus_weight,
        )
        trainer.remove_callback(PrinterCallback)  # the log goes to the report, not to the terminal
        trainer.train()
    model.eval()
    return [{k: v for k, v in entry.items() if not _is_timing(k)} for entry in trainer.state.log_history]


def trainer_arguments(config: SRPOConfig, folder: Path) -> GRPOConfig:
    """Translate the settings into TRL's."""
    on_cpu = not torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.micro_batch_size,
        generation_batch_size=config.prompts_per_batch * config.num_generations,
        gradient_accumulation_steps=_accumulation(config),
        num_generations=config.num_generations,
        num_iterations=config.num_iterations,
        max_completion_length=config.max_completion_length,
        shuffle_dataset=False,  # the rows are in training order, one mode a batch
        reward_weights=[1.0, 0.0],
        temperature=config.temperature,
        beta=config.beta,
        epsilon=config.epsilon,
        loss_type="dapo",  # token mean over the batch, as in the authors' runs
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(WARMUP, config.max_steps // 10),
        weight_decay=0.1,
        max_grad_norm=1.0,
        seed=config.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=1,
        disable_tqdm=not sys.stderr.isatty(),
    )


def _check(config: SRPOConfig) -> None:
    counts = ("min_history", "prompts_per_batch", "micro_batch_size", "num_iterations", "max_steps")
    for name, least in [("num_generations", 2), *((name, 1) for name in (*counts, "bonus_k"))]:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give a number of at least {least}.")
    if not 0.0 <= config.reasoning_share <= 1.0:
        raise InputError(f"reasoning_share is {config.reasoning_share}; give a share between 0 and 1.")
    _accumulation(config)


def _accumulation(config: SRPOConfig) -> int:
    """Passes that make up one optimiser step on one device."""
    completions = config.prompts_per_batch * config.num_generations
    at_once = config.micro_batch_size * int(os.environ.get("WORLD_SIZE", "1"))
    if completions % at_once:
        raise InputError(
            f"{completions} completions of a batch cannot be split into passes of {at_once}; "
            "make prompts_per_batch x num_generations a multiple of micro_batch_size x devices."
        )
    return completions // at_once


def _counts(prompts: Prompts, log: list[dict[str, float]], config: SRPOConfig) -> dict[str, Any]:
    """Count what was used, and average the last quarter of the steps, at least one in each mode."""
    steps = [entry for entry in log if "reward" in entry]
    last = steps[-max(2, len(steps) // 4) :]
    return {
        "targets_available": prompts.available,
        "prompts": len(prompts.rows),
        "reasoning_prompts": sum(row["mode"] == "reasoning" for row in prompts.rows),
        "completions": len(prompts.rows) * config.num_generations,
        "steps": config.max_steps,
        "reward": _mean(last, "reward"),
        "exact_hits": _mean(last, "rewards/exact_hit/mean"),
        "live_groups": _mean(last, "live_groups"),
    }


def _mean(steps: list[dict[str, float]], key: str) -> float:
    values = [step[key] for step in steps if key in step]  # passes after the first on a batch log no reward
    return sum(values) / len(values) if values else 0.0


def _is_timing(key: str) -> bool:
    return key in ("step_time", "train_runtime") or key.endswith("_per_second")


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
