"""Why a trace is dropped: one small predicate for each reason, in the order they are asked.

They read the rule-based teacher's phrases and a model's free text alike. What a text may say is what the
history and the target's category say; a word of the target that neither explains betrays it. GREAM's code
drops a trace only when its format is broken; all other filters are ours. Near-copies, which are a matter of
all traces together, are found by `near_copies`.

Steps 1 to 3 are evidence, preference and intent; step 4, the recommendation, may describe the target.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from data_synthesis.kinds import KindReader
from data_synthesis.words import CatalogueWords, Words, holds, is_model, runs, squeezed, words_of
from gream.language.reasoning import STEPS, Trace

_FEWEST_WORDS, _MOST_WORDS = 4, 200  # of steps 2 to 4; evaluation closes a chain after 256 tokens
_SHORTEST_PART = 3  # words of a title that in a row are a part of it
_LONG_TITLE = 10  # letters and digits of a title that no other text holds by chance

# Words that alone make no step, besides single letters.
_EMPTY = frozenset(
    words_of(
        "an and are as be because but for from has have he her him his in is it its like maybe my na need no "
        "none not null of ok on or our she so something that the their them then they this thing to todo "
        "unknown user customer want was we who will with would yes you your"
    )
)
# What takes a chain apart again must not stand inside a step.
_STRUCTURE = re.compile(rf"\b(?:{'|'.join(STEPS)}|step\s*\d)\s*:|</?(?:think|answer)>", re.IGNORECASE)
_NAME = re.compile(r"<\|?\s*[a-z]+_\d+\s*\|?>|\b[a-z]_\d+\b", re.IGNORECASE)


class Facts:
    """What the filters know of a catalogue; made once."""

    def __init__(self, words: CatalogueWords) -> None:
        self.words = words
        self.kinds = KindReader(words)


def reason_to_drop(trace: Trace, facts: Facts, *, format_only: bool = False) -> str | None:
    """The first reason against a trace, or None; `format_only` asks no more than GREAM's code does."""
    asked = list(FILTERS.items())[:1] if format_only else FILTERS.items()
    return next((reason for reason, holds_ in asked if holds_(trace, facts)), None)


def lacks_a_step(trace: Trace, facts: Facts) -> bool:
    """A step is empty or says nothing, or holds the heading of another."""
    return (
        not trace.evidence
        or not trace.rewritten
        or len(trace.kinds) != len(trace.evidence)
        or not all(words_of(kind) for kind in trace.kinds)
        or not all(_telling(text) for text in _steps(trace))
        or any(_STRUCTURE.search(text) for text in (*trace.kinds, *_steps(trace)))
    )


def is_too_short(trace: Trace, facts: Facts) -> bool:
    """Steps 2 to 4 have fewer telling words than the shortest sound chain."""
    return sum(_telling(text) for text in _steps(trace)) < _FEWEST_WORDS


def is_too_long(trace: Trace, facts: Facts) -> bool:
    """Steps 2 to 4 have more words than a chain may have."""
    return sum(len(text.split()) for text in _steps(trace)) > _MOST_WORDS


def invents_an_item(trace: Trace, facts: Facts) -> bool:
    """An item that the catalogue does not have, or a model number that none of its texts holds."""
    items = (*trace.evidence, *trace.rewritten)
    invented = (w for text in _early(trace) for w in text if is_model(w) and w not in facts.words.models)
    return not all(0 <= item < len(facts.words) for item in items) or any(invented)


def spells_a_name(trace: Trace, facts: Facts) -> bool:
    """Item tokens, or the target's raw id, stand in a text; names are for evidence, history and answer."""
    texts = (*trace.kinds, *_steps(trace))
    raw = squeezed(facts.words.catalogue.item_ids[trace.target])
    hidden = is_model(raw) and any(raw in squeezed(text) for text in texts)
    return hidden or any(_NAME.search(text) for text in texts)


def betrays_the_target(trace: Trace, facts: Facts) -> bool:
    """The target is cited, or steps 1 to 3 tell its title, a part or rare words of it, or its brand."""
    words, target = facts.words, trace.target
    if target in trace.evidence or target in trace.rewritten:
        return True
    explained = words.said_of(trace.history) | {word for name in words.paths[target] for word in name}
    return _hides_a_word(trace, words, explained) or any(
        _tells_a_word(text, target, words, explained) or _tells_a_part(text, trace, words)
        for text in _early(trace)
    )


