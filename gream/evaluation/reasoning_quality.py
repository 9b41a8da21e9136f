"""What a reasoning chain is worth as a text: whole, grounded in the history, true to its own answer.

A chain is read once (`read_chain`), held against the history that it was written for (`grounded`) and the
items that it leads to (`pointed`); held against another user's it gives what chance alone would reach. The
measures are ours; GREAM looks at the format alone:

- form: all five steps stand in order.
- groundedness: the items that evidence and rewritten history cite, and the brands and categories that
  evidence and preference mention, are those of purchases that the model was shown, and the evidence calls
  a purchase what it is. The item that the chain recommends is of course not among them and is not counted.
- answer: whether the chain leads back to an item of the history.
- leakage: steps 1 to 3 betray the answer, see `gream.evaluation.leakage`. An answer that the history holds
  already may be cited and is not counted.
- agreement: the intent names a category of the item that the chain then recommends. An intent names the
  category that it mentions last ("after Tents comes Stoves").

Only whole chains have steps: brands, categories, intent and leakage count those alone, and what a broken
chain cites counts for groundedness as a whole.

Legend: G chains of all users together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gream.data.store import Catalogue
from gream.evaluation.leakage import is_explained, shared_run
from gream.evaluation.mentions import Mentions, Phrase, Vocabulary, phrase_of
from gream.language.reasoning import split_chain
from gream.semantic_ids.layout import Names

# a name begins at its first level `<a_..>`; tokens without one in front are a broken name of their own
_NAME = re.compile(r"<[a-z]+_\d+>(?:<(?!a_)[a-z]+_\d+>)*")


@dataclass(frozen=True)
class Share:
    """So many of so many: shares of single chains add up to that of all chains."""

    part: int = 0
    whole: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(self.part + other.part, self.whole + other.whole)

    @property
    def value(self) -> float | None:
        """The share, 0 to 1; None where nothing was counted."""
        return round(self.part / self.whole, 6) if self.whole else None


@dataclass(frozen=True)
class Reading:
    """What a chain says; without a whole form nothing but the items that it cites."""

    well_formed: bool
    evidence: tuple[str, ...]  # names of items, broken ones as they stand
    kinds: tuple[Phrase | None, ...]  # the category that each of them is called, the last one named before it
    rewritten: tuple[str, ...]
    mentions: Mentions  # in evidence and preference
    preference: Mentions
    preference_text: str
    intent: Phrase | None  # the category that it names
    early: Phrase  # words of steps 1 to 3, in small letters
    early_names: frozenset[str]


@dataclass(frozen=True)
class Facts:
    """What chains are judged by, whoever wrote them."""

    catalogue: Catalogue
    names: Names
    vocabulary: Vocabulary
    max_history: int  # newest purchases that the model was shown


@dataclass(frozen=True)
class Bought:
    """What the model was shown of one user."""

    items: frozenset[int]
    names: dict[str, int]  # the items by their names
    brands: frozenset[Phrase]
    categories: frozenset[Phrase]


@dataclass(frozen=True)
class Ends:
    """Where a chain leads, and where it should have led."""

    answer: int  # the first item of the list that was searched after the chain
    target: int  # the item that was bought next


def cited_names(text: str) -> tuple[str, ...]:
    """Return the item names in a text, in order, repetitions kept; broken names are returned as they stand.

    >>> cited_names("after <a_1><b_2>, <a_3><b_4><a_5>")
    ('<a_1><b_2>', '<a_3><b_4>', '<a_5>')
    """
    return tuple(_NAME.findall(text))


def read_chain(text: str, vocabulary: Vocabulary) -> Reading:
    """Take apart one chain."""
    chain = split_chain(text)
    evidence, rewritten = cited_names(chain.evidence), cited_names(chain.rewritten_history)
    if not chain.well_formed:
        nothing, unknown = Mentions((), ()), (None,) * len(evidence)
        return Reading(False, evidence, unknown, rewritten, nothing, nothing, "", None, (), frozenset())
    first, second, third = (_NAME.sub(" ", step) for step in (chain.evidence, chain.preference, chain.intent))
    in_evidence, in_preference = vocabulary.mentions(first), vocabulary.mentions(second)
    early = f"{chain.evidence} {chain.preference} {chain.intent}"
    return Reading(
        well_formed=True,
        evidence=evidence,
        kinds=tuple(_last(vocabulary.mentions(part)) for part in _NAME.split(chain.evidence)[:-1]),
        rewritten=rewritten,
        mentions=Mentions(
            in_evidence.brands + in_preference.brands, in_evidence.categories + in_preference.categories
        ),
        preference=in_preference,
        preference_text=" ".join(second.split()),
        intent=_last(vocabulary.mentions(third)),
        early=phrase_of(f"{first} {second} {third}"),
        early_names=frozenset(cited_names(early)),
    )


def bought(history: Iterable[int], facts: Facts) -> Bought:
    """Gather what the model was shown of one user, oldest first; the newest `max_history` count."""
    items = list(history)[-facts.max_history :]
    vocabulary = facts.vocabulary
    return Bought(
        items=frozenset(items),
        names={facts.names.spell(item): item for item in items},
        brands=frozenset(vocabulary.brand(item) for item in items),
        categories=frozenset(name for item in items for name in vocabulary.categories(item)),
    )


def title_run(reading: Reading, item: int, facts: Facts) -> Phrase:
    """Return the longest run of an item's title in steps 1 to 3 of a chain, see `leakage.shared_run`."""
    return shared_run(reading.early, phrase_of(facts.catalogue.titles[item]))


