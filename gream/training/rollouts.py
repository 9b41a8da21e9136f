"""Writes the completions that `srpo` learns from, with answers that are always real items.

Three kinds:

- free (GREAM, arXiv 2510.20815): TRL's own sampling, over the whole vocabulary up to the end. Not here.
- constrained (ours): every code of the answer is sampled from the legal ones. For a reasoning prompt the
  chain before it is sampled freely, up to and including `<answer>`.
- beam: the G best items of a constrained search are the group, all different (MiniOneRec, arXiv 2510.24431).
  For a reasoning prompt think-then-beam (ours): C chains are sampled, and G / C items searched after each.

What stands behind a name (`</answer>`, the end of the turn) has no alternative; the model is not asked.

A chain that does not reach `<answer>` stays as it is, without an answer, and is worth nothing: in its budget,
which leaves room for an answer, or because the model ended the turn. Serving closes such a chain by force
(`gream.decoding.chains`), but tokens that the policy did not choose must not be learnt from, and a chain that
is too long must not pay. With beams it takes the places of all its items, so that every chain of a group
counts alike.

A sample depends on the seed, the number of its prompt and its number in the group alone, and the engine
writes with the weights that the model has then: a run that is resumed writes the same.

The learner's log-probabilities over the same choices: `answer_support`.

Legend: P prompts, G generations of a prompt, C chains of a prompt, W answers after a chain (or after a direct
prompt), L codebooks, K tokens of a level's block.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gream.decoding.backend import Backend
from gream.decoding.beam import BeamResult, beam_search
from gream.decoding.chains import chain_seed
from gream.decoding.writer import choose
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.paths import Constraint
from gream.training.answer_support import closing, mode_of
from gream.training.completions import Mode

FREE, CONSTRAINED, BEAM = "free", "constrained", "beam"
KINDS = (FREE, CONSTRAINED, BEAM)
AT_ONCE = 256  # prompts of one search: all their caches live together

_CODES = 1  # the random numbers of codes are others than a chain's


@dataclass(frozen=True)
class Written:
    """One completion."""

    ids: list[int]  # the end of the turn included, unless the budget ran out
    # Of each code as it was sampled, over the legal ones at the temperature; empty where none was sampled.
    code_logps: tuple[float, ...] = ()
    score: float | None = None  # log-probability of the name over the whole vocabulary, where it was searched


class RolloutWriter:
    """Writes groups of completions under the trie."""

    def __init__(
        self,
        backend: Backend,
        prompter: Prompter,
        constraint: Constraint,
        *,
        kind: str,
        num_generations: int,
        temperature: float,
        max_tokens: int,
    ) -> None:
        """Choose how completions are written.

        Args:
            backend: the engine around the model that learns.
            prompter: the prompter that wrote the prompts.
            constraint: the catalogue's names.
            kind: constrained or beam.
            num_generations: completions of one prompt, G; G // 2 chains share them in a beam group.
            temperature: of chains and of sampled codes; a search for beams knows none.
            max_tokens: most tokens of a completion.

        Raises:
            InputError: settings that cannot be, or fewer items than beams.
        """
        self._backend, self._prompter, self._constraint = backend, prompter, constraint
        self._kind, self._size, self._temperature = kind, num_generations, temperature
        self._chain_tokens = max_tokens - constraint.depth - len(closing(prompter, "reasoning"))
        self._chains = num_generations // 2
        self._blocks = prompter.search_blocks()
        self._check(max_tokens)

    def on(self, backend: Backend) -> RolloutWriter:
        """Return one that writes the same with another engine."""
        there = copy.copy(self)
        there._backend = backend
        return there

    def write(self, prompts: Sequence[list[int]], *, seed: int, first_prompt: int = 0) -> list[Written]:
        """Write G completions after each of P prompts, direct and reasoning ones: P * G, grouped by prompt.

        Args:
            prompts: token ids, each prompt once.
            seed: of this call; another one for every batch of a run.
            first_prompt: number of the first prompt among those of all devices, for the seeds.

        Raises:
            ValueError: numbers that are not finite.
        """
        groups: dict[int, list[Written]] = {}
        modes = [mode_of(prompt, self._prompter) for prompt in prompts]
        for mode in sorted(set(modes)):
            rows = [row for row, of_row in enumerate(modes) if of_row == mode]
            numbers = [first_prompt + row for row in rows]
            written = self._write([prompts[row] for row in rows], numbers, mode, seed)
            groups.update(zip(rows, written, strict=True))
        return [completion for row in range(len(prompts)) for completion in groups[row]]

    def _write(
        self, prompts: list[list[int]], numbers: list[int], mode: Mode, seed: int
    ) -> list[list[Written]]:
        """Write the groups of prompts of one mode."""
        chains = (
            self._write_chains(prompts, numbers, seed) if mode == "reasoning" else [[[]] for _ in prompts]
        )
        width = self._size // len(chains[0])
        # An empty chain is a direct prompt's.
        places = [(row, place) for row, of_prompt in enumerate(chains) for place in range(len(of_prompt))]
        start = self._prompter.answer_start
        answered = [(r, p) for r, p in places if not chains[r][p] or chains[r][p][-1] == start]
        contexts = [prompts[row] + chains[row][place] for row, place in answered]
        if self._kind == "beam":
            found = self._search(contexts, width)
        else:
            draws = np.stack([_draws(seed, n, self._size, self._constraint.depth) for n in numbers])
            of_chain = draws.reshape(len(prompts), -1, width, self._constraint.depth)  # (P, C, W, L)
            found = self._sample(contexts, [of_chain[row, place] for row, place in answered])
        answers = dict(zip(answered, found, strict=True))
        end = closing(self._prompter, mode)
        return [
            [
                Written([*chain, *answer.ids, *end], answer.code_logps, answer.score)
                if answer
                else Written(chain)
                for place, chain in enumerate(of_prompt)
                for answer in answers.get((row, place), [None] * width)
            ]
            for row, of_prompt in enumerate(chains)
        ]

    def _write_chains(self, prompts: list[list[int]], numbers: list[int], seed: int) -> list[list[list[int]]]:
        """Sample the chains of every prompt; each ends with `<answer>`, with the turn, or cut."""
        count = self._chains if self._kind == "beam" else self._size
        texts = self._backend.complete(
            prompts,
            seeds=[[chain_seed(seed, number, place) for place in range(count)] for number in numbers],
            stop=self._prompter.answer_start,
            max_tokens=self._chain_tokens,
            temperature=self._temperature,
        )
        end = self._prompter.end_of_turn
        return [[text[: text.index(end) + 1] if end in text else text for text in of] for of in texts]

    def _sample(self, prompts: list[list[int]], draws: list[np.ndarray]) -> list[list[Written]]:
        """Sample W names after each prompt, from (W, L) draws."""
        found: list[list[Written]] = []
        for start in range(0, len(prompts), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            numbers = torch.from_numpy(np.stack(draws[part]))
            tokens, logps = sample_names(
                self._backend, prompts[part], self._constraint, self._blocks, numbers,
                temperature=self._temperature,
            )  # fmt: skip
            for names, of_names in zip(tokens.tolist(), logps.tolist(), strict=True):
                found.append([Written(n, tuple(o)) for n, o in zip(names, of_names, strict=True)])
        return found

    def _search(self, prompts: list[list[int]], width: int) -> list[list[Written]]:
        """Search the W best names after each prompt."""
        found: list[list[Written]] = []
        for start in range(0, len(prompts), AT_ONCE):
            for result in self._beams(prompts[start : start + AT_ONCE], width):
                assert result.tokens is not None  # those of a search are known
                names, scores = result.tokens[:width].tolist(), result.logps[:width].tolist()
                found.append([Written(n, score=score) for n, score in zip(names, scores, strict=True)])
        return found

    def _beams(self, prompts: list[list[int]], width: int) -> list[BeamResult]:
        """Search with beams enough for W items.

        The beams of unordered names may be the orders of one item, and end as fewer items than they were:
        the few prompts where that happens are searched with twice as many.
        """
        found: dict[int, BeamResult] = {}
        num_beams, most = width, self._constraint.num_items << self._constraint.depth  # paths of one length
        while left := [row for row in range(len(prompts)) if row not in found]:
            if num_beams >= 2 * most:
                raise InputError(f"Fewer than {width} items can be recommended; lower num_generations.")
            asked = [prompts[row] for row in left]
            results = beam_search(self._backend, asked, self._constraint, self._blocks, num_beams=num_beams)
            found.update((row, r) for row, r in zip(left, results, strict=True) if len(r.items) >= width)
            num_beams *= 2
        return [found[row] for row in range(len(prompts))]

    def _check(self, max_tokens: int) -> None:
        if self._kind not in KINDS:
            raise InputError(f"rollouts is {self._kind!r}; give one of {', '.join(KINDS)}.")
        assert self._kind != "free", "TRL writes these"
        if self._size < 1:
            raise InputError(f"num_generations is {self._size}; give at least 1.")
        if not self._temperature > 0:
            raise InputError(f"temperature is {self._temperature}; give a number above 0.")
        if self._chain_tokens < 1:
            raise InputError(
                f"Completions of {max_tokens} tokens were asked for, but a chain and its answer need "
                f"{max_tokens - self._chain_tokens + 1} at least; raise max_completion_length."
            )
        if self._kind == "beam" and (self._chains < 1 or self._size % self._chains):
            raise InputError(
                f"{self._size} completions of a prompt cannot be two answers after each chain; "
                "make num_generations an even number."
            )
        if self._kind == "beam" and self._constraint.num_items < self._size:
            raise InputError(
                f"The catalogue has {self._constraint.num_items} items, but a prompt is to be completed with "
                f"{self._size} different ones; lower num_generations, or choose rollouts 'constrained'."
            )


@torch.inference_mode()
def sample_names(
    backend: Backend,
    prompts: list[list[int]],
    constraint: Constraint,
    blocks: Sequence[range],
    draws: Tensor,
    *,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Sample names code by code, each from the legal codes: softmax over them of the logits / temperature.

    Args:
        backend: the engine.
        prompts: P lists of token ids; the next token is the first of a name.
        constraint: the names of the catalogue; the bookkeeping runs on its device.
        blocks: for each level the vocabulary ids of its columns.
        draws: (P, W, L) random numbers of [0, 1); W names of a prompt are W beams of its one row.
        temperature: divides the logits.

    Returns:
        (P, W, L) token ids, in the order in which they were chosen, and (P, W, L) their log-probabilities.

    Raises:
        ValueError: the engine's numbers are not finite.
    """
    draws = draws.to(constraint.device)
    session = backend.start(prompts)
    nodes = torch.zeros(draws.shape[:2], dtype=torch.int64, device=constraint.device)  # (P, W)
    themselves = torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
    broken = torch.zeros((), dtype=torch.bool, device=constraint.device)
    tokens: list[Tensor] = []
    chosen: list[Tensor] = []
    for level, block in enumerate(blocks):
        if level == 0:
            logps = session.first(block)[:, None]
        else:  # the first step continues the prompt, which is one beam; every other one the names themselves
            logps = session.step(themselves * (level > 1), tokens[-1], block)
        legal = constraint.legal(nodes, level)  # (P, W, K)
        logps = torch.where(legal, logps.to(constraint.device) / temperature, -torch.inf)
        broken |= (legal & ~torch.isfinite(logps)).any()
        logps = logps.log_softmax(dim=-1)
        # Where the numbers are broken nothing is chosen: a place beyond the block would stop the device.
        columns = choose(logps, 1.0, draws[:, :, level]).clamp(max=len(block) - 1)  # (P, W)
        chosen.append(logps.gather(2, columns[:, :, None])[:, :, 0])
        nodes = constraint.follow(nodes, columns, level)
        tokens.append(columns + block.start)
    if bool(broken):
        raise ValueError(
            "The engine gave a log-probability that is not finite; the model's weights are broken"
        )
    return torch.stack(tokens, dim=2), torch.stack(chosen, dim=2)


def _draws(seed: int, prompt: int, size: int, depth: int) -> np.ndarray:
    """Draw a number for every code of a group: (G, L) float32 of [0, 1), as fine as `choose` can take."""
    rngs = [np.random.default_rng([seed, prompt, place, _CODES]) for place in range(size)]
    return np.stack([rng.random(depth, dtype=np.float32) for rng in rngs])
