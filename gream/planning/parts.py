"""Which model, names, tokenizer and traces a stage will find, along the folders that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gream.artifacts import MANIFEST
from gream.errors import InputError
from gream.language.prompting import MARKERS, Prompter
from gream.language.vocab import VocabConfig
from gream.pipeline import Step
from gream.planning import volumes
from gream.planning.corpus import Corpus
from gream.planning.shapes import (
    ModelShape,
    configuration,
    published_entries,
    shape_of,
    stored_configuration,
)
from gream.planning.volumes import Traces, Volume
from gream.training.adapters import FULL

_REASONING = "reasoning_5"  # the task whose answers are whole chains
_FLOAT = 4


class Parts:
    """What the files of a recipe make for each other; everything is made once.

    Args:
        steps: of the recipe.
        corpus: what rows are made of.
    """

    def __init__(self, steps: Sequence[Step], corpus: Corpus) -> None:
        self._by_output = {step.config.output: step for step in steps}
        self._steps = steps
        self._corpus = corpus
        self._shapes: dict[str, ModelShape] = {}
        self._prompters: dict[tuple[str, int], Prompter] = {}
        self._traces: dict[str, Traces] = {}

    def vocab(self, model: str) -> VocabConfig:
        """Follow a model's folder back to the file that adds the item tokens.

        Raises:
            InputError: no file of the recipe writes the folder.
        """
        config: Any = self._writer(model).config
        return config if isinstance(config, VocabConfig) else self.vocab(config.model)

    def held_bytes(self, config: Any) -> int:
        """Return the bytes of a weight in fine-tuning: float32 where it learns, under adapters as stored."""
        return _FLOAT if config.trainable == FULL else self.stored_bytes(config.model)

    def stored_bytes(self, model: str) -> int:
        """Return the bytes of a weight in a model's folder: those of the base, as every stage saves it."""
        step = self._writer(model)
        config: Any = step.config
        return self.shape(config).bytes if step.stage == "vocab" else self.stored_bytes(config.model)

    def shape(self, vocab: VocabConfig) -> ModelShape:
        """Return the shape of the model with the item tokens."""
        if vocab.output not in self._shapes:
            self._shapes[vocab.output] = self._measured(vocab)
        return self._shapes[vocab.output]

    def configuration(self, vocab: VocabConfig) -> Any:
        """Return the transformers configuration of a model, which may not know of the item tokens yet."""
        if (vocab.output_path / MANIFEST).is_file():
            return stored_configuration(vocab.output_path)
        return configuration(vocab, 0 if vocab.base_model else self.shape(vocab).vocabulary)

    def prompter(self, vocab: VocabConfig, max_history: int) -> Prompter:
        """Return what writes the prompts of a model."""
        key = (vocab.output, max_history)
        if key not in self._prompters:
            found = self._by_output.get(vocab.sids)
            sids: Any = found.config if found is not None else None
            self._prompters[key] = self._corpus.prompter(sids, vocab, max_history)
        return self._prompters[key]

    def any_prompter(self) -> Prompter:
        """Return a prompter of the recipe's first model, to count tokens of texts with."""
        vocab: Any = next((step.config for step in self._steps if step.stage == "vocab"), None)
        return self.prompter(vocab or VocabConfig(run_dir=self._steps[0].config.run_dir), 20)

    def traces(self, folder: str) -> Traces:
        """Return some traces of a folder, and how many there will be; none of an empty name."""
        if folder not in self._traces:
            step = self._by_output.get(folder) if folder else None
            self._traces[folder] = self._corpus.traces(step.config if step else None)
        return self._traces[folder]

    def completion(self, prompter: Prompter, most: int, reasons: bool) -> Volume:
        """Return the length of a completion: a name, or a chain as long as the traces that teach chains.

        Args:
            prompter: of the model.
            most: tokens at which a completion is cut; what a chain has where the recipe has no traces.
            reasons: whether it begins with a chain.
        """
        name = prompter.names.layout.num_codebooks + 1
        if not reasons:
            return Volume(1.0, 0.0, float(name), name, name)
        folder = next((s.config.output for s in self._steps if s.stage == "synthesize"), "")
        traces = self.traces(folder)
        if not traces[0]:
            return Volume(1.0, 0.0, float(most), most, most)
        found = volumes.of_tasks(self._corpus, {_REASONING: 1.0}, prompter, traces)[_REASONING]
        return Volume(1.0, 0.0, min(found.answer, most), most, min(found.longest_answer, most))

    def _measured(self, vocab: VocabConfig) -> ModelShape:
        if (vocab.output_path / MANIFEST).is_file():
            return shape_of(stored_configuration(vocab.output_path))
        prompter = self.prompter(vocab, 20)
        entries = published_entries(vocab.base_model)
        if entries:  # the tokenizer that counts may be another one
            return shape_of(configuration(vocab, 0), entries + len(MARKERS) + len(prompter.item_block))
        entries = len(prompter.tokenizer)
        before = entries - len(prompter.item_block) - len(MARKERS)
        return shape_of(configuration(vocab, before), entries)

    def _writer(self, folder: str) -> Step:
        step = self._by_output.get(folder) or self._by_output.get(folder.partition("/")[0])  # as in prm/model
        if step is None or step.stage not in ("vocab", "sft", "srpo", "prm"):
            raise InputError(
                f"No file of the recipe writes the model {folder!r}; correct `model`, or add that file."
            )
        return step
