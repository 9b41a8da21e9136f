"""A toy policy in training: what the tests of SRPO's trainer and of its states share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from gream.data.store import Catalogue, Interactions
from gream.language.vocab import load_model
from gream.semantic_ids.layout import Names
from gream.training.srpo import SRPOConfig
from gream.training.srpo_trainer import SRPOTrainer
from gream.training.srpo_training import Parts, trainer_arguments

G, P = 4, 2  # generations, prompts of a batch


def settings(**changed: Any) -> SRPOConfig:
    values: dict[str, Any] = {
        "num_generations": G,
        "prompts_per_batch": P,
        "micro_batch_size": G,
        "max_steps": 2,
        "max_completion_length": 6,
        "max_history": 5,
        "min_history": 2,
        "learning_rate": 1e-3,
        "bonus_k": 2,
    }
    return SRPOConfig(**{**values, **changed})


def even_share(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Any reward with spread will do: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def even_first(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


@dataclass
class ToyTerms:
    """In the place of `RewardTerms`: what a toy model gets by chance."""

    functions: list[Callable[..., list[float]]] = field(default_factory=lambda: [even_share, even_first])
    weights: list[float] = field(default_factory=lambda: [1.0, 0.0])
    process_weight: float = 0.0
    process_scores: torch.Tensor | None = None
    positions: torch.Tensor | None = None


@dataclass(frozen=True)
class Policy:
    """A model folder, and what is learnt from."""

    folder: Path
    names: Names
    catalogue: Catalogue
    interactions: Interactions

    def parts(self, config: SRPOConfig) -> tuple[Any, Parts]:
        model, tokenizer = load_model(self.folder, self.names)
        return model, Parts.of(config, self.names, self.catalogue, self.interactions, model, tokenizer)

    def trainer(
        self, config: SRPOConfig, terms: Any = None, kind: type[SRPOTrainer] = SRPOTrainer
    ) -> SRPOTrainer:
        """Make a trainer on toy rewards, or on `terms`."""
        model, parts = self.parts(config)
        terms = terms or ToyTerms()
        return kind(
            terms=terms,
            pool=parts.pool,
            reasoning_share=config.reasoning_share,
            advantage=config.advantage,
            bonus_k=config.bonus_k,
            refill_rounds=config.refill_rounds,
            model=model,
            args=trainer_arguments(config, self.folder / "trainer", terms.weights),
            processing_class=parts.prompter.tokenizer,
        )


def steps_of(trainer: Any) -> list[dict[str, float]]:
    """Train, and return the log of the steps."""
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
