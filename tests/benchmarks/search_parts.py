"""Where the time of a search goes, measured from outside: what it calls is wrapped, and nothing else changes.

Legend: B users, W beams, L levels.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from gream.decoding.torch_backend import TorchBackend
from gream.semantic_ids.constraint import TrieConstraint

PARTS = ("prefill", "steps", "normaliser", "constraint", "choosing")


def parts_of(
    search: Callable[[Any, Any], object], backend: TorchBackend, constraint: TrieConstraint
) -> dict[str, float]:
    """Run `search(backend, constraint)` once; return the seconds of its parts, and of all as "total".

    The users must fit into one batch of the backend, and its device must be a CPU. The parts: `prefill`;
    `steps`, the model's forward passes up to its last hidden states; `normaliser`, from there to the
    log-probabilities of a block, the logits of the whole vocabulary included; `constraint`; and `choosing`,
    which is what remains: sorting, gathering and ranking.
    """
    seconds: Counter[str] = Counter()
    forwards: list[float] = []
    decoder: Any = backend.model.get_decoder()  # type: ignore[no-untyped-call]
    before = decoder.register_forward_pre_hook(lambda *_: forwards.append(-time.perf_counter()))
    after = decoder.register_forward_hook(lambda *_: forwards.append(forwards.pop() + time.perf_counter()))
    questions = dict.fromkeys(("legal", "finish", "follow", "item_of"), "constraint")
    engine, trie = _Engine(backend, seconds), _Timed(constraint, seconds, questions)
    _timed(lambda: search(engine, trie), seconds, "total")()
    before.remove()
    after.remove()
    parts = {"prefill": seconds["prefill"], "steps": sum(forwards[1:]), "constraint": seconds["constraint"]}
    parts["normaliser"] = seconds["scores"] - parts["steps"]
    parts["choosing"] = seconds["total"] - sum(parts.values())
    return parts | {"total": seconds["total"]}


class _Timed:
    """An object some of whose methods add their seconds to a part."""

    def __init__(self, wrapped: Any, seconds: Counter[str], parts: dict[str, str]) -> None:
        self._wrapped, self._seconds, self._parts = wrapped, seconds, parts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        return _timed(value, self._seconds, self._parts[name]) if name in self._parts else value


class _Engine:
    """A backend whose prefill and scores are timed."""

    def __init__(self, backend: TorchBackend, seconds: Counter[str]) -> None:
        self._backend, self._seconds = backend, seconds

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> _Timed:
        """Begin a search."""
        start = _timed(self._backend.start, self._seconds, "prefill")
        session = start(prompts, keep_states=keep_states)
        return _Timed(session, self._seconds, dict.fromkeys(("first", "step"), "scores"))


def _timed(function: Callable[..., Any], seconds: Counter[str], part: str) -> Callable[..., Any]:
    def run(*args: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **options)
        seconds[part] += time.perf_counter() - started
        return result

    return run
