"""What each file of a recipe asks for: the model, the shape of its passes, rows, tokens and steps.

Only stages with a language model need a plan of memory and time; of the others it is told what they took
where they have run already.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gream.artifacts import MANIFEST, read_manifest
from gream.language.prompting import MARKERS, Prompter
from gream.pipeline import Step
from gream.planning import volumes
from gream.planning.corpus import Corpus
from gream.planning.memory import Training
from gream.planning.needs import Answering, Needs, Work
from gream.planning.parts import Parts
from gream.planning.scorer_needs import scorer_needs
from gream.planning.shapes import named_configuration, shape_of
from gream.planning.volumes import Volume
from gream.semantic_ids.embed import TFIDF
from gream.training.adapters import FULL, LORA

COLOCATED, ALONE = 0.3, 0.8  # shares of a device that vLLM takes: beside TRL's trainer, and by itself


class Planner:
    """Reads a recipe's files one after the other.

    Args:
        steps: of the recipe.
        corpus: what rows are made of.
        on_gpu: whether the stages compute on a GPU, in half precision.
        devices: how many there are.
    """

    def __init__(self, steps: Sequence[Step], corpus: Corpus, *, on_gpu: bool, devices: int) -> None:
        self._steps = steps
        self._corpus = corpus
        self._on_gpu = on_gpu
        self._devices = devices
        self._parts = Parts(steps, corpus)

    def needs(self) -> list[Needs]:
        """Return what every file asks for."""
        makers = {
            "embed": self._embed,
            "vocab": self._vocab,
            "sft": self._sft,
            "srpo": self._srpo,
            "prm": self._prm,
            "evaluate": self._evaluate,
        }
        found = []
        for step in self._steps:
            needs = makers[step.stage](step) if step.stage in makers else Needs(step)
            took = None
            if (step.config.output_path / MANIFEST).is_file():
                took = read_manifest(step.config.output_path).seconds
            found.append(replace(needs, took=took))
        return found

    def _embed(self, step: Step) -> Needs:
        config: Any = step.config
        if config.encoder == TFIDF:
            return Needs(step)
        model = named_configuration(config.encoder, "encoder")
        shape = shape_of(model)
        texts = volumes.of_texts(self._corpus, self._parts.any_prompter(), config.max_tokens)
        width = shape.bytes if self._on_gpu else 4
        at_once = config.batch_size * texts.longest
        return Needs(
            step,
            shape,
            model,
            answering=Answering(shape, width, width, 0, at_once),
            rows=texts.rows,
            tokens=texts.tokens,
            work=Work(read=texts.tokens, read_length=round(texts.prompt)),
        )

    def _vocab(self, step: Step) -> Needs:
        config: Any = step.config
        shape = self._parts.shape(config)
        return Needs(step, shape, answering=Answering(shape, shape.bytes, shape.bytes, 0, 0))

    def _sft(self, step: Step) -> Needs:
        config: Any = step.config
        vocab = self._parts.vocab(config.model)
        shape, prompter = self._parts.shape(vocab), self._parts.prompter(vocab, config.max_history)
        tasks = volumes.of_tasks(self._corpus, config.tasks, prompter, self._parts.traces(config.traces))
        once = volumes.together(list(tasks.values()))
        micro = config.micro_batch_size or config.batch_size
        held = self._parts.held_bytes(config)
        training = Training(
            shape=shape,
            rank=config.lora_rank if config.trainable == LORA else 0,
            rows=_trained_rows(config.trainable, prompter),
            weight_bytes=held,
            compute_bytes=2 if self._on_gpu else held,
            sequences=1 if config.packing else micro,
            length=_packed(micro, once) if config.packing else once.longest,
            answers=micro * (round(once.answer) if config.packing else once.longest_answer),
            checkpointing=config.gradient_checkpointing,
            chunked_head=self._on_gpu,
            masked=not config.packing,
        )
        rows = once.rows * config.epochs
        steps = -(-round(rows) // (config.batch_size * self._devices))
        return Needs(
            step,
            shape,
            self._parts.configuration(vocab),
            training=training,
            rows=rows,
            tokens=once.tokens * config.epochs,
            steps=steps,
            work=Work(
                passes=rows / micro,
                sequences=micro,
                length=round(once.prompt + once.answer),
                answers=round(micro * once.answer),
                updates=steps,
            ),
            notes=_too_long(once, config.max_length),
        )

    def _srpo(self, step: Step) -> Needs:
        config: Any = step.config
        vocab = self._parts.vocab(config.model)
        shape, prompter = self._parts.shape(vocab), self._parts.prompter(vocab, config.max_history)
        reasons, on_vllm = config.reasoning_share > 0, config.engine == "vllm"
        targets = volumes.of_targets(self._corpus, prompter, config.min_history, reasoning=reasons)
        answer = self._parts.completion(prompter, config.max_completion_length, reasons)
        longest = config.max_completion_length if reasons else answer.longest_answer
        batches = -(-config.max_steps // config.num_iterations)
        completions = batches * config.prompts_per_batch * config.num_generations
        share, name = config.reasoning_share, prompter.names.layout.num_codebooks + 1
        mean = share * answer.answer + (1 - share) * name
        # All of a batch are padded to its longest, and some chain is nearly always cut.
        padded = share * longest + (1 - share) * name
        length = targets.longest + longest
        training = Training(
            shape=shape,
            rank=config.lora_rank if config.trainable == LORA else 0,
            weight_bytes=4,  # the stage trains on float32 weights
            compute_bytes=2 if self._on_gpu else 4,
            sequences=config.micro_batch_size,
            length=length,
            answers=config.micro_batch_size * (longest if self._on_gpu else length),
            checkpointing=config.gradient_checkpointing,
            chunked_head=True,
            reference=config.beta > 0,
        )
        at_once = config.prompts_per_batch * config.num_generations // self._devices
        asked = (config.beta > 0) + on_vllm  # forward passes of the reference, and of the policy
        return Needs(
            step,
            shape,
            self._parts.configuration(vocab),
            training=training,
            rows=completions,
            tokens=completions * (targets.prompt + mean),
            steps=config.max_steps,
            rollouts=0 if on_vllm else at_once * length,
            vllm=COLOCATED if on_vllm and not config.vllm_url else 0.0,
            work=Work(
                passes=completions * config.num_iterations / config.micro_batch_size,
                sequences=config.micro_batch_size,
                length=round(targets.prompt + padded),
                answers=round(config.micro_batch_size * padded),
                updates=config.max_steps,
                read=completions * (targets.prompt + asked * (targets.prompt + padded)),
                read_length=round(targets.prompt),
                written=completions * (mean if on_vllm else padded),
                side_by_side=at_once,
            ),
            notes=(_padding(longest, answer), *_refills(config)),
        )

    def _prm(self, step: Step) -> Needs:
        return scorer_needs(step, self._parts, self._corpus, on_gpu=self._on_gpu)

    def _evaluate(self, step: Step) -> Needs:
        config: Any = step.config
        vocab = self._parts.vocab(config.model)
        shape, prompter = self._parts.shape(vocab), self._parts.prompter(vocab, config.max_history)
        asked = volumes.of_prompts(self._corpus, prompter, config.split, reasoning=config.reasoning)
        users = min(asked.rows, config.max_users) if config.max_users else asked.rows
        levels = prompter.names.layout.num_codebooks
        direct = 1 + bool(config.scorer) + bool(config.before)
        searched = direct * (asked.prompt + config.num_beams * levels)
        chain, chains, longest = 0.0, 0, 0
        if config.reasoning:
            answer = self._parts.completion(prompter, config.max_chain_tokens, True)
            chain, chains, longest = answer.answer, config.num_chains, config.max_chain_tokens
            searched += asked.prompt + chains * config.num_beams * levels
        stored = 2 if self._on_gpu else self._parts.stored_bytes(config.model)  # as engines hold it there
        at_once = config.batch_size * asked.longest
        on_vllm = config.engine == "vllm"
        cached = 0 if on_vllm else at_once + config.batch_size * chains * longest
        return Needs(
            step,
            shape,
            self._parts.configuration(vocab),
            answering=Answering(shape, stored, stored, cached, at_once),
            rows=users,
            tokens=users * (searched + chains * chain),
            vllm=ALONE if on_vllm else 0.0,
            work=Work(
                read=users * searched,
                read_length=round(asked.prompt),
                written=users * chains * chain,
                side_by_side=config.batch_size * max(1, chains),
            ),
        )


def _trained_rows(trainable: str, prompter: Prompter) -> int:
    """Token rows that are trained beside adapters, or alone: of names, with adapters of markers too."""
    if trainable == FULL:
        return 0
    return len(prompter.item_block) + (len(MARKERS) if trainable == LORA else 0)


def _packed(rows: int, volume: Volume) -> int:
    """Places of a pass of packed rows: the mean of so many, and what their sum may stray above it."""
    mean = volume.prompt + volume.answer
    return round(rows * mean + (volume.longest - mean) * rows**0.5)


def _too_long(volume: Volume, limit: int) -> tuple[str, ...]:
    if volume.longest <= limit:
        return ()
    return (f"the longest row seen has {volume.longest:,} tokens and max_length is {limit:,}; raise it",)


def _padding(longest: int, answer: Volume) -> str:
    mean = f"a mean one has {answer.answer:.0f}"
    return f"time is told for batches padded to {longest:,} tokens a completion; {mean}"


def _refills(config: Any) -> tuple[str, ...]:
    if not config.refill_rounds:
        return ()
    return (
        f"refill_rounds {config.refill_rounds}: up to {1 + config.refill_rounds} times as many are written",
    )
