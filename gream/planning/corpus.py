"""What the rows of a recipe are made of, before any stage has run.

It comes from the run's finished folders; where there are none, from the files of the recipe; and where those
cannot be read, from the simulated shop. Where names or tokenizer are not there yet, others of the same shape
take their place. `Corpus.told` says what it was each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gream.artifacts import MANIFEST
from gream.data.prepare import DataConfig, look
from gream.data.store import Catalogue, Interactions, load_catalogue, load_interactions
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.reasoning import Trace, load_traces
from gream.language.vocab import VocabConfig, add_tokens, load_tokenizer, train_tokenizer
from gream.semantic_ids.build import SidsConfig
from gream.semantic_ids.item_text import item_texts
from gream.semantic_ids.layout import Names, SidLayout, load_names

SAMPLE = 300  # users, items and traces whose rows are made
T = TypeVar("T")

_EXPLAINED = 100  # users whose traces are written
_STAND_IN_TOKENS = 8_000  # of the tokenizer that stands in for a model's own
_TOLD_APART = 16  # codes of the level that tells items of one name apart, where names are not made yet


@dataclass(frozen=True)
class Counts:
    """How large the shop is: that of the data, unless it was given."""

    users: int
    items: int
    purchases: int


class Corpus:
    """What the rows of a recipe are made of.

    Args:
        data: settings of the recipe's `data` stage.
        users: as many users as this in place of those of the data; 0 for theirs.
        items: the same of items.
        max_description: characters of a description in an item's text.
    """

    def __init__(
        self, data: DataConfig, *, users: int = 0, items: int = 0, max_description: int = 500
    ) -> None:
        self.told: dict[str, str] = {}  # what, to where it comes from
        self.catalogue, self.interactions = self._shop(data)
        bought = sum(map(len, self.interactions.sequences))
        self._users, self._items = len(self.interactions.sequences), len(self.catalogue)
        share = users / self._users if users else 1.0
        self.counts = Counts(users or self._users, items or self._items, round(bought * share))
        if users or items:
            self.told["size"] = (
                f"{self.counts.users:,} users and {self.counts.items:,} items were given; words and "
                "histories are those of the data"
            )
        self._max_description = max_description

    @cached_property
    def texts(self) -> list[str]:
        """One text for each item."""
        return item_texts(self.catalogue, max_description=self._max_description)

    def prompter(self, sids: SidsConfig | None, vocab: VocabConfig, max_history: int) -> Prompter:
        """Write prompts as the stages will: with the run's names and tokenizer, or with others like them."""
        names = self.names(sids)
        return Prompter(self.tokenizer(vocab, names), names, max_history=max_history)

    def names(self, sids: SidsConfig | None) -> Names:
        """Return the run's names, or others of the same shape."""
        if sids is not None and (sids.output_path / MANIFEST).is_file():
            self.told["names"] = f"{sids.output_path}"
            return load_names(sids.output_path)
        sizes = [256] * 3 if sids is None else _sizes(sids)
        layout = SidLayout((*sizes, _TOLD_APART), disambiguation=True)
        self.told["names"] = (
            f"assumed: {len(sizes)} codes and one of {_TOLD_APART} that tells items of one name apart"
        )
        paths = math.prod(layout.codebook_sizes)
        if paths < len(self.catalogue):
            raise InputError(
                f"{paths:,} names are fewer than {len(self.catalogue):,} items; "
                "raise codebook_size in the sids file."
            )
        chosen = np.linspace(0, paths - 1, len(self.catalogue)).astype(np.int64)  # all different
        codes = np.stack(np.unravel_index(chosen, layout.codebook_sizes), axis=1)
        return Names(layout, codes.astype(np.int32))

    def tokenizer(self, vocab: VocabConfig, names: Names) -> Any:
        """Return the run's tokenizer, the base model's where it is here, or one trained on the texts."""
        if (vocab.output_path / MANIFEST).is_file() and (self.told["names"] == f"{vocab.locate('sids')}"):
            self.told["tokenizer"] = f"{vocab.output_path}"
            return load_tokenizer(vocab.output_path, names)
        found = self._base_tokenizer(vocab)
        add_tokens(found, names.layout)
        return found

    def _base_tokenizer(self, vocab: VocabConfig) -> Any:
        if not vocab.base_model:
            self.told["tokenizer"] = "trained on the items' texts, as `gream vocab` will"
            return train_tokenizer(self.texts, vocab.text_tokens)
        try:
            found = AutoTokenizer.from_pretrained(vocab.base_model, local_files_only=True)
        except (OSError, ValueError):
            found = None
        if isinstance(found, PreTrainedTokenizerFast) and found.chat_template:
            self.told["tokenizer"] = f"{vocab.base_model}"
            return found
        self.told["tokenizer"] = (
            f"assumed: that of {vocab.base_model} is not here; one of {_STAND_IN_TOKENS:,} tokens, "
            "trained on the items' texts, counts in its place"
        )
        return train_tokenizer(self.texts, _STAND_IN_TOKENS)

    def traces(self, settings: Any) -> tuple[list[Trace], float]:
        """Return some traces, and how many all users give.

        Args:
            settings: the `synthesize` stage's; None where the recipe has none.
        """
        if settings is None:
            return [], 0.0
        share = self.counts.users / self._users
        if (settings.output_path / MANIFEST).is_file():
            self.told["traces"] = f"{settings.output_path}"
            found = load_traces(settings.output_path)
            return drawn_from(found), len(found) * share
        from data_synthesis import traces as stage  # the teacher; nothing of gream needs it otherwise
        from data_synthesis.teacher import RuleTeacher

        some = self.some_users(_EXPLAINED)
        teacher = RuleTeacher(
            self.catalogue, self.interactions.training_sequences(), denoise=settings.denoise
        )
        kept, _ = stage.synthesize(teacher, some, settings)
        ratio = self._users / len(some.sequences) * share
        self.told["traces"] = f"written by rules for {len(some.sequences)} users and counted up"
        if settings.teacher == stage.RULES:
            return kept, len(kept) * ratio
        self.told["traces"] += f"; assumed: {settings.teacher} explains every purchase that it is asked about"
        return kept, sum(1 for _ in stage.purchases(some, settings)) * ratio

    def some_users(self, number: int = SAMPLE) -> Interactions:
        """Return a few users with all their purchases."""
        everyone = self.interactions
        drawn = drawn_from(range(len(everyone.sequences)), number)
        return Interactions(
            user_ids=[everyone.user_ids[user] for user in drawn],
            sequences=[everyone.sequences[user] for user in drawn],
            splits=[everyone.splits[user] for user in drawn],
        )

    def some_items(self) -> Catalogue:
        """Return a few items; the first n names stand for theirs."""
        whole = self.catalogue
        drawn = drawn_from(range(len(whole)))
        return Catalogue(
            item_ids=[whole.item_ids[item] for item in drawn],
            titles=[whole.titles[item] for item in drawn],
            descriptions=[whole.descriptions[item] for item in drawn],
            brands=[whole.brands[item] for item in drawn],
            categories=[whole.categories[item] for item in drawn],
            prices=whole.prices[drawn],
        )

    def _shop(self, data: DataConfig) -> tuple[Catalogue, Interactions]:
        if (data.output_path / MANIFEST).is_file():
            self.told["data"] = f"{data.output_path}"
            return load_catalogue(data.output_path), load_interactions(data.output_path)
        try:
            found = look(data)
            self.told["data"] = data.path or "the simulated shop of the recipe"
        except InputError as error:
            self.told["data"] = f"assumed: the simulated shop, because {error}"
            found = look(DataConfig(source="simulator"))
        return found.catalogue, found.interactions


def drawn_from(things: Sequence[T], number: int = SAMPLE) -> list[T]:
    """Draw so many by seed, in their order; all where there are no more."""
    if len(things) <= number:
        return list(things)
    places = np.sort(np.random.default_rng(0).choice(len(things), size=number, replace=False))
    return [things[place] for place in places]


def _sizes(sids: SidsConfig) -> list[int]:
    size = sids.codebook_size
    return list(size) if isinstance(size, list) else [size] * sids.num_codebooks
