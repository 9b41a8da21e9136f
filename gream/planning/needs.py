"""What one file of a recipe asks for, as the plan of its memory and time takes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gream.pipeline import Step
from gream.planning.memory import Training
from gream.planning.shapes import ModelShape


@dataclass(frozen=True)
class Answering:
    """A model that only answers."""

    shape: ModelShape
    weight_bytes: int
    compute_bytes: int
    cached: int  # tokens in the cache at a time
    at_once: int  # tokens of one pass


@dataclass(frozen=True)
class Work:
    """What takes time, over all devices.

    `passes` forward and backward passes of `sequences` x `length` places with `answers` scored tokens,
    `updates` of the weights, forward passes over `read` tokens in prompts of `read_length`, and `written`
    tokens, `side_by_side` of them at a time, each after about `read_length` others.
    """

    passes: float = 0.0
    sequences: int = 0
    length: int = 0
    answers: int = 0
    updates: float = 0.0
    read: float = 0.0
    read_length: int = 0
    written: float = 0.0
    side_by_side: int = 0


@dataclass(frozen=True)
class Needs:
    """What one file of a recipe asks for."""

    step: Step
    shape: ModelShape | None = None
    model: Any = None  # its transformers configuration
    training: Training | None = None
    answering: Answering | None = None
    rows: float = 0.0
    tokens: float = 0.0
    steps: int = 0
    rollouts: int = 0  # tokens in the cache while completions are written, on one device, by the torch engine
    vllm: float = 0.0  # share of the device that vLLM takes
    work: Work = field(default_factory=Work)
    notes: tuple[str, ...] = ()
    took: float | None = None  # seconds, where the stage has run already

    @property
    def title(self) -> str:
        """The file's name without its number."""
        return self.step.title