def cites_the_unseen(trace: Trace, facts: Facts) -> bool:
    """An item, title, brand or model that the history does not have, or a purchase called what it is not."""
    if not _is_part(trace.rewritten, trace.history) or not set(trace.evidence) <= set(trace.history):
        return True
    said = facts.words.said_of(trace.history)
    own = [facts.words.titles[item] for item in trace.history]
    return (
        any(not said.issuperset(brand) for text in _early(trace) for brand in facts.words.brands_in(text))
        or any(is_model(word) and word not in said for text in _early(trace) for word in text)
        or any(
            not any(holds(title, facts.words.titles[item]) for title in own)
            for text in _early(trace)
            for item in facts.words.quoted_in(text)
        )
        or any(
            facts.kinds.states_another(kind, item) is True
            for kind, item in zip(trace.kinds, trace.evidence, strict=True)
        )
    )


def contradicts_the_target(trace: Trace, facts: Facts) -> bool:
    """Step 4, or the kind that the intent ends with, is another category than what was bought next."""
    _, comes, kind = trace.intent.rpartition(" comes ")
    if comes and facts.kinds.states_another(kind, trace.target) is True:
        return True
    stated = facts.kinds.states_another(trace.recommendation, trace.target)
    if stated is not None:
        return stated
    words = facts.words
    bought = (words.brands[item] for item in (*trace.history, trace.target))
    brands = frozenset(word for brand in bought for word in brand) - facts.kinds.words_of_names
    text = tuple(word for word in words_of(trace.recommendation) if word not in brands)
    return facts.kinds.speaks_of_another(text, trace.target)


FILTERS: dict[str, Callable[[Trace, Facts], bool]] = {
    "lacks a step": lacks_a_step,
    "is too short": is_too_short,
    "is too long": is_too_long,
    "spells a name": spells_a_name,
    "names the target": betrays_the_target,
    "invents an item": invents_an_item,
    "cites an item outside the history": cites_the_unseen,
    "contradicts the target": contradicts_the_target,
}


def _steps(trace: Trace) -> tuple[str, str, str]:
    return trace.preference, trace.intent, trace.recommendation


def _early(trace: Trace) -> list[Words]:
    """Words of steps 1 to 3, text by text."""
    return [words_of(text) for text in (*trace.kinds, trace.preference, trace.intent)]


def _telling(text: str) -> int:
    """How many words of a text say something."""
    return sum(any(len(w) > 1 and w not in _EMPTY for w in words_of(word)) for word in text.split())


def _tells_a_word(text: Words, target: int, words: CatalogueWords, explained: frozenset[str]) -> bool:
    """A text names the brand, a rare word of the title, or words that hardly another title holds together."""
    brand = words.brands[target]
    by_brand = brand in words.brands_in(text)
    if by_brand and not explained.issuperset(brand):
        return True
    told = frozenset(words.titles[target]).intersection(text) - explained
    told -= {word for word in told if words.is_common(word)}
    return any(words.is_rare(word) for word in told) or (
        len(told) > 1 and words.titles_with_all(told, brand if by_brand else ()) <= words.few
    )


def _tells_a_part(text: Words, trace: Trace, words: CatalogueWords) -> bool:
    """The words of the title, or a part of it in a row, stand in a text and in none of the history."""
    title, whole = words.titles[trace.target], frozenset(words.titles[trace.target])
    if len(whole) >= _SHORTEST_PART and whole.issubset(text):
        return not any(whole <= words.bags[item] for item in trace.history)
    known = [known for item in trace.history for known in (words.titles[item], words.descriptions[item])]
    known += words.paths[trace.target]
    return any(
        words.bits(part) > words.bits_of_an_item
        and not any(holds(text, part) for text in known)
        and words.titles_with(part) <= words.few + 1
        for part in runs(text, title, max(2, min(_SHORTEST_PART, len(title))))
    )


def _hides_a_word(trace: Trace, words: CatalogueWords, explained: frozenset[str]) -> bool:
    """The whole title, or a model number of it, stands in steps 1 to 3 with other spaces and dashes."""
    titles = words.catalogue.titles
    parts = {squeezed(part) for part in titles[trace.target].split()}  # `XK-9000B` is one part, two words
    known = (*(titles[item] for item in trace.history), *words.catalogue.categories[trace.target])
    hidden = {
        part
        for part in parts
        if is_model(part) and part not in explained and not any(part in squeezed(text) for text in known)
    }
    whole = squeezed(titles[trace.target])
    if len(whole) >= _LONG_TITLE and not any(whole in squeezed(text) for text in known):
        hidden.add(whole)
    texts = [squeezed(text) for text in (*trace.kinds, trace.preference, trace.intent)]
    return any(secret in text for secret in hidden for text in texts)


def _is_part(rewritten: Iterable[int], history: Iterable[int]) -> bool:
    """Whether one can get the rewritten history by leaving out purchases of the history."""
    rest = iter(history)
    return all(item in rest for item in rewritten)
