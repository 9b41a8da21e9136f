"""Puts the parts of an SRPO training together, and trains.

Legend: G generations.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model
from transformers import PrinterCallback
from trl import GRPOConfig

from gream.data.store import Case, Catalogue, Interactions
from gream.decoding.consistency import item_categories
from gream.decoding.scorer_file import load_scorer
from gream.decoding.torch_backend import TorchBackend
from gream.decoding.vllm_backend import VllmBackend
from gream.language.prompting import Prompter
from gream.processes import is_main, launched
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names
from gream.semantic_ids.paths import Constraint
from gream.training.adapters import merge, plain_model, policy_adapters
from gream.training.answer_support import AnswerSupport
from gream.training.checkpoints import Checkpoints, steps_between_states
from gream.training.early_stop import ValidationStop, validation_cases
from gream.training.prompt_pool import PromptPool
from gream.training.reward_terms import OF_CATEGORIES, RewardTerms
from gream.training.rollouts import BEAM, FREE, RolloutWriter
from gream.training.shared_weights import check_processes, gathered
from gream.training.solve_chance import NameChance
from gream.training.srpo_trainer import SRPOTrainer
from gream.training.validation import SCORE, BothModes
from gream.training.watch import Watch

if TYPE_CHECKING:
    from gream.training.srpo import SRPOConfig

WARMUP = 10  # optimiser steps with a rising learning rate, from the authors' script; a tenth of a short run


@dataclass(frozen=True)
class Parts:
    """What a training is put together from."""

    prompter: Prompter
    constraint: Constraint
    pool: PromptPool
    terms: RewardTerms
    writer: RolloutWriter | None  # None where completions are free
    cases: list[Case]  # of the validation split

    @staticmethod
    def of(
        config: SRPOConfig,
        names: Names,
        catalogue: Catalogue,
        interactions: Interactions,
        model: Any,
        tokenizer: Any,
    ) -> Parts:
        """Make the parts, around the model that learns.

        Raises:
            InputError: parts that do not fit each other, or no target to ask for.
        """
        prompter = Prompter(tokenizer, names, max_history=config.max_history)
        constraint = constraint_of(names)
        backend = TorchBackend(model, tokenizer.pad_token_id)
        pool = PromptPool(
            interactions,
            prompter,
            min_history=config.min_history,
            num_generations=config.num_generations,
            future_window=config.future_window,
            candidates=config.candidates,
            seed=config.seed,
            shuffle_targets=config.shuffle_targets,
            solve_chance=NameChance(backend, prompter, constraint),
        )
        terms = RewardTerms(
            config.rewards,
            prompter,
            constraint,
            num_generations=config.num_generations,
            best_first=config.rollouts == BEAM,
            future_window=config.future_window,
            future_decay=config.future_decay,
            categories=item_categories(catalogue.categories)
            if any(n in config.rewards for n in OF_CATEGORIES)
            else None,
            scorer=load_scorer(config.locate("scorer"), names, interactions.training_sequences())
            if config.scorer
            else None,
        )
        writer = None
        if config.rollouts != FREE:
            writer = RolloutWriter(
                backend,
                prompter,
                constraint,
                kind=config.rollouts,
                num_generations=config.num_generations,
                temperature=config.temperature,
                max_tokens=config.max_completion_length,
            )
        users = config.validation_users
        cases = validation_cases(interactions, users, config.seed) if users else []
        return Parts(prompter, constraint, pool, terms, writer, cases)


def train(
    model: Any, parts: Parts, config: SRPOConfig, checkpoints: Checkpoints
) -> tuple[Any, list[dict[str, float]]]:
    """Train the model; returns it, and the trainer's log without what a clock measured.

    The weights are plain and whole in the process that writes.
    """
    prompter = parts.prompter
    arguments = trainer_arguments(config, checkpoints.drafts, parts.terms.weights)  # joins the processes
    check_processes(arguments, _needing_whole_weights(config))
    before = checkpoints.prepare()  # while nothing else has made a folder there
    adapters = policy_adapters(config.trainable, rank=config.lora_rank, alpha=config.lora_alpha)
    torch.manual_seed(config.seed)  # the trainer draws adapters before it seeds
    trainer = SRPOTrainer(
        terms=parts.terms,
        pool=parts.pool,
        reasoning_share=config.reasoning_share,
        advantage=config.advantage,
        bonus_k=config.bonus_k,
        refill_rounds=config.refill_rounds,
        model=model,
        args=arguments,
        processing_class=prompter.tokenizer,
        peft_config=adapters,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)  # the log goes to the report, not to the terminal
    if parts.writer:
        writer = parts.writer
        if config.engine == "vllm":
            writer = writer.on(VllmBackend.around(trainer.vllm_generation.llm))
        plain = plain_model(trainer.model)
        support = AnswerSupport(plain, prompter, parts.constraint, temperature=config.temperature)
        trainer.hold_to_names(writer, support)
    stop = _validation(trainer.model, parts, config)
    keepers: list[Any] = [trainer, *([stop] if stop else [])]
    for part in keepers:
        checkpoints.save_also.append(part.save)
        if before:
            part.load(before)
    # In this order: a stop takes the checkpoint of its step away, and gives it a line in the log.
    for callback in [*([stop] if stop else []), checkpoints]:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=str(before) if before else None)
    if stop:
        stop.restore()
    trained = gathered(trainer, lambda plain: get_peft_model(plain, adapters) if adapters else plain)
    if is_main():
        trained = merge(trained).eval()
    return trained, _log(trainer.state.log_history)


def _needing_whole_weights(config: SRPOConfig) -> list[str]:
    """Settings with which the policy is searched while it learns."""
    asked = {
        "validation_users": config.validation_users > 0,
        f"rollouts: {config.rollouts}": config.rollouts != FREE,
        "candidates above 1": config.candidates > 1,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def _validation(model: Any, parts: Parts, config: SRPOConfig) -> ValidationStop | None:
    if not parts.cases:
        return None
    return ValidationStop(
        model,
        parts.prompter,
        parts.cases,
        every=config.validate_every,
        patience=config.patience,
        measure=BothModes(config.reasoning_share, config.max_completion_length, config.seed),
        name=SCORE,
        from_start=True,
    )


def trainer_arguments(config: SRPOConfig, folder: Path, weights: list[float]) -> GRPOConfig:
    """Translate the settings into TRL's."""
    on_cpu = not torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=config.micro_batch_size,
        generation_batch_size=config.prompts_per_batch * config.num_generations,
        gradient_accumulation_steps=_passes(config),
        num_generations=config.num_generations,
        num_iterations=config.num_iterations,
        max_completion_length=config.max_completion_length,
        shuffle_dataset=False,  # modes come in their order
        reward_weights=weights,
        use_vllm=config.engine == "vllm",
        vllm_mode="server" if config.vllm_url else "colocate",
        vllm_server_base_url=config.vllm_url or None,
        # Under the trie sampler and learner have the same choices, which vLLM's own numbers do not know.
        vllm_importance_sampling_correction=config.rollouts == FREE,
        temperature=config.temperature,
        beta=config.beta,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        loss_type=config.loss_type,
        learning_rate=config.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(WARMUP, config.max_steps // 10),
        weight_decay=0.1,
        max_grad_norm=1.0,
        seed=config.seed,
        use_cpu=on_cpu,
        bf16=not on_cpu,
        dataloader_pin_memory=not on_cpu,
        gradient_checkpointing=config.gradient_checkpointing,
        save_strategy="steps" if config.save_steps else "no",
        save_steps=steps_between_states(config.save_steps, config.num_iterations) or 1,
        report_to="none",
        ddp_find_unused_parameters=False,  # there are none
        logging_steps=1,
        disable_tqdm=not sys.stderr.isatty(),
    )


def _passes(config: SRPOConfig) -> int:
    """Passes that make up one optimiser step on one device."""
    completions = config.prompts_per_batch * config.num_generations
    return completions // (config.micro_batch_size * launched())


def _log(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """Leave out what a clock measured, and the mean loss, which forgets the steps before a resume."""
    # Sorted, because a checkpoint sorts what it holds.
    return [{k: v for k, v in sorted(entry.items()) if not _is_left_out(k)} for entry in history]


def _is_left_out(key: str) -> bool:
    return key in ("step_time", "train_runtime", "train_loss") or key.endswith("_per_second")
