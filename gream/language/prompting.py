"""From histories and item text to token ids, the same way in training, evaluation and serving.

A prompt is a Jinja template of `prompts/` put into the tokenizer's chat template. A template's file holds one
or more parts, with a line `---` between them: the phrasings of a question, or the steps of a chain. Training
draws phrasings by seed; everything else asks in the first one. Names of items are
trusted text and become item tokens. Everything that comes from data (titles, brands, categories) is
marked before rendering and tokenised without the added vocabulary, so that a title such as `<a_17>` or
`<|im_start|>` stays plain text.

GREAM (reference implementation, prompt templates) writes the history as names too; it registers the
names as special tokens, where any title can forge one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from tokenizers import Tokenizer

from gream.errors import InputError
from gream.semantic_ids.layout import Names

ANSWER_START, ANSWER_END = "<answer>", "</answer>"
THINK_START, THINK_END = "<think>", "</think>"
MARKERS = (THINK_START, THINK_END, ANSWER_START, ANSWER_END)

# Private-use characters that fence text from data; they are removed from the data itself first.
_OPEN, _CLOSE = "\ue000", "\ue001"


# Dense item ids, oldest first.
History = Sequence[int] | np.ndarray


class Name(str):
    """An item's name: the only value in a template that may become item tokens."""


class Prompter:
    """Writes every prompt and every answer of a model as token ids.

    Args:
        tokenizer: a tokenizer extended by `gream vocab`.
        names: the names that it was extended with.
        max_history: how many of the newest purchases a prompt shows.

    Raises:
        InputError: the tokenizer lacks the item tokens of these names, or a prompt is to show nothing.
    """

    def __init__(self, tokenizer: Any, names: Names, *, max_history: int = 20) -> None:
        if max_history < 1:
            raise InputError(f"max_history is {max_history}; give at least 1.")
        self.tokenizer = tokenizer
        self.names = names
        self.max_history = max_history
        self.item_block = _item_block(tokenizer, names)
        self.think_end, self.answer_start, self.answer_end = (
            tokenizer.convert_tokens_to_ids(marker) for marker in MARKERS[1:]
        )
        self.end_of_turn: int = tokenizer.eos_token_id
        self._name_ids = names.codes.astype(np.int64) + (
            np.asarray(names.layout.offsets) + self.item_block.start
        )  # (N, L)
        self._spelled: dict[int, Name] = {}
        self._whole, self._plain = _copies(tokenizer)
        self._added = frozenset(tokenizer.get_added_vocab().values())
        self._before, self._after = _around(tokenizer)

    def direct_text(self, history: History, phrasing: int = 0) -> str:
        """Render the direct prompt; the next tokens are the name of the recommended item."""
        return self._turn("direct", phrasing, history=self.names_of(history))

    def reasoning_text(self, history: History, phrasing: int = 0) -> str:
        """Render the reasoning prompt, which ends inside the opened think block."""
        return self._turn("reasoning", phrasing, history=self.names_of(history)) + f"{THINK_START}\n"

    def direct(self, history: History, phrasing: int = 0) -> list[int]:
        """Token ids of the direct prompt."""
        return self.encode(self.direct_text(history, phrasing))

    def reasoning(self, history: History, phrasing: int = 0) -> list[int]:
        """Token ids of the reasoning prompt."""
        return self.encode(self.reasoning_text(history, phrasing))

    def question(self, template: str, phrasing: int = 0, **variables: Any) -> list[int]:
        """Token ids of any template of `prompts/` as the user's turn, up to the assistant's first token."""
        return self.encode(self._turn(template, phrasing, **variables))

    def data(self, text: str) -> list[int]:
        """Token ids of text from data; no id of the added vocabulary can come out.

        Raises:
            ValueError: the tokenizer reaches an added token from plain text all the same.
        """
        ids: list[int] = self._plain.encode(text, add_special_tokens=False).ids
        if self._added.intersection(ids):
            raise ValueError(f"The tokenizer turns plain text into added tokens: {text[:80]!r}")
        return ids

    def name(self, item: int) -> Name:
        """Spell an item's name for use in a template."""
        if item not in self._spelled:
            self._spelled[item] = Name(self.names.spell(item))
        return self._spelled[item]

    def name_ids(self, item: int) -> list[int]:
        """Token ids of an item's name, L of them."""
        ids: list[int] = self._name_ids[item].tolist()
        return ids

    def level_block(self, level: int) -> range:
        """Token ids of one codebook."""
        start = self.item_block.start + self.names.layout.offsets[level]
        return range(start, start + self.names.layout.codebook_sizes[level])

    def search_blocks(self) -> list[range]:
        """Token ids to choose from at each place of a name: any code where codes are unordered."""
        layout = self.names.layout
        levels = range(layout.num_codebooks)
        return [self.level_block(level) if layout.ordered else self.item_block for level in levels]

    def encode(self, rendered: str) -> list[int]:
        """Tokenise rendered text: trusted parts with the added vocabulary, fenced parts without it."""
        # A space before fenced text goes inside: most tokenizers spell a word with the space before it.
        moved = rendered.replace(f" {_OPEN}", f"{_OPEN} ")
        ids: list[int] = []
        for part in moved.split(_OPEN):
            fenced, closed, trusted = part.rpartition(_CLOSE)
            if closed and fenced.strip():
                ids += self.data(fenced)
            if trusted:
                ids += self._whole.encode(trusted, add_special_tokens=False).ids
        return ids

    def names_of(self, history: History) -> list[Name]:
        """Spell the newest purchases of a history, as many as a prompt shows.

        Raises:
            InputError: the history is empty.
        """
        if len(history) == 0:
            raise InputError("The history is empty; give at least one purchased item.")
        return [self.name(int(item)) for item in list(history)[-self.max_history :]]

    def _turn(self, template: str, phrasing: int, **variables: Any) -> str:
        return self._before + render(template, phrasing, **variables) + self._after


