"""A search asks its device nothing between the levels: on a GPU every answer would stop the queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from gream.decoding.beam import BeamResult, Guide, beam_search
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.torch_backend import TorchBackend
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout

FIRST, SIZE, PAD = 40, 4, 0
PROMPTS = [[10, 11, 12, 13, 14], [20, 21], [30, 31, 32]]
# What needs a number, or a shape, that only the device knows; inference mode shows some by their outer names.
ASKING = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "allclose",
    "nonzero",
    "masked_select",
    "unique",
)


class Questions(TorchDispatchMode):
    """Counts the operations that wait for an answer of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            place is not None and place.dtype == torch.bool for place in args[1]
        )
        if name in ASKING or by_mask:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def questions_of(run: Callable[[], list[BeamResult]]) -> list[str]:
    """What one search asks its device, sorted."""
    with Questions() as mode:
        found = run()
    assert all(len(result.items) > 0 for result in found)
    return sorted(mode.asked)


def searched(depth: int, *, ordered: bool, more: str) -> Callable[[], list[BeamResult]]:
    """A search for names of `depth` codes: 3 beams, with a scorer or a filter if asked for."""
    torch.manual_seed(0)
    rng = np.random.default_rng(depth)
    sizes = (SIZE,) * depth
    codes = np.stack(np.unravel_index(rng.permutation(SIZE**depth)[:30], sizes), axis=1).astype(np.int32)
    names = Names(SidLayout(sizes, ordered=ordered), codes)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=FIRST + SIZE * 5,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    ).eval()
    backend, constraint = TorchBackend(model, PAD), constraint_of(names)
    own = [range(FIRST + SIZE * level, FIRST + SIZE * (level + 1)) for level in range(depth)]
    blocks = own if ordered else [range(FIRST, FIRST + SIZE * depth)] * depth
    options: dict[str, Any] = {}
    if more == "scorer":
        scorer = PrefixPathScorer(constraint, ScorerShape()).eval().requires_grad_(False)
        options["guide"] = Guide(scorer, 6, lambda session: scorer.context([[1, 2]] * 3, session))
    if more == "filter":
        options["narrowing"] = constraint.narrow(torch.arange(30).expand(3, 30) % 2 == 0)
    return lambda: beam_search(backend, PROMPTS, constraint, blocks, num_beams=3, **options)


@pytest.mark.parametrize(
    ("ordered", "more"), [(True, ""), (True, "scorer"), (True, "filter"), (False, ""), (False, "filter")]
)
def test_more_levels_ask_the_device_nothing_more(ordered: bool, more: str) -> None:
    few, many = (questions_of(searched(depth, ordered=ordered, more=more)) for depth in (3, 5))
    assert many == few
    assert len(few) < 9  # the prompts, the ends of lists: once for a search, not once for a level
