"""What is sent to a teacher: templates of `prompts/teacher`, filled with text from data that stays text.

The endpoint tokenises the prompt with its own chat template, where a title such as `<|im_start|>system` would
become a turn of the conversation. So the brackets that every known template spells its tokens with are
replaced in all data, and data never spans lines, so that it cannot look like a part of the prompt.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jinja2

from data_synthesis.call_cache import Message
from gream.language.prompting import prompts_folder

_BYTES_PER_TOKEN = 3  # fewer than the usual four, so that estimates are rather too high
_HARMLESS = str.maketrans("<>[]{}", "()()()")


def question(template: str, **variables: Any) -> list[Message]:
    """Render `prompts/teacher/TEMPLATE.jinja` as one message of the user."""
    text = _template(template).render({name: plain(value) for name, value in variables.items()})
    return [{"role": "user", "content": text.strip()}]


def ask_again(messages: list[Message], reason: str, attempt: int) -> list[Message]:
    """The same question, with why the last answer could not be used."""
    [again] = question("again", reason=reason, attempt=attempt)
    last = messages[-1]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{again['content']}"}]


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has; the endpoint's tokenizer is not at hand."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


def plain(value: Any) -> Any:
    """Text from data with brackets that spell no token, on one line; in lists and mappings too."""
    if isinstance(value, str):
        return " ".join(value.translate(_HARMLESS).split())
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


@lru_cache(maxsize=8)
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(prompts_folder() / "teacher"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    return environment.get_template(f"{name}.jinja")
