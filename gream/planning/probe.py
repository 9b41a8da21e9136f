"""How long a stage takes: its work in floating-point operations over the rate of a short measurement.

The measurement is a few real steps of a slice of the model: as many of its layers as are quick to make, at
their real width, on as many and as long rows as the stage has (fewer where those are many), forward, backward
and AdamW. A small model is its own slice. Tokens are written by the same slice with a cache, at most so many
side by side as the stage has. What is not measured: reading data, saving, the trainer around the step, talk
between devices.

In place of a measurement a rate and a bandwidth can be given, for a machine that is not here.

Legend: n tokens, l length of their rows, A scored answers; h, f, q, k as in `shapes`.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from gream.planning.memory import Training
from gream.planning.needs import Work
from gream.planning.shapes import ModelShape, shape_of

_SLICE = 40_000_000  # weights of the slice's layers, and of its table
_TOKENS = 2_048  # of a measured pass, at most
_SIDE_BY_SIDE = 64  # texts that are written at once in the measurement, at most
_SECONDS = 1.5  # that a measurement may take after its first step
_WRITTEN = 8  # tokens of each text that are timed


def forward_operations(shape: ModelShape, tokens: float, length: float, answers: float) -> float:
    """Return the operations of a forward pass: two for each weight that a token meets, and attention.

    https://arxiv.org/abs/2001.08361, section 2.1: 2 n x weights; the table counts for scored tokens alone.
    Attention: two products of q with l / 2 tokens before, on average: 2 q l a token and layer.
    """
    blocks = 2 * shape.in_blocks + 2 * shape.query * length * shape.layers
    return tokens * blocks + 2.0 * answers * shape.table


def training_operations(training: Training, work: Work) -> float:
    """Return the operations of all passes of a stage.

    The backward pass costs two forward passes: gradients of states and of weights; of frozen weights only the
    first. Adapters cost 6 for each weight and token. With checkpointing blocks are computed once more.
    """
    tokens = work.sequences * work.length
    forward = forward_operations(training.shape, tokens, work.length, work.answers)
    blocks = forward_operations(training.shape, tokens, work.length, 0)
    cost = (3 if training.full else 2) * forward + (blocks if training.checkpointing else 0)
    if not training.full:
        cost += 6 * tokens * training.shape.adapters(training.rank)
    return work.passes * cost


@dataclass(frozen=True)
class Speed:
    """What a device does: operations a second in passes, and seconds to write one token side by side."""

    rate: float
    step_seconds: Callable[[ModelShape, int, int], float]  # shape, texts at once, tokens before them
    told: str


def given_speed(tera: float, bandwidth: float, value_bytes: int) -> Speed:
    """Return the speed of a machine that is not here.

    Args:
        tera: 10^12 operations a second that are sustained.
        bandwidth: 10^9 bytes a second of the device's memory.
        value_bytes: of a weight and of a number in the cache.
    """

    def step_seconds(shape: ModelShape, texts: int, before: int) -> float:
        # Every step reads all weights and every text's cache; whichever takes longer bounds it.
        read = value_bytes * (shape.parameters + texts * before * shape.cache_values)
        return max(read / (bandwidth * 1e9), 2 * texts * shape.parameters / (tera * 1e12))

    return Speed(
        tera * 1e12,
        step_seconds,
        f"times are for {tera:g} x 10^12 operations and {bandwidth:g} GB a second, as given, not measured",
    )


class Probe:
    """Measures the present machine, once for each model and kind of training.

    Args:
        on_gpu: whether there is one to measure.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._device = "cuda" if on_gpu else "cpu"
        self._rates: dict[Any, float] = {}
        self._steps: dict[Any, float] = {}

    def training_rate(self, config: Any, training: Training, work: Work) -> float:
        """Return operations a second in training steps of a slice.

        Args:
            config: the model's transformers configuration, at its real width.
            training: what is trained.
            work: how many rows a pass has, and how long they are.
        """
        length = min(work.length, _TOKENS)
        rows = max(1, min(work.sequences, _TOKENS // length))
        key = (training.shape, training.full, training.weight_bytes, rows, length)
        if key not in self._rates:
            self._rates[key] = self._train(config, training, rows, length, work)
        return self._rates[key]

    def step_seconds(self, config: Any, shape: ModelShape, texts: int, before: int) -> float:
        """Return the seconds in which all texts grow by one token, from a slice by its share of weights."""
        texts_here = min(texts, _SIDE_BY_SIDE)
        key = (shape, texts_here, before)
        if key not in self._steps:
            self._steps[key] = self._write(config, shape, texts_here, before)
        # More texts than were measured cost in proportion: from there on arithmetic counts, not memory.
        return self._steps[key] * max(1.0, texts / texts_here)

    def _train(self, config: Any, training: Training, rows: int, length: int, work: Work) -> float:
        model = self._slice(config, training.shape, training.weight_bytes).train()
        # With adapters the slice is frozen, and passes gradients through to its first layer.
        answers = max(1, min(length - 1, work.answers // max(1, work.sequences)))
        if not training.full:
            model.requires_grad_(False).enable_input_require_grads()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained) if trained else None
        ids = torch.randint(model.config.vocab_size, (rows, length), device=self._device)

        def step() -> None:
            with self._autocast():
                out = model(input_ids=ids, labels=ids[:, -answers:], logits_to_keep=answers, use_cache=False)
            out.loss.backward()
            if optimizer is not None:
                optimizer.step()
                optimizer.zero_grad()

        seconds = self._timed(step)
        small = shape_of(model.config)
        forward = forward_operations(small, rows * length, length, rows * answers)
        return (3 if training.full else 2) * forward / seconds

    def _write(self, config: Any, shape: ModelShape, texts: int, before: int) -> float:
        model = self._slice(config, shape, 4 if self._device == "cpu" else 2).eval()
        small = shape_of(model.config)
        ids = torch.randint(model.config.vocab_size, (texts, min(before, 512)), device=self._device)
        with torch.inference_mode():
            cache = model(input_ids=ids, past_key_values=DynamicCache(), logits_to_keep=1).past_key_values

            def step() -> None:
                for _ in range(_WRITTEN):
                    model(input_ids=ids[:, :1], past_key_values=cache)
                cache.crop(-_WRITTEN)

            seconds = self._timed(step) / _WRITTEN
        return seconds * shape.parameters / small.parameters

    def _slice(self, config: Any, shape: ModelShape, weight_bytes: int) -> Any:
        """A model of the same width with few layers and a short table, and random weights."""
        config = copy.deepcopy(config)
        config.num_hidden_layers = max(1, min(shape.layers, _SLICE * shape.layers // shape.in_blocks))
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[: config.num_hidden_layers]
        config.vocab_size = max(64, min(shape.vocabulary, _SLICE // config.hidden_size))
        config.pad_token_id = config.bos_token_id = config.eos_token_id = None
        dtype = torch.bfloat16 if weight_bytes == 2 else torch.float32
        return AutoModelForCausalLM.from_config(config, dtype=dtype).to(self._device)

    def _timed(self, step: Callable[[], None]) -> float:
        """Seconds of one step, the quickest of several: what else the machine does only ever adds."""
        step()
        self._wait()
        best, started = float("inf"), time.perf_counter()
        while best == float("inf") or time.perf_counter() - started < _SECONDS:
            begun = time.perf_counter()
            step()
            self._wait()
            best = min(best, time.perf_counter() - begun)
        return best

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _autocast(self) -> Any:
        if self._device == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return contextlib.nullcontext()
