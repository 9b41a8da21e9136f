"""The policy's chance of a target: equal to writing out every answer that the catalogue allows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.training import solve_chance
from gream.training.solve_chance import NameChance


def chance_of(model: Any, prompter: Prompter) -> NameChance:
    backend = TorchBackend(model, prompter.tokenizer.pad_token_id, batch_size=2)
    return NameChance(backend, prompter, constraint_of(prompter.names))


def row(prompter: Prompter, history: list[int], item: int) -> dict[str, Any]:
    return {"history": history, "item": item, "target": prompter.names.codes[item].tolist()}


def spellings_of(prompter: Prompter) -> dict[tuple[int, ...], int]:
    """Every answer that the catalogue allows, and its item."""
    layout = prompter.names.layout
    found = {}
    for item in range(len(prompter.names)):
        ids = prompter.name_ids(item)
        free = len(ids) - layout.disambiguation
        orders = [tuple(range(free))] if layout.ordered else list(itertools.permutations(range(free)))
        found.update({tuple([ids[place] for place in order] + ids[free:]): item for order in orders})
    return found


def next_chances(
    model: Any, prompter: Prompter, history: list[int], written: tuple[int, ...]
) -> dict[int, float]:
    """Chance of every token that may follow, by a forward pass over all that was written."""
    spellings = spellings_of(prompter)
    legal = sorted({s[len(written)] for s in spellings if s[: len(written)] == written})
    with torch.no_grad():
        logits = model(torch.tensor([[*prompter.direct(history), *written]])).logits[0, -1, legal]
    return dict(zip(legal, logits.softmax(-1).tolist(), strict=True))


def written_out(model: Any, prompter: Prompter, history: list[int]) -> dict[tuple[int, ...], float]:
    """Chance of every spelling of every item under constrained sampling: slow."""
    return {
        spelling: math.prod(
            next_chances(model, prompter, history, spelling[:level])[token]
            for level, token in enumerate(spelling)
        )
        for spelling in spellings_of(prompter)
    }


def test_chances_are_those_of_constrained_sampling(model_and_tokenizer: Any, prompter: Prompter) -> None:
    model = model_and_tokenizer[0]
    histories = [[1], [4, 2, 9], [7, 3], [0, 5, 6, 8, 11]]
    rows = [row(prompter, history, item) for history, item in zip(histories, [3, 0, 17, 23], strict=True)]
    found = chance_of(model, prompter)(rows)
    assert found.dtype == np.float32
    for got, each in zip(found, rows, strict=True):
        every = written_out(model, prompter, each["history"])
        assert sum(every.values()) == pytest.approx(1.0, abs=1e-5)  # float32 sums
        assert got == pytest.approx(every[tuple(prompter.name_ids(each["item"]))], rel=1e-4)


def test_all_items_of_one_history_share_one(
    model_and_tokenizer: Any, prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More rows than one session takes; a training model is scored without dropout, and stays training."""
    monkeypatch.setattr(solve_chance, "AT_ONCE", 5)
    model = model_and_tokenizer[0].train()
    found = chance_of(model, prompter)([row(prompter, [2, 4], item) for item in range(24)])
    assert found.shape == (24,)
    assert found.sum() == pytest.approx(1.0, abs=1e-5)
    assert model.training


@pytest.mark.parametrize("disambiguation", [False, True])
def test_a_name_without_an_order_may_be_answered_in_any(
    model_and_tokenizer: Any, prompter: Prompter, names: Names, disambiguation: bool
) -> None:
    """At every step the codes of the target that may come next are added, and the likeliest is followed."""
    layout = SidLayout((3, 4, 5), ordered=False, disambiguation=disambiguation)
    reader = Prompter(prompter.tokenizer, Names(layout, names.codes), max_history=5)
    model = model_and_tokenizer[0]
    items = [0, 9, 23]
    found = chance_of(model, reader)([row(reader, [1, 2], item) for item in items])
    followed = []
    for item, got in zip(items, found, strict=True):
        written, expected = (), 1.0
        while len(written) < 3:
            after = next_chances(model, reader, [1, 2], written)
            right = {token: after[token] for token in reader.name_ids(item) if token in after}
            expected *= sum(right.values())
            written += (max(right, key=right.__getitem__),)
        assert got == pytest.approx(expected, rel=1e-4)
        followed.append(list(written))
    assert followed != [sorted(written) for written in followed]  # not all in the order of the codebooks
