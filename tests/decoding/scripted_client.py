"""What is asked of engines over scripted servers, and what must come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gream.decoding.async_backend import AsyncBackend
from gream.decoding.openai_engine import Served
from tests.decoding.scripted_vllm import SPELLED, TOKENS, VOCAB, ScriptedVllm, logp

SERVED = Served(Path("runs/demo/tiny"), VOCAB, SPELLED, TOKENS)
BLOCK = range(40, 50)
WRITING = {"stop": 45, "max_tokens": 8, "temperature": 1.0}

Connect = Callable[[Sequence[ScriptedVllm]], AsyncBackend]


class Clock:
    """What the engine takes for the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def first(backend: AsyncBackend, prompts: list[list[int]]) -> list[list[float]]:
    return backend.start(prompts).first(BLOCK).tolist()


def expected(prompts: list[list[int]]) -> list[list[float]]:
    return [[logp(prompt, token) for token in BLOCK] for prompt in prompts]


def prompts_from(number: int, count: int = 12) -> list[list[int]]:
    return [[number, place, 3] for place in range(count)]
