"""The learner's side of rollouts under the trie: log-probabilities over what the sampler could choose from.

A completion of `rollouts` ends with an answer that was not sampled from the whole vocabulary: every code was
drawn from the legal ones, and what stands behind the name (`</answer>`, the end of the turn) from nothing
else. TRL's learner normalises over the whole vocabulary, so that the ratio of a policy to itself would not be
1, and the gradient would push probability from words that could not be sampled. Here the answer's positions
get their own log-probabilities, with their gradients:

- a code: the log-softmax, over the legal codes after the codes before it, of the logits at the temperature;
- what stands behind the name: 0, without a gradient;
- all else (the chain, `</think>`, `<answer>`): TRL's value. So do completions without a whole legal name,
  those of a chain that was cut for example.

A hook takes the last hidden states at these L positions out of the forward pass that TRL makes anyway, and
the output embedding's rows of one codebook make the logits: no second pass, no logits of all tokens.

Works with whatever keeps whole weights on every device: one process, DDP, ZeRO-1 and 2, PEFT's adapters. Not
with ZeRO-3 and FSDP, whose weights are whole only inside the module that they belong to. Source: ours;
MiniOneRec (arXiv 2510.24431) samples under a trie and learns over the whole vocabulary.

Legend: B completions, R of them with an answer, S tokens of prompt and completion, T tokens of a completion,
L codebooks, K tokens of a level's block, H hidden size.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gream.decoding.plain_logits import gives_plain_logits
from gream.errors import InputError
from gream.language.prompting import THINK_START, Prompter
from gream.semantic_ids.paths import Constraint
from gream.training.completions import Mode


def mode_of(prompt: Sequence[int], prompter: Prompter) -> Mode:
    """Tell from a prompt's token ids which of the two it is: one that opens the think block, or not."""
    opening = _opening(prompter)
    return "reasoning" if list(prompt[-len(opening) :]) == opening else "direct"


def closing(prompter: Prompter, mode: Mode) -> list[int]:
    """Token ids behind the name of an answer."""
    return [prompter.answer_end, prompter.end_of_turn] if mode == "reasoning" else [prompter.end_of_turn]


@dataclass(frozen=True)
class SupportedAnswers:
    """Where the answers of a batch are, and what could be chosen there."""

    rows: Tensor  # (R,) completions with an answer, ascending
    places: Tensor  # (R, L) where its codes stand in the completion
    columns: tuple[Tensor, ...]  # for each level (R,) the code as a column of the level's block
    legal: tuple[Tensor, ...]  # for each level (R, K) what might have stood there
    forced: Tensor  # (B, T) true behind the names


def find_answers(
    input_ids: Tensor,
    attention_mask: Tensor,
    completion_size: int,
    prompter: Prompter,
    constraint: Constraint,
) -> SupportedAnswers:
    """Find the answers that were written under the trie: a whole legal name, and what stands behind it.

    Args:
        input_ids: (B, S) prompts, padded on the left, and completions, padded on the right.
        attention_mask: (B, S) 1 where a token is real.
        completion_size: T, the columns at the end that are completions.
        prompter: the prompter that wrote the prompts.
        constraint: the catalogue's names, on the device of the ids.
    """
    start = input_ids.shape[1] - completion_size
    ids, depth = input_ids[:, start:], constraint.depth  # (B, T)
    opening = torch.tensor(_opening(prompter), device=ids.device)
    reasoning = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    if start >= len(opening):
        reasoning = (input_ids[:, start - len(opening) : start] == opening).all(dim=1)
    lengths = attention_mask[:, start:].sum(dim=1)  # (B,)
    first = lengths - 1 - reasoning.long() - depth  # (B,) place of the first code

    def token(place: Tensor) -> Tensor:
        found = ids.gather(1, place.clamp(0, completion_size - 1)[:, None])[:, 0]
        return torch.where((place >= 0) & (place < completion_size), found, -1)

    in_tags = (token(first - 1) == prompter.answer_start) & (token(first + depth) == prompter.answer_end)
    found = torch.where(reasoning, in_tags, first == 0) & (token(lengths - 1) == prompter.end_of_turn)
    places = first[:, None] + torch.arange(depth, device=ids.device)  # (B, L)
    columns, legal = [], []
    nodes = torch.zeros(len(ids), 1, dtype=torch.int64, device=ids.device)
    for level, block in enumerate(prompter.search_blocks()):
        column = token(places[:, level]) - block.start
        found &= (column >= 0) & (column < len(block))
        column = column.clamp(0, len(block) - 1)
        legal.append(constraint.legal(nodes, level)[:, 0])  # (B, K)
        columns.append(column)
        found &= legal[-1].gather(1, column[:, None])[:, 0]
        nodes = constraint.follow(nodes, column[:, None], level)
    after = torch.arange(completion_size, device=ids.device)
    forced = found[:, None] & (after >= (first + depth)[:, None]) & (after < lengths[:, None])
    rows = found.nonzero().flatten()
    return SupportedAnswers(
        rows, places[rows], tuple(c[rows] for c in columns), tuple(mask[rows] for mask in legal), forced
    )


