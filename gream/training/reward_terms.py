"""The rewards of a recipe, as the columns that the trainer asks for.

A recipe weighs rewards by name. Each becomes a function that TRL calls and logs by that name; the trainer
adds them up by their weights. Two are special:

- `exact_hit` is always there, as the last column, with weight 0 where the recipe does not weigh it: the
  pass@k bonus needs it beside the graded reward.
- `process` grades every level of an answer and is no column: its scores and the places of the levels are kept
  for the trainer, which adds them to the advantages of those tokens.

The completions of a batch are read once for all functions. Nothing is swallowed: what cannot be computed
raises, and never becomes a reward of 0.

What is gamed earns nothing in any term, because it is malformed (see `completions`): an incomplete name, an
answer inside the think block, two answers, and a right name without thinking. An invented item earns the
reward of the format, and of the process as far as its prefixes are real.

Legend: R completions, L codebooks, P prompts, G generations, N purchases of the window, I items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gream.decoding.path_scorer import PrefixPathScorer
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.paths import Constraint
from gream.training import reg4rec_rewards, rewards
from gream.training.completions import Answers, Mode, read_completions
from gream.training.process_reward import answer_positions, check_scorer, process_scores
from gream.training.reg4rec_rewards import StepCategories, check_window, window_of

EXACT_HIT = "exact_hit"
PROCESS = "process"  # by level, no column
OF_CATEGORIES = ("category_hit", "step_consistency")

RewardFunction = Callable[..., list[float]]
Log = Callable[[str, float], None]


@dataclass
class _Batch:
    """One batch as it was read, and what has been computed of it."""

    completion_ids: Sequence[Sequence[int]]
    mode: Sequence[Mode]
    data: Mapping[str, Any]  # the columns of the data set
    answers: Answers
    target: Tensor  # (R, L)
    rewards: dict[str, Tensor] = field(default_factory=dict)  # (R,) by name


class RewardTerms:
    """The reward functions of one recipe.

    Attributes:
        functions: for GRPOTrainer's `reward_funcs`; the exact hit is the last.
        weights: for GRPOConfig's `reward_weights`, one for each function.
        process_weight: weight of the process advantages; 0 where the recipe has none.
        process_scores: (R, L) float32 of the batch that was graded last, NaN where there is none; None where
            `process_weight` is 0.
        positions: (R, L) int64, where the levels of that batch's answers are among the tokens, -1 for none;
            None where `process_weight` is 0.
    """

    def __init__(
        self,
        recipe: Mapping[str, float],
        prompter: Prompter,
        constraint: Constraint,
        *,
        num_generations: int,
        best_first: bool = False,
        future_window: int = 1,
        future_decay: float = 0.5,
        categories: np.ndarray | None = None,
        scorer: PrefixPathScorer | None = None,
    ) -> None:
        """Check the recipe and make its functions.

        Args:
            recipe: weight of each reward by name.
            prompter: the prompter that wrote the prompts.
            constraint: the catalogue's names.
            num_generations: G, completions of one prompt; they come one after the other.
            best_first: whether a group comes in the order of the policy's preference, as beams do.
            future_window: next training purchases that an answer is compared with, N; 1 is the target alone.
            future_decay: weight of a purchase of the window as a share of the one before it.
            categories: (I,) of `consistency.item_categories`; needed by the rewards of categories.
            scorer: needed by `process`.

        Raises:
            InputError: what `check_recipe` and `check_window` refuse, rewards of categories without
                categories, or `process` without a scorer that fits.
        """
        check_recipe(recipe)
        check_window(future_window, future_decay)
        self._prompter, self._constraint = prompter, constraint
        self._num_generations, self._best_first = num_generations, best_first
        self._future_window, self._future_decay = future_window, future_decay
        self._codes = torch.from_numpy(prompter.names.codes.astype(np.int64))  # (I, L)
        self._steps = _step_categories(recipe, constraint, categories)
        self._scorer = scorer
        self.process_weight = float(recipe.get(PROCESS, 0.0))
        if self.process_weight and scorer is None:
            raise InputError(
                "The reward `process` needs a scorer; set `scorer` to the folder of `gream prm`."
            )
        if self.process_weight and scorer is not None:
            check_scorer(scorer, constraint)
        columns = [name for name in recipe if name not in (EXACT_HIT, PROCESS)]
        self._weight_of = {name: float(recipe.get(name, 0.0)) for name in (*columns, EXACT_HIT)}
        self.weights = list(self._weight_of.values())
        self.functions: list[RewardFunction] = [self._function(name) for name in self._weight_of]
        self.process_scores: Tensor | None = None
        self.positions: Tensor | None = None
        self._batch: _Batch | None = None

    def _function(self, name: str) -> RewardFunction:
        """Make the function of one column; the last one logs what concerns the whole batch."""

        def reward(log_metric: Log, **columns: Any) -> list[float]:
            batch = self._read(**columns)
            values: list[float] = self._reward(name, batch).tolist()
            if name == EXACT_HIT:
                self._finish(batch, log_metric)
            return values

        reward.__name__ = name  # what TRL logs it as
        return reward

    def _read(
        self, *, completion_ids: list[list[int]], mode: list[Mode], target: list[list[int]], **data: Any
    ) -> _Batch:
        """Read a batch, or remember it: the trainer hands the very same lists to all functions."""
        known = self._batch
        if known is None or known.completion_ids is not completion_ids or known.mode is not mode:
            answers = read_completions(completion_ids, self._prompter, self._constraint, mode)
            known = self._batch = _Batch(completion_ids, mode, data, answers, torch.tensor(target))
        return known

    def _reward(self, name: str, batch: _Batch) -> Tensor:
        if name not in batch.rewards:
            batch.rewards[name] = TERMS[name](self, batch)
        return batch.rewards[name]

    def _finish(self, batch: _Batch, log_metric: Log) -> None:
        """Log the batch as a whole, and grade its levels where the recipe asks for it."""
        for name, value in batch_metrics(batch.answers).items():
            log_metric(name, value)
        graded = [weight * self._reward(name, batch) for name, weight in self._weight_of.items()]
        total = torch.stack(graded).sum(dim=0)  # (R,), without the process
        for each in sorted(set(batch.mode)):
            log_metric(f"reward_{each}", float(total[[m == each for m in batch.mode]].mean()))
        if self.process_weight:
            self._grade_levels(batch, log_metric)

    def _grade_levels(self, batch: _Batch, log_metric: Log) -> None:
        assert self._scorer is not None
        trie = check_scorer(self._scorer, self._constraint)
        scores = process_scores(self._scorer, trie, batch.data["history"], batch.answers.path)
        self.process_scores = scores
        self.positions = answer_positions(
            batch.completion_ids,
            batch.answers.well_formed,
            self._prompter.item_block,
            self._prompter.names.layout,
        )
        for level, column in enumerate(scores.unbind(1)):
            if not bool(column.isnan().all()):
                log_metric(f"process_level_{level}", float(column.nanmean()))

    def _over_window(self, batch: _Batch, reward: Callable[[Tensor], Tensor]) -> Tensor:
        """Grade against the codes of the target, or of all purchases of the window."""
        if self._future_window == 1:
            return reward(batch.target)
        window = window_of(batch.data["future"], self._future_window, self._future_decay)
        return window.mean(lambda items: reward(self._codes[items]))

    def _by_codes(self, batch: _Batch, reward: Callable[..., Tensor]) -> Tensor:
        layout, answers = self._prompter.names.layout, batch.answers
        rule = partial(reward, ordered=layout.ordered, disambiguation=layout.disambiguation)
        return self._over_window(batch, lambda target: rule(answers.path, target, answers.valid))

    def _residual_sensitive(self, batch: _Batch) -> Tensor:
        return self._by_codes(batch, rewards.residual_sensitive_reward)

    def _step_hit(self, batch: _Batch) -> Tensor:
        return self._by_codes(batch, reg4rec_rewards.step_hit)

    def _global_path(self, batch: _Batch) -> Tensor:
        path, valid = batch.answers.path, batch.answers.valid
        return self._over_window(batch, lambda target: reg4rec_rewards.global_path(path, target, valid))

    def _category_hit(self, batch: _Batch) -> Tensor:
        assert self._steps is not None
        categories, steps = self._steps, self._steps.of_steps(batch.answers.path)
        alone = self._future_window == 1
        futures = [[item] for item in batch.data["item"]] if alone else batch.data["future"]
        window = window_of(futures, self._future_window, self._future_decay)
        return window.mean(
            lambda items: reg4rec_rewards.category_hit(steps, categories.of_items(items), batch.answers.valid)
        )

    def _step_consistency(self, batch: _Batch) -> Tensor:
        assert self._steps is not None
        steps = self._steps.of_steps(batch.answers.path)
        return reg4rec_rewards.step_consistency(steps, batch.answers.valid)

    def _rank_discounted_hit(self, batch: _Batch) -> Tensor:
        answers, size = batch.answers, self._num_generations
        if len(answers.valid) % size:
            raise InputError(
                f"A device graded {len(answers.valid)} completions, which are no whole groups of {size}, but "
                "rank_discounted_hit ranks whole groups; make prompts_per_batch a multiple of the devices."
            )
        order = -torch.arange(size).expand(len(answers.valid) // size, -1) if self._best_first else None
        ranks = rewards.answer_ranks(answers.path, answers.valid, size, order)
        return rewards.rank_discounted_hit(self._reward(EXACT_HIT, batch), ranks, answers.valid)

    def _exact_hit(self, batch: _Batch) -> Tensor:
        return rewards.exact_hits(batch.answers.path, batch.target, batch.answers.valid)


TERMS: dict[str, Callable[[RewardTerms, _Batch], Tensor]] = {
    "residual_sensitive": RewardTerms._residual_sensitive,
    "rank_discounted_hit": RewardTerms._rank_discounted_hit,
    "format": lambda _, batch: rewards.format_reward(batch.answers.well_formed),
    "validity": lambda _, batch: rewards.validity_reward(batch.answers.valid),
    "step_hit": RewardTerms._step_hit,
    "global_path": RewardTerms._global_path,
    "category_hit": RewardTerms._category_hit,
    "step_consistency": RewardTerms._step_consistency,
    EXACT_HIT: RewardTerms._exact_hit,
}


def check_recipe(recipe: Mapping[str, float]) -> None:
    """Refuse weights that make no reward; to be asked before anything is loaded.

    Raises:
        InputError: unknown names, weights that are negative or no numbers, or no positive weight.
    """
    known = (*TERMS, PROCESS)
    unknown = [name for name in recipe if name not in known]
    if unknown:
        raise InputError(f"Unknown rewards: {', '.join(unknown)}; known ones: {', '.join(known)}.")
    for name, weight in recipe.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise InputError(f"The weight of the reward {name} is {weight}; give a number of at least 0.")
    if not any(recipe.values()):
        raise InputError("No reward has a weight above 0; give `rewards` at least one.")


def batch_metrics(answers: Answers) -> dict[str, float]:
    """Count what tells a policy that is going astray; what is undefined without a valid answer is left out.

    Returns:
        `well_formed`, `valid` and `invalid`: shares of the completions; `entropy_first_code`: entropy in nats
        of the first codes of valid answers; `distinct_items`: share of valid answers that differ.
    """
    valid = float(answers.valid.float().mean())
    metrics = {"well_formed": float(answers.well_formed.float().mean()), "valid": valid, "invalid": 1 - valid}
    real = answers.path[answers.valid]
    if len(real):
        shares = torch.unique(real[:, 0], return_counts=True)[1].double() / len(real)
        metrics["entropy_first_code"] = float(-(shares * shares.log()).sum())
        metrics["distinct_items"] = len(torch.unique(real, dim=0)) / len(real)
    return metrics


def _step_categories(
    recipe: Mapping[str, float], constraint: Constraint, categories: np.ndarray | None
) -> StepCategories | None:
    asked = [name for name in OF_CATEGORIES if name in recipe]
    if not asked:
        return None
    if categories is None:
        raise InputError(f"The reward {asked[0]} needs categories of the items, but none were given.")
    return StepCategories(constraint, categories)
