"""Names under the trie the slow way: all legal sequences in a set, the whole vocabulary at every token."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names, SidLayout


def unordered(names: Names, *, disambiguation: bool = False) -> Names:
    """The same codes, in any order."""
    layout = SidLayout(names.layout.codebook_sizes, ordered=False, disambiguation=disambiguation)
    return Names(layout, names.codes)


def sequences(prompter: Prompter) -> set[tuple[int, ...]]:
    """Every sequence of tokens that is a name."""
    layout = prompter.names.layout
    found = set()
    for item in range(len(prompter.names)):
        ids = prompter.name_ids(item)
        free = ids[:-1] if layout.disambiguation else ids
        orders = [tuple(free)] if layout.ordered else itertools.permutations(free)
        found |= {(*order, *ids[len(free) :]) for order in orders}
    return found


def legal_next(prompter: Prompter, path: Sequence[int]) -> list[int]:
    """Tokens that may follow a path."""
    size = len(path)
    return sorted({whole[size] for whole in sequences(prompter) if whole[:size] == tuple(path)})


def name_logps(
    model: Any, prompter: Prompter, context: Sequence[int], name: Sequence[int], temperature: float
) -> torch.Tensor:
    """Log-probability of each code over the legal ones, with its gradient: (L,)."""
    logits = model(torch.tensor([[*context, *name]])).logits[0]
    found = []
    for place, token in enumerate(name):
        legal = legal_next(prompter, name[:place])
        scores = (logits[len(context) + place - 1, legal] / temperature).log_softmax(0)
        found.append(scores[legal.index(token)])
    return torch.stack(found)


def whole_logps(model: Any, context: Sequence[int], ids: Sequence[int], temperature: float) -> torch.Tensor:
    """Log-probability of each token over the whole vocabulary, with its gradient: (T,)."""
    logits = model(torch.tensor([[*context, *ids]])).logits[0, len(context) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


class ScriptedChains(TorchBackend):
    """The engine with chains that a script writes, in turn; what it was asked for is kept in `asked`."""

    chains: list[list[int]]

    def complete(
        self,
        prompts: list[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        stop: int,
        max_tokens: int,
        temperature: float,
    ) -> list[list[list[int]]]:
        self.asked = {"seeds": [list(s) for s in seeds], "stop": stop, "max_tokens": max_tokens}
        turn = itertools.cycle(self.chains)
        return [[next(turn) for _ in of_user] for of_user in seeds]


def sharpen(model: Any, seed: int = 0, scale: float = 0.3) -> None:
    """Draw the output embedding anew and larger: a fresh model gives all tokens the same probability."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight.copy_(scale * torch.randn(weight.shape, generator=generator))
