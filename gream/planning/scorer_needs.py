"""What training a path scorer asks for where it reads the states of a language model.

The scorer itself is small beside any language model and not counted; one with an encoder of its own needs no
plan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gream.pipeline import Step
from gream.planning import volumes
from gream.planning.corpus import Corpus
from gream.planning.memory import Training
from gream.planning.needs import Answering, Needs, Work
from gream.planning.parts import Parts

_HALF, _FLOAT = 2, 4  # bytes of a weight


def scorer_needs(step: Step, parts: Parts, corpus: Corpus, *, on_gpu: bool) -> Needs:
    """Count the prompts that the policy reads or learns from, and what it holds of a batch.

    A policy that is trained along holds its weights in float32, and computes in half precision on a GPU; one
    that is only read is in half precision there, as every engine is.

    Args:
        step: of the stage `prm`.
        parts: of the recipe.
        corpus: what prompts are made of.
        on_gpu: whether the stage computes on a GPU.
    """
    config: Any = step.config
    if not config.model:
        return Needs(step)
    vocab = parts.vocab(config.model)
    shape, prompter = parts.shape(vocab), parts.prompter(vocab, config.max_history)
    once = volumes.of_cuts(corpus, prompter, config.targets_per_sequence)
    rows, batch = once.rows * config.epochs, config.batch_size
    found = Needs(
        step, shape, parts.configuration(vocab), rows=rows, tokens=once.tokens * config.epochs,
        steps=-(-round(rows) // batch),
    )  # fmt: skip
    answers = once.longest_answer + 1  # the last predicts what follows the name
    if not config.train_policy:
        width = _HALF if on_gpu else parts.stored_bytes(config.model)
        answering = Answering(shape, width, width, 0, batch * once.longest)
        work = Work(read=found.tokens, read_length=round(once.prompt))
        return replace(found, answering=answering, work=work)
    training = Training(
        shape=shape,
        weight_bytes=_FLOAT,
        compute_bytes=_HALF if on_gpu else _FLOAT,
        sequences=batch,
        length=once.longest,
        answers=batch * answers,
    )
    work = Work(
        passes=rows / batch,
        sequences=batch,
        length=round(once.prompt + once.answer),
        answers=batch * answers,
        updates=found.steps,
    )
    return replace(found, training=training, work=work)
