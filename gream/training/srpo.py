"""Stage `srpo`: reinforcement learning on a verifiable reward, on TRL's GRPOTrainer.

GREAM (https://arxiv.org/abs/2510.20815), sparse-regularised group policy optimisation (SRPO): GRPO with the
residual-sensitive reward of `rewards` and the bonus-calibrated advantage of `advantages`. Prompts are made
from training purchases only, see `prompt_pool`.

Differs from the authors' code in: direct prompts are trained beside reasoning prompts, because training
reasoning alone costs direct mode its quality (dossier: about 5 % on Instruments), and both are watched on
validation users; one batch holds one mode, so that short answers neither wait for chains nor drown in their
token mean; groups without a signal are replaced and none with one is thrown away, see `refill`; answers may
be held to the catalogue, see `rollouts`; the steps on one batch are passes over all of it, not four parts.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import torch

from gream.arguments import StageConfig, input_folder, option
from gream.data.store import load_catalogue, load_interactions
from gream.decoding.engines import LOCAL_ENGINES
from gream.devices import computed_in
from gream.errors import InputError
from gream.language.vocab import load_model, save_model
from gream.processes import launched, writing_once
from gream.semantic_ids.layout import load_names
from gream.training.adapters import FULL, POLICY, check_trainable
from gream.training.advantages import ADVANTAGES
from gream.training.checkpoints import Checkpoints, training_of, wait_for_all
from gream.training.early_stop import check_validation
from gream.training.reward_terms import check_recipe
from gream.training.rollouts import FREE, KINDS
from gream.training.srpo_report import write_srpo_report
from gream.training.srpo_training import Parts, train

logger = logging.getLogger(__name__)

STAGE = "srpo"
LOG_FILE = "srpo_report.json"
LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")  # TRL's


@dataclass(kw_only=True)
class SRPOConfig(StageConfig):
    """Settings of `gream srpo`."""

    output: str = option("srpo", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder of the prepared data")
    sids: str = input_folder("sids", doc="folder of the names")
    model: str = input_folder("sft", doc="folder of the model to start from, also the reference model")
    scorer: str = input_folder("", doc="folder of the scorer, for the reward `process`")
    max_history: int = option(20, doc="newest purchases that a prompt shows")
    min_history: int = option(4, doc="purchases that a user must have before a target")
    shuffle_targets: bool = option(
        False, doc="whether each prompt is given another prompt's target: a control that must learn nothing"
    )
    reasoning_share: float = option(0.5, doc="share of the prompts that ask for reasoning, 0 to 1")
    candidates: int = option(
        1, doc="prompts looked at for each one that is asked, by the policy's chance of a hit; 1 draws evenly"
    )
    rewards: dict[str, float] = option({"residual_sensitive": 1.0}, doc="weight of each reward by name")
    future_window: int = option(1, doc="next training purchases that an answer is compared with")
    future_decay: float = option(
        0.5, doc="weight of each of them as a share of the one before; no effect with a window of 1"
    )
    advantage: str = option("srpo", doc="`srpo`, which adds the pass@k bonus, `grpo`, `dr_grpo` or `rloo`")
    bonus_k: int = option(4, doc="number of tries of the pass@k bonus; no effect unless advantage is `srpo`")
    rollouts: str = option(
        FREE, doc="how completions are written: `free`, `constrained` to real items, or `beam`, all different"
    )
    engine: str = option("torch", doc="what writes completions: `torch`, or `vllm` on a GPU")
    vllm_url: str = option(
        "",
        doc="address of a `trl vllm-serve` that writes on other GPUs; empty: `vllm` writes on this one",
    )
    refill_rounds: int = option(0, doc="batches of new prompts at most in place of groups without a signal")
    num_generations: int = option(8, doc="completions of one prompt, G")
    prompts_per_batch: int = option(8, doc="prompts that are completed at once, over all devices")
    micro_batch_size: int = option(64, doc="completions in one forward and backward pass of one device")
    gradient_checkpointing: bool = option(
        False, doc="whether activations are computed again in the backward pass: less memory, more time"
    )
    num_iterations: int = option(1, doc="optimiser steps on every batch of completions")
    max_steps: int = option(100, doc="optimiser steps in all")
    max_completion_length: int = option(256, doc="tokens after which a completion is cut, and worth nothing")
    learning_rate: float = option(2e-6, doc="learning rate after a short warm-up")
    temperature: float = option(1.0, doc="temperature of sampling")
    loss_type: str = option("dapo", doc="the loss, of TRL's; `dapo` is the token mean of the authors' runs")
    beta: float = option(0.001, doc="weight of the divergence from the model to start from; 0 for none")
    epsilon: float = option(0.2, doc="how far the ratio of new to old probability may fall before it is cut")
    epsilon_high: float = option(0.2, doc="how far it may rise")
    trainable: str = option(
        FULL, doc="what is trained: `full`, or `lora`, adapters that are merged at the end"
    )
    lora_rank: int = option(16, doc="rank of the adapters; no effect unless trainable is `lora`")
    lora_alpha: int = option(32, doc="adapters are scaled by lora_alpha / lora_rank; no effect unless `lora`")
    validation_users: int = option(
        0, doc="users, drawn by seed, whose validation purchase is searched in both modes; 0 measures nothing"
    )
    validate_every: float = option(0.1, doc="share of the training between two validations")
    patience: int = option(3, doc="validations without a better score after which training stops")
    save_steps: int = option(
        0, doc="optimiser steps between two states that an interrupted training goes on from; 0 for none"
    )


CONFIG = SRPOConfig


def run(config: SRPOConfig) -> None:
    """Train on prompts from training purchases; write the model, its log and `report.md`.

    Raises:
        InputError: settings that contradict each other, or no user with enough training purchases.
    """
    _check(config)
    names = load_names(config.locate("sids"))
    interactions = load_interactions(config.locate("data"))
    catalogue = load_catalogue(config.locate("data"))
    model, tokenizer = load_model(config.locate("model"), names)
    stored = model.dtype
    model.float()  # master weights: a step of 2e-6 is lost in bfloat16
    parts = Parts.of(config, names, catalogue, interactions, model, tokenizer)
    training = training_of(config.recorded(), config.inputs())
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
        model, log = train(model, parts, config, checkpoints)
        counts = _counts(len(parts.pool), log, config)
        if draft:
            save_model(draft.path, model.to(stored), tokenizer, names)
            report = {"targets_available": len(parts.pool), "log_history": log}
            (draft.path / LOG_FILE).write_text(json.dumps(report, indent=2) + "\n")
            write_srpo_report(draft.path, log)
            draft.counts.update(counts)
    wait_for_all()  # nobody reads the folder before it is there
    logger.info(
        "%s targets to choose from, %s steps; reward %.3f, exact hits %.1f %%, live groups %.0f %%",
        f"{len(parts.pool):,}", f"{counts['steps']:,}",
        counts["reward"], 100 * counts["exact_hits"], 100 * counts["live_groups"],
    )  # fmt: skip


def _check(config: SRPOConfig) -> None:
    counts = ("min_history", "prompts_per_batch", "micro_batch_size", "num_iterations", "max_steps")
    for name, least in [("num_generations", 2), *((name, 1) for name in (*counts, "bonus_k"))]:
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give a number of at least {least}.")
    for name in ("refill_rounds", "save_steps"):
        if getattr(config, name) < 0:
            raise InputError(f"{name} is {getattr(config, name)}; give a number of at least 0.")
    if not 0.0 <= config.reasoning_share <= 1.0:
        raise InputError(f"reasoning_share is {config.reasoning_share}; give a share between 0 and 1.")
    for name, known in (
        ("engine", LOCAL_ENGINES),
        ("advantage", ADVANTAGES),
        ("rollouts", KINDS),
        ("loss_type", LOSSES),
    ):
        if getattr(config, name) not in known:
            raise InputError(f"{name} is {getattr(config, name)!r}; give one of {', '.join(known)}.")
    if config.engine == "vllm" and not torch.cuda.is_available():
        raise InputError(
            "engine is 'vllm', but there is no GPU, and vLLM's CPU build cannot take over the weights of a "
            "model in training; use engine 'torch'."
        )
    if config.vllm_url and (config.engine != "vllm" or config.rollouts != FREE):
        raise InputError(
            f"vllm_url is {config.vllm_url!r}, but engine is {config.engine!r} and rollouts are "
            f"{config.rollouts!r}; a server needs engine 'vllm' and writes 'free' completions only."
        )
    check_recipe(config.rewards)
    check_trainable(config.trainable, rank=config.lora_rank, alpha=config.lora_alpha, choices=POLICY)
    check_validation(users=config.validation_users, every=config.validate_every, patience=config.patience)
    _check_batches(config)


def _check_batches(config: SRPOConfig) -> None:
    """Refuse batches that cannot be split: whole groups on every device, and whole passes."""
    devices = launched()
    if config.prompts_per_batch % devices:
        raise InputError(
            f"{config.prompts_per_batch} prompts of a batch cannot be shared by {devices} devices; "
            "make prompts_per_batch a multiple of the devices."
        )
    completions = config.prompts_per_batch * config.num_generations
    at_once = config.micro_batch_size * devices
    if completions % at_once:
        raise InputError(
            f"{completions} completions of a batch cannot be split into passes of {at_once}; "
            "make prompts_per_batch x num_generations a multiple of micro_batch_size x devices."
        )


def _counts(available: int, log: list[dict[str, float]], config: SRPOConfig) -> dict[str, Any]:
    """Count what was used, and average the last quarter of the steps, at least one in each mode."""
    steps = [entry for entry in log if "reward" in entry]
    last = steps[-max(2, len(steps) // 4) :]
    groups = int(sum(entry["generated_groups"] for entry in steps))
    return {
        "targets_available": available,
        "prompts": groups,
        "completions": groups * config.num_generations,
        "processes": launched(),
        "mixed_precision": computed_in(),
        "steps": max(int(entry["step"]) for entry in log),
        "reward": _mean(last, "reward"),
        "exact_hits": _mean(last, "rewards/exact_hit/mean"),
        "live_groups": _mean(last, "live_groups"),
    }


def _mean(steps: list[dict[str, float]], key: str) -> float:
    values = [step[key] for step in steps if key in step]  # passes after the first on a batch log no reward
    return sum(values) / len(values) if values else 0.0


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