class AnswerSupport:
    """Puts the answers' own log-probabilities in the place of TRL's.

    In the override of `GRPOTrainer._get_per_token_logps_and_entropies`:

        with support.watch(unwrapped_model, input_ids, attention_mask, logits_to_keep) as watched:
            logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(...)
        logps, entropies = watched.put(logps, entropies)
    """

    def __init__(self, model: Any, prompter: Prompter, constraint: Constraint, *, temperature: float) -> None:
        """Prepare for the model that learns and for copies of it.

        Args:
            model: a causal language model of transformers, or PEFT's wrapper around one.
            prompter: the prompter that wrote the prompts.
            constraint: the names that the sampler was held to.
            temperature: of the sampler.

        Raises:
            InputError: the temperature is not positive, the output embedding has an adapter, the weights are
                split over devices, or the model does more to its logits than its output embedding does.
        """
        if not temperature > 0:
            raise InputError(f"temperature is {temperature}; give a number above 0.")
        self._prompter, self._constraint, self._temperature = prompter, constraint, temperature
        _check_model(model, prompter)

    @contextlib.contextmanager
    def watch(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, completion_size: int
    ) -> Iterator[WatchedAnswers]:
        """Watch the forward passes over a batch; they may come in parts, in the order of its rows.

        Args:
            model: the model that makes the passes, without the wrappers of accelerate.
            input_ids: (B, S) prompts, padded on the left, and completions, padded on the right.
            attention_mask: (B, S) 1 where a token is real.
            completion_size: T, TRL's `logits_to_keep`.
        """
        constraint = self._constraint.to(input_ids.device)
        found = find_answers(input_ids, attention_mask, completion_size, self._prompter, constraint)
        watched = WatchedAnswers(
            found, model.get_output_embeddings(), self._prompter.search_blocks(), self._temperature
        )
        hook = model.get_decoder().register_forward_hook(
            lambda _, __, output: watched.add(output.last_hidden_state, completion_size)
        )
        try:
            yield watched
        finally:
            hook.remove()


class WatchedAnswers:
    """The log-probabilities of a batch's answers, made while the model runs over the batch."""

    def __init__(
        self, found: SupportedAnswers, head: torch.nn.Linear, blocks: Sequence[range], temperature: float
    ) -> None:
        self._found, self._head, self._blocks, self._temperature = found, head, blocks, temperature
        self._seen = 0  # rows of the batch that the model has run over
        self._logps: list[Tensor] = []  # (R of a part, L) each
        self._entropies: list[Tensor] = []

    def add(self, states: Tensor, completion_size: int) -> None:
        """Take the last hidden states (b, S, H) of the next rows of the batch."""
        rows = self._found.rows
        mine = ((rows >= self._seen) & (rows < self._seen + len(states))).nonzero().flatten()
        # The state before a token tells its probability.
        before = self._found.places[mine] + (states.shape[1] - completion_size - 1)  # (R, L)
        states_before = states[(rows[mine] - self._seen)[:, None], before]  # (R, L, H)
        self._seen += len(states)
        logps, entropies = [], []
        for level, block in enumerate(self._blocks):
            logits = self._logits(states_before[:, level], block).float() / self._temperature  # (R, K)
            of_codes = logits.masked_fill(~self._found.legal[level][mine], -torch.inf).log_softmax(dim=-1)
            logps.append(of_codes.gather(1, self._found.columns[level][mine, None])[:, 0])
            # 0 times -inf is nan, in the gradient too
            finite = of_codes.masked_fill(~self._found.legal[level][mine], 0.0)
            entropies.append(-(of_codes.exp() * finite).sum(dim=-1))
        self._logps.append(torch.stack(logps, dim=1))
        self._entropies.append(torch.stack(entropies, dim=1))

    def put(self, logps: Tensor, entropies: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Put the answers' values into TRL's (B, T) log-probabilities, and (B, T) entropies if any."""
        if self._seen != len(logps):
            raise ValueError(f"The model ran over {self._seen} rows of a batch of {len(logps)}")
        where = (self._found.rows[:, None], self._found.places)

        def replaced(values: Tensor, parts: list[Tensor]) -> Tensor:
            own = torch.cat(parts).to(values.dtype)
            return values.index_put(where, own).masked_fill(self._found.forced, 0.0)

        own_entropies = None if entropies is None else replaced(entropies, self._entropies)
        return replaced(logps, self._logps), own_entropies

    def _logits(self, states: Tensor, block: range) -> Tensor:
        """Make the logits of a block: (R, H) states to (R, K)."""
        head, rows = self._head, slice(block.start, block.stop)
        return F.linear(states, head.weight[rows], None if head.bias is None else head.bias[rows])


def _opening(prompter: Prompter) -> list[int]:
    """Token ids that end a reasoning prompt; no text from data can become the first of them."""
    return prompter.encode(f"{THINK_START}\n")


def _check_model(model: Any, prompter: Prompter) -> None:
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise InputError(
            f"The output embedding is a {type(head).__name__}, perhaps an adapter around it, which the "
            "trainer's log-probabilities pass over; put adapters on the layers inside the model alone."
        )
    if head.weight.dim() != 2 or len(head.weight) < prompter.item_block.stop:
        raise InputError(
            f"The output embedding has {len(head.weight)} rows here, but item tokens reach up to "
            f"{prompter.item_block.stop}: its weights are split over devices (ZeRO-3). Answers under the "
            "trie need whole weights; use DDP or ZeRO-2, or rollouts 'free'."
        )
    if not gives_plain_logits(model):
        raise InputError(
            "The model scales or caps the logits of its output embedding, but answers under the trie need "
            "them as they are; use another model, or rollouts 'free'."
        )