def render(template: str, part: int = 0, **variables: Any) -> str:
    """Render a part of `prompts/TEMPLATE.jinja`; every string that is no `Name` is fenced as data."""
    return _parts(template)[part].render({key: _fence(value) for key, value in variables.items()})


def num_phrasings(template: str) -> int:
    """How many parts `prompts/TEMPLATE.jinja` has."""
    return len(_parts(template))


def prompts_folder() -> Path:
    """Folder of the templates: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "prompts"
    return inside if inside.is_dir() else package.parent / "prompts"


def _fence(value: Any) -> Any:
    if isinstance(value, Name):
        return value
    if isinstance(value, str):
        return _OPEN + value.replace(_OPEN, "").replace(_CLOSE, "") + _CLOSE
    if isinstance(value, (list, tuple)):
        return [_fence(v) for v in value]
    raise TypeError(
        f"A template variable must be text, a name or a list of them, not {type(value).__name__}."
    )


@lru_cache(maxsize=64)
def _parts(template: str) -> tuple[jinja2.Template, ...]:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    source = (prompts_folder() / f"{template}.jinja").read_text(encoding="utf-8")
    return tuple(environment.from_string(part) for part in source.split("\n---\n"))


def _item_block(tokenizer: Any, names: Names) -> range:
    tokens = names.layout.tokens()
    ids = tokenizer.convert_tokens_to_ids(tokens)
    if ids != list(range(ids[0], ids[0] + len(ids))):
        raise InputError(
            f"The tokenizer lacks the {len(tokens)} item tokens of these names; "
            "use the folder that `gream vocab` wrote for them."
        )
    return range(ids[0], ids[0] + len(ids))


def _copies(tokenizer: Any) -> tuple[Tokenizer, Tokenizer]:
    """Copy the tokenizer twice: whole, and its text part; splitting special tokens would let item tokens in.

    The copies never truncate, whatever others ask of the tokenizer, and a call costs a third.
    """
    parts = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    plain = parts | {"added_tokens": [], "post_processor": None}
    return Tokenizer.from_str(json.dumps(parts)), Tokenizer.from_str(json.dumps(plain))


def _around(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes before and after a question; rendering it for each row costs as much."""
    message = {"role": "user", "content": _OPEN}
    text: str = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    before, _, after = text.partition(_OPEN)
    return before, after
