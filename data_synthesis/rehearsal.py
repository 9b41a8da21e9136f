"""A dry run: what would be asked, in three examples, and what it may cost; nothing is sent or written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from data_synthesis.asking import Question
from data_synthesis.call_cache import CallCache, call_key
from data_synthesis.questions import estimated_tokens
from data_synthesis.settings import TeacherConfig

_EXAMPLES = 3

Value = TypeVar("Value")


def describe_calls(questions: Sequence[Question[Value]], config: TeacherConfig) -> str:
    """Print-ready text: the first, a middle and the last prompt, and an estimate for all of them.

    The estimate leaves out answers that are there already, and asking again. The prompts' tokens are
    estimated from their length; the answers' are the most that the settings allow.

    Args:
        questions: all questions of the stage.
        config: checked settings.
    """
    places = sorted({0, len(questions) // 2, len(questions) - 1} & set(range(len(questions))))[:_EXAMPLES]
    parts = [f"--- prompt {place + 1:,} of {len(questions):,}\n{_text(questions[place])}" for place in places]
    cache = CallCache(config.calls_path)
    keys = {call_key(config.model, q.messages, config.parameters): _text(q) for q in questions}
    new = [text for key, text in keys.items() if cache.get(key) is None]
    prompt = sum(map(estimated_tokens, new))
    completion = len(new) * config.longest_answer
    known = f"; the answers to {len(keys) - len(new):,} others are there" if len(new) < len(keys) else ""
    parts.append(
        f"--- estimate\n{len(new):,} calls{known}: about {prompt:,} prompt tokens and at most {completion:,} "
        f"completion tokens, at most {config.cost(prompt, completion):.2f} at {config.prompt_price:g} and "
        f"{config.completion_price:g} for a million"
    )
    parts.append("Nothing was sent.")
    return "\n".join(parts)


def _text(question: Question[Value]) -> str:
    return "\n".join(message["content"] for message in question.messages)