def grounded(reading: Reading, shown: Bought) -> dict[str, Share]:
    """Count what one chain cites and mentions of a history, by the name of the figure in report.json."""
    evidence, rewritten = (_within(names, shown.names) for names in (reading.evidence, reading.rewritten))
    return {
        "groundedness": evidence + rewritten,
        "groundedness_evidence": evidence if reading.well_formed else Share(),
        "groundedness_history": rewritten if reading.well_formed else Share(),
        "groundedness_brands": _within(reading.mentions.brands, shown.brands),
        "groundedness_categories": _within(reading.mentions.categories, shown.categories),
    }


def pointed(
    reading: Reading, shown: Bought, ends: Ends, facts: Facts, telling: Collection[Phrase]
) -> dict[str, Share]:
    """Count what one chain says of the items that it leads to, by the name of the figure in report.json.

    Args:
        reading: of the chain.
        shown: the history that it was written for.
        ends: the items.
        facts: of the catalogue.
        telling: the runs of titles that tell which item is meant, see `leakage.telling_runs`.
    """
    return {
        "answer_in_history": Share(int(ends.answer in shown.items), 1),
        "betrays_answer": _betrays(reading, shown, ends.answer, facts, telling),
        "betrays_target": _betrays(reading, shown, ends.target, facts, telling),
        "intent_agreement": _intends(reading, ends.answer, facts.vocabulary),
        "intent_right": _intends(reading, ends.target, facts.vocabulary),
    }


def formed(reading: Reading, shown: Bought, vocabulary: Vocabulary) -> dict[str, Share]:
    """Count what cannot be compared with chance in one chain, by the name of the figure in report.json."""
    called = [
        kind in vocabulary.categories(shown.names[name])
        for name, kind in zip(reading.evidence, reading.kinds, strict=True)
        if kind is not None and name in shown.names
    ]
    return {
        "well_formed": Share(int(reading.well_formed), 1),
        "evidence_kinds": Share(sum(called), len(called)),
        "intent_named": Share(int(reading.intent is not None), int(reading.well_formed)),
    }


def total(judged: Sequence[Mapping[str, Share]]) -> dict[str, Share]:
    """Add up what was counted of G chains, at least one."""
    return {name: sum((one[name] for one in judged), Share()) for name in judged[0]}


def _last(mentions: Mentions) -> Phrase | None:
    return mentions.categories[-1] if mentions.categories else None


def _within(said: Sequence[str] | Sequence[Phrase], known: Collection[str] | Collection[Phrase]) -> Share:
    return Share(sum(word in known for word in said), len(said))


def _intends(reading: Reading, item: int, vocabulary: Vocabulary) -> Share:
    """Say whether the intent names one of the item's categories; an intent without one is not counted."""
    if reading.intent is None:
        return Share()
    return Share(int(reading.intent in vocabulary.categories(item)), 1)


def _betrays(reading: Reading, shown: Bought, item: int, facts: Facts, telling: Collection[Phrase]) -> Share:
    """Say whether steps 1 to 3 hold the item's name, or a telling run of its title that nothing explains."""
    if not reading.well_formed or item in shown.items:
        return Share()
    if facts.names.spell(item) in reading.early_names:
        return Share(1, 1)
    run = title_run(reading, item, facts)
    return Share(
        int(run in telling and not is_explained(run, _explanations(shown, item, facts.catalogue))), 1
    )


def _explanations(shown: Bought, item: int, catalogue: Catalogue) -> list[str]:
    """Return the texts that a chain may speak from: the titles bought, and what kind of item comes."""
    titles = [catalogue.titles[old] for old in sorted(shown.items)]
    return [*titles, catalogue.brands[item], *catalogue.categories[item]]
