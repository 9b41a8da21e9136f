"""What a path scorer on the policy's hidden states learns from: direct prompts, cut at random purchases.

Source: PROMISE (arXiv 2601.04674): keys and values are what the generator's encoder gives, and
L_Total = L_NTP + L_InfoNCE reaches the encoder too. As there, a policy that is trained along gets the
next-token loss of the true names and the scorer's loss, both with weight 1. Trained after the policy, the
scorer alone learns (ours). The paper gives no optimiser and no schedule.

No target leaks: a prompt ends before the target's first token, the policy is causal, and only positions of
the prompt are read.

Legend: B targets, T positions of prompt and answer, M purchases, H width of the policy, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from gream.data.store import Case
from gream.decoding.neighbours import FOLDS, HeldOut, Neighbours
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext
from gream.language.prompting import Prompter
from gream.processes import ALONE, Team
from gream.training.history_targets import batches_of_like_length
from gream.training.path_loss import draw_negatives, path_loss
from gream.training.sums import has_rows


@dataclass(frozen=True)
class PolicyBatch:
    """Prompts that are followed by the names of their targets, padded at the left to one length."""

    tokens: Tensor  # (B, T)
    real: Tensor  # (B, T) bool, false at padding
    histories: list[list[int]]
    targets: Tensor  # (B,)
    users: Tensor  # (B,)

    def part(self, rows: Tensor) -> PolicyBatch:
        """Take some rows: (B,) bool."""
        histories = [self.histories[row] for row in rows.nonzero()[:, 0].tolist()]
        return PolicyBatch(
            self.tokens[rows], self.real[rows], histories, self.targets[rows], self.users[rows]
        )


class PolicyTargets:
    """Training purchases after which the policy's states are read; drawn anew in every epoch.

    Args:
        policy: a causal model; trained along, or left as it is.
        prompter: writes its prompts.
        sequences: the training purchases of each user, oldest first.
        batch_size: targets in a batch.
        per_sequence: targets that a sequence gives in an epoch; all it has where those are fewer.
        train_policy: whether the losses reach the policy.
        tables: of `held_out_copurchased` of these sequences, on the device of a scorer that counts
            co-purchases.
        team: of processes that share the targets of every batch.
    """

    def __init__(
        self,
        policy: Any,
        prompter: Prompter,
        sequences: list[np.ndarray],
        batch_size: int,
        *,
        per_sequence: int,
        train_policy: bool,
        tables: Neighbours | None = None,
        team: Team = ALONE,
    ) -> None:
        self._policy = policy
        self._prompter = prompter
        self._sequences = [(user, s) for user, s in enumerate(sequences) if len(s) > 1]
        self._tables = tables
        self._team = team
        self._batch_size = batch_size
        self._per_sequence = per_sequence
        self.trained: tuple[Any, ...] = (policy,) if train_policy else ()

    def __len__(self) -> int:
        """Return the number of targets of one epoch."""
        return sum(min(self._per_sequence, len(s) - 1) for _, s in self._sequences)

    @property
    def num_batches(self) -> int:
        """Batches of one epoch."""
        return -(-len(self) // self._batch_size)

    def batches(self, generator: torch.Generator) -> Iterator[PolicyBatch]:
        """Give one epoch: every sequence cut at random purchases."""
        cases = []
        for user, sequence in self._sequences:
            cuts = 1 + torch.randperm(len(sequence) - 1, generator=generator)[: self._per_sequence]
            cases += [Case(user, sequence[:cut], int(sequence[cut])) for cut in cuts.tolist()]
        shown = [min(len(case.history), self._prompter.max_history) for case in cases]
        for rows in batches_of_like_length(shown, self._batch_size, generator):
            yield self.collate([cases[row] for row in rows])

    def collate(self, cases: list[Case]) -> PolicyBatch:
        """Write prompts and names, and align them at their end, as the engine does."""
        answers = [self._prompter.name_ids(case.target) for case in cases]
        rows = [self._prompter.direct(c.history) + a for c, a in zip(cases, answers, strict=True)]
        width = max(map(len, rows))
        real = torch.arange(width) >= width - torch.tensor([len(row) for row in rows])[:, None]
        tokens = torch.zeros(len(rows), width, dtype=torch.int64)
        tokens[real] = torch.tensor([token for row in rows for token in row])
        histories = [case.history.tolist() for case in cases]
        targets, users = zip(*((case.target, case.user) for case in cases), strict=True)
        return PolicyBatch(tokens, real, histories, torch.tensor(targets), torch.tensor(users))

    def losses(
        self, scorer: PrefixPathScorer, num_negatives: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        """Give the summed loss of every batch of one epoch, each when the step before it was made."""
        for batch in self.batches(generator):
            yield self.loss(scorer, batch, num_negatives, generator)

    def loss(
        self, scorer: PrefixPathScorer, batch: PolicyBatch, num_negatives: int, generator: torch.Generator
    ) -> Tensor:
        """Add the scorer's losses of a batch's targets, and the policy's where it is trained along.

        Of several processes each adds those of its own targets; the draws are those of all of them.
        """
        device = scorer.item_nodes.device
        negatives = draw_negatives(scorer, batch.targets.to(device), num_negatives, generator)
        mine = has_rows(self._team, torch.arange(len(batch.targets)))
        if not mine.any():
            return torch.zeros((), device=device)
        batch = batch.part(mine)
        held_out = None if self._tables is None else HeldOut(self._tables, batch.users.to(device) % FOLDS)
        context, next_token = self.read(scorer, batch, held_out)
        drawn = [of_level[mine.to(device)] for of_level in negatives]
        loss = path_loss(scorer, context, batch.targets.to(device), drawn)
        return loss + next_token if self.trained else loss

    def contexts(self, scorer: PrefixPathScorer, cases: list[Case]) -> ScorerContext:
        """Read the policy after the prompts of cases, as serving does."""
        self._policy.eval()
        with torch.no_grad():
            return self.read(scorer, self.collate(cases))[0]

    def read(
        self, scorer: PrefixPathScorer, batch: PolicyBatch, held_out: HeldOut | None = None
    ) -> tuple[ScorerContext, Tensor]:
        """Run the policy once: the contexts of the prompts, and the next-token loss of the names, ()."""
        length = scorer.item_nodes.shape[1]  # tokens of a name
        device = self._policy.device
        tokens, real = batch.tokens.to(device), batch.real.to(device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and bool(self.trained)), _computing(device):
            output = self._policy(
                tokens,
                attention_mask=real.long(),
                position_ids=(real.cumsum(1) - 1).clamp(min=0),
                output_hidden_states=True,
                logits_to_keep=length + 1,
                use_cache=False,
            )
            logits = output.logits[:, :-1].float()  # (B, L, V), the last predicts what follows the name
            next_token = F.cross_entropy(logits.flatten(0, 1), tokens[:, -length:].flatten(), reduction="sum")
        states = output.hidden_states[-1][:, :-length]
        items, counts = scorer.newest(batch.histories)
        context = scorer.policy_contexts(states, real[:, :-length], items, counts, held_out)
        return context, next_token.to(context.state.device)


def _computing(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Compute in bfloat16 on a GPU, as the trainers of `sft` and `srpo` do with weights in float32."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else contextlib.nullcontext()
