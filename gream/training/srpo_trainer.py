"""TRL's GRPOTrainer with what SRPO adds to it: five overrides, each around a call of its parent.

- Prompts come from a pool when a batch is due, not from a fixed data set (`prompt_pool`).
- Completions may be held to the catalogue (`rollouts`), and are then learnt over the choices that there were
  (`answer_support`).
- Advantages are those of `advantages`, by completion or by token.
- Groups without a signal are replaced (`refill`).

With `grpo` advantages, free rollouts, one candidate and no refill it is GRPOTrainer, loss by loss. One test
says so, and another which names of TRL the overrides stand on.

Legend: P prompts of a device, G generations, B = P * G rows, F reward functions, L codebooks, T tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from gream.processes import is_main
from gream.training.adapters import plain_model
from gream.training.advantages import advantages_of, over_tokens, process_advantages
from gream.training.answer_support import AnswerSupport
from gream.training.completions import Mode
from gream.training.groups import Batch
from gream.training.prompt_pool import PromptPool, mode_of_batch
from gream.training.refill import Calls, GroupBuffer, metrics, refill
from gream.training.reward_terms import RewardTerms
from gream.training.rollouts import RolloutWriter

_STATE = "prompts.json"


class SRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # trl has no types
    """GRPOTrainer on prompts of a pool, with SRPO's advantages and refilled groups.

    Args:
        terms: the rewards; the last function is the exact hit.
        pool: where prompts are drawn.
        reasoning_share: share of the batches that ask for reasoning.
        advantage: one of `advantages.ADVANTAGES`.
        bonus_k: number of tries of the pass@k bonus.
        refill_rounds: rounds of new prompts for groups without a signal.
        options: what GRPOTrainer takes, without functions and data.
    """

    def __init__(
        self,
        *,
        terms: RewardTerms,
        pool: PromptPool,
        reasoning_share: float,
        advantage: str,
        bonus_k: int,
        refill_rounds: int,
        args: Any,
        **options: Any,
    ) -> None:
        functions: list[Any] = list(terms.functions)
        super().__init__(
            reward_funcs=functions,
            args=args,
            train_dataset=_places_for_prompts(args, reasoning_share),
            **options,
        )
        self._terms, self._pool = terms, pool
        self._size: int = args.num_generations
        self._advantage, self._bonus_k = advantage, bonus_k
        self._rounds = refill_rounds
        self._waiting: dict[Mode, GroupBuffer] = {"direct": GroupBuffer(), "reasoning": GroupBuffer()}
        self._batches = 0  # that were written, those of refilling too
        self._graded = torch.empty(0, len(terms.functions))
        self._writer: RolloutWriter | None = None
        self._support: AnswerSupport | None = None

    def hold_to_names(self, writer: RolloutWriter, support: AnswerSupport) -> None:
        """Let completions be written under the trie from now on, and learnt over the same choices."""
        self._writer, self._support = writer, support

    def save(self, folder: Path) -> None:
        """Write what a resumed training needs beside the trainer's own state."""
        if is_main():
            state = {"batches": self._batches, "pool": self._pool.state()}
            (folder / _STATE).write_text(json.dumps(state) + "\n")
        for mode, groups in self._waiting.items():
            groups.save(self._file_of(folder, mode))

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = json.loads((folder / _STATE).read_text())
        self._batches = state["batches"]
        self._pool.load(state["pool"])
        for mode, groups in self._waiting.items():
            groups.load(self._file_of(folder, mode))

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # The parent lets the tokenizer add its own special tokens, a second BOS for example.
        tokenizer: Any = self.processing_class
        return [tokenizer.encode(prompt, add_special_tokens=False) for prompt in prompts], None, {}

    def _generate_single_turn(
        self,
        prompt_ids: list[list[int]],
        images: Any,
        multimodal_fields: Any,
        num_generations: int,
        *rest: Any,
    ) -> tuple[list[list[int]], Any]:
        if self._writer is None:
            completions: tuple[list[list[int]], Any] = super()._generate_single_turn(
                prompt_ids, images, multimodal_fields, num_generations, *rest
            )
            return completions
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        prompts = prompt_ids[::num_generations]  # the parent has each of them G times
        seed = np.random.SeedSequence([self.args.seed, self._batches]).generate_state(1)
        first = self.accelerator.process_index * len(prompts)
        written = self._writer.write(prompts, seed=int(seed[0]), first_prompt=first)
        return [completion.ids for completion in written], None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        *rest: Any,
        **more: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        compute = super()._get_per_token_logps_and_entropies
        if self._support is None:
            found: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] = compute(
                model, input_ids, attention_mask, logits_to_keep, *rest, **more
            )
            return found
        plain = plain_model(self.accelerator.unwrap_model(model))
        with self._support.watch(plain, input_ids, attention_mask, logits_to_keep) as watched:
            logps, entropies, aux_loss = compute(
                model, input_ids, attention_mask, logits_to_keep, *rest, **more
            )
        return *watched.put(logps, entropies), aux_loss

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._graded = super()._calculate_rewards(*args, **kwargs)  # (rows of all devices, F)
        return self._graded

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        mode, size = inputs[0]["mode"], self._size
        num_prompts = len(inputs) // size
        calls = Calls(
            rank=self.accelerator.process_index,
            score=lambda: self._written(num_prompts, mode),
            logps_of=self._logps_of,
            gather=self._gather_numbers,
            share=lambda groups: gather_object([groups]),
        )
        batch, taken = refill(
            self._written(num_prompts, mode),
            self._waiting[mode],
            calls,
            num_generations=size,
            pad_id=self._tokenizer.pad_token_id,
            rounds=self._rounds,
        )
        for name, value in metrics(taken).items():
            self._metrics["train"][name].append(value)
        return batch

    def _written(self, num_prompts: int, mode: Mode) -> Batch:
        """Draw prompts, complete them, and give the completions their advantages."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        drawn = self._pool.draw(num_prompts, mode, rank, ranks)
        self._batches += 1
        rows = [dict(row) for row in drawn for _ in range(self._size)]
        output: Batch = super()._generate_and_score_completions(rows)
        graded = self._graded.view(-1, self._size, len(self._terms.functions))
        rewards, hits = (graded * self.reward_weights.to(graded)).sum(dim=-1), graded[..., -1]  # of all
        places = gather_object([row["place"] for row in drawn])
        self._pool.learn(places, hits.sum(dim=1).tolist(), self._size, mode)
        advantages = advantages_of(self._advantage, rewards, hits, self._bonus_k).flatten()
        # The parent has logged its own advantages; the deque holds exactly one batch of all devices.
        logged: Any = self._logs["advantages"]
        logged.clear()
        logged.extend(advantages.tolist())
        mine = advantages[rank * len(rows) : (rank + 1) * len(rows)]
        return output | {"advantages": self._by_token(mine, output).to(output["advantages"])}

    def _by_token(self, advantages: torch.Tensor, output: Batch) -> torch.Tensor:
        """Add the process advantages of the batch graded last, where there are any: (B,) to (B, T)."""
        terms = self._terms
        if terms.process_scores is None or terms.positions is None:
            return advantages
        scores = terms.process_scores.view(-1, self._size, terms.process_scores.shape[1])
        process = process_advantages(scores.to(advantages.device)).flatten(0, 1)  # (B, L)
        positions = terms.positions.to(advantages.device)
        length = output["completion_ids"].shape[1]
        return over_tokens(advantages, process, positions, length, weight=terms.process_weight)

    def _logps_of(self, batch: Batch) -> torch.Tensor:
        """Give the policy's log-probabilities of a batch's completions as they are now: (B, T)."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        policy: Any = self.model
        checkpointing: Any = self.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(policy, checkpointing):
            return self._get_per_token_logps_and_entropies(
                self.model,
                ids,
                mask,
                batch["completion_ids"].shape[1],
                batch_size=self.args.per_device_train_batch_size,
            )[0]

    def _gather_numbers(self, numbers: list[int]) -> list[list[int]]:
        mine = torch.tensor(numbers, device=self.accelerator.device)
        gathered: list[list[int]] = self.accelerator.gather(mine).view(-1, len(numbers)).tolist()
        return gathered

    def _file_of(self, folder: Path, mode: Mode) -> Path:
        return folder / f"waiting-{mode}-{self.accelerator.process_index}.safetensors"


def _places_for_prompts(args: Any, reasoning_share: float) -> Dataset:
    """Make as many rows as prompts will be asked; each says its mode alone, and is filled from the pool."""
    num_batches = -(-args.max_steps // args.num_iterations)
    each = args.generation_batch_size // args.num_generations
    modes = [mode_of_batch(batch, reasoning_share) for batch in range(num_batches)]
    return Dataset.from_list([{"prompt": "", "mode": mode} for mode in modes for _ in range(each)])
