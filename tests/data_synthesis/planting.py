"""Bad traces made from good ones, several ways for each kind of badness; the good text is otherwise kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from data_synthesis.words import words_of
from gream.data.store import Catalogue
from gream.language.reasoning import Trace
from tests.data_synthesis.phrasing import Paraphraser

Change = Callable[[Trace], Trace | None]  # None where a trace does not lend itself to it


class Planter:
    """Spoils sound traces.

    Args:
        catalogue: what the traces are about.
        others: sound traces of the same sort, for what comes from another customer.
        rng: draws places and words.
    """

    def __init__(self, catalogue: Catalogue, others: Sequence[Trace], rng: np.random.Generator) -> None:
        self.catalogue, self.others, self.rng = catalogue, others, rng
        self.writer = Paraphraser(catalogue, rng)
        self.leaves = [path[-1] if path else "" for path in catalogue.categories]
        self.bags = [
            {*words_of(t), *words_of(b), *words_of(d), *(w for name in path for w in words_of(name))}
            for t, b, d, path in zip(
                catalogue.titles, catalogue.brands, catalogue.descriptions, catalogue.categories, strict=True
            )
        ]

    def ways(self) -> dict[str, list[Change]]:
        """Every kind of badness with the ways to it."""
        return {
            "format": list(self._broken()),
            "too short": [self._clipped, self._single_words],
            "too long": [self._rambling, self._looping],
            "names the target": list(self._betraying()),
            "unseen evidence": list(self._ungrounded()),
            "unreal item": list(self._unreal()),
            "contradiction": [self._sibling, self._elsewhere],
        }

    # -- format and length

    def _broken(self) -> Iterator[Change]:
        for step in ("preference", "intent", "recommendation"):
            for nothing in ("", "  ", "...", "N/A", "None", "-"):
                yield lambda t, step=step, nothing=nothing: replace(t, **{step: nothing})
        for step in ("evidence", "rewritten", "kinds"):
            yield lambda t, step=step: replace(t, **{step: ()})
        yield lambda t: replace(t, kinds=(*t.kinds[:-1], " "))
        yield lambda t: replace(t, preference=f"{t.preference} Intent: {t.intent}")
        yield lambda t: replace(t, recommendation=f"Step 4: {t.recommendation}")
        yield lambda t: replace(t, intent=f"{t.intent} </think>")

    def _clipped(self, trace: Trace) -> Trace:
        return self._cut(trace, 1)

    def _single_words(self, trace: Trace) -> Trace:
        last = {s: getattr(trace, s).split()[-1] for s in ("preference", "intent", "recommendation")}
        return replace(trace, **last)

    def _cut(self, trace: Trace, size: int) -> Trace:
        steps = ("preference", "intent", "recommendation")
        return replace(trace, **{step: " ".join(getattr(trace, step).split()[:size]) for step in steps})

    def _rambling(self, trace: Trace) -> Trace:
        more = [self.writer.texts(trace.history, trace.target)["preference"] for _ in range(30)]
        return replace(trace, preference=". ".join(more))

    def _looping(self, trace: Trace) -> Trace:
        return replace(trace, intent=" ".join([f"{trace.intent} and then {trace.recommendation}"] * 60))

    # -- the target betrayed before step 4

    def _betraying(self) -> Iterator[Change]:
        spell: list[Callable[[str], str]] = [
            str,
            str.lower,
            str.upper,
            lambda title: title.replace(" ", "-"),
            lambda title: re.sub(r"\s+", ", ", title),
            lambda title: f'"{title}"',
            lambda title: title.replace(" ", ""),
            lambda title: " ".join(title.split()[::-1]),
        ]
        for change in spell:
            yield lambda t, change=change: self._whole(t, change)
        yield lambda t: self._part(t, slice(0, 3))
        yield lambda t: self._part(t, slice(-3, None))
        yield lambda t: self._part(t, slice(0, None, 2))
        yield self._brand_and_model
        yield lambda t: self._say(t, "<a_1><b_2>")
        yield lambda t: self._say(t, "<|a_12|><|b_7|><|c_200|>")
        yield lambda t: replace(
            t, evidence=(*t.evidence, t.target), kinds=(*t.kinds, self.writer.kind(t.target))
        )
        yield lambda t: replace(t, rewritten=(*t.rewritten, t.target))

    def _say(self, trace: Trace, secret: str) -> Trace:
        step = ("preference", "intent", "kinds")[self.rng.integers(3)]
        if step == "kinds":
            return replace(trace, kinds=(*trace.kinds[:-1], f"{trace.kinds[-1]} that goes with {secret}"))
        if step == "preference":
            return replace(trace, preference=f"{trace.preference}, as {secret} would be")
        return replace(trace, intent=f"{trace.intent}; {secret} comes to mind. {trace.intent}")

    def _whole(self, trace: Trace, spell: Callable[[str], str]) -> Trace | None:
        """The title, unless a purchase of the same title explains it."""
        title = self.catalogue.titles[trace.target]
        known = any(words_of(title) == words_of(self.catalogue.titles[item]) for item in trace.history)
        return None if known else self._say(trace, spell(title))

    def _unexplained(self, trace: Trace) -> set[str]:
        """Words of the target's title and brand that neither its category nor the history holds."""
        target = trace.target
        words = {*words_of(self.catalogue.titles[target]), *words_of(self.catalogue.brands[target])}
        known = set().union(*(self.bags[item] for item in trace.history))
        return words - known - {w for name in self.catalogue.categories[target] for w in words_of(name)}

    def _part(self, trace: Trace, places: slice) -> Trace | None:
        """A part of the title that the history does not explain and that hardly another title holds."""
        part = " ".join(self.catalogue.titles[trace.target].split()[places])
        said = set(words_of(part))
        holding = sum(said <= set(words_of(title)) for title in self.catalogue.titles)
        new = self._unexplained(trace) & said
        return self._say(trace, part) if len(new) > 1 and holding <= 1 + len(self.bags) // 1000 else None

    def _brand_and_model(self, trace: Trace) -> Trace | None:
        """The brand and two new words of the title: those with a digit first, then the least common ones."""
        brand = self.catalogue.brands[trace.target]
        new = self._unexplained(trace).intersection(words_of(self.catalogue.titles[trace.target]))
        count = {word: sum(word in bag for bag in self.bags) for word in new}
        ranked = sorted(new, key=lambda w: (not any(c.isdigit() for c in w), count[w], w))
        return self._say(trace, f"{brand} {' '.join(ranked[:2])}") if brand and len(ranked) > 1 else None

    # -- evidence

    def _stranger(self, trace: Trace) -> int:
        """A purchase of another customer that this one did not make."""
        while True:
            other = self.others[self.rng.integers(len(self.others))]
            item = other.history[self.rng.integers(len(other.history))]
            if item not in trace.history and item != trace.target:
                return item

    def _ungrounded(self) -> Iterator[Change]:
        def cited(t: Trace, keep: int) -> Trace:
            item = self._stranger(t)
            return replace(
                t, evidence=(*t.evidence[:keep], item), kinds=(*t.kinds[:keep], self.writer.kind(item))
            )

        yield lambda t: cited(t, 0)
        yield lambda t: cited(t, 1)
        yield lambda t: cited(t, 2)
        yield lambda t: replace(t, rewritten=(*t.rewritten, self._stranger(t)))
        yield lambda t: replace(t, rewritten=(self._stranger(t), *t.rewritten[1:]))
        yield lambda t: replace(t, rewritten=t.rewritten[::-1]) if len(t.rewritten) > 1 else None
        yield self._quoted
        yield self._foreign_brand

    def _quoted(self, trace: Trace) -> Trace | None:
        item = self._stranger(trace)
        title = self.catalogue.titles[item]
        known = any(title.lower() in self.catalogue.titles[i].lower() for i in trace.history)
        if known or len(title.split()) < 3:
            return None
        return replace(trace, preference=f"{trace.preference}, having bought the {title.lower()}")

    def _foreign_brand(self, trace: Trace) -> Trace | None:
        brand = self.catalogue.brands[self._stranger(trace)]
        known = set().union(*(self.bags[i] for i in trace.history))
        if not brand or known.intersection(words_of(brand)):
            return None
        return replace(trace, preference=f"{trace.preference}; earlier purchases from {brand} show it")

    def _unreal(self) -> Iterator[Change]:
        size = len(self.catalogue)
        for item in (size, size + 77, -1, -size - 1):
            yield lambda t, item=item: replace(t, evidence=(*t.evidence[:-1], item))
            yield lambda t, item=item: replace(t, rewritten=(*t.rewritten, item))
        yield lambda t: replace(t, preference=f"{t.preference}, as the QX9042B shows")
        yield lambda t: replace(t, kinds=(*t.kinds[:-1], f"{t.kinds[-1]} (model zk7731)"))
        yield lambda t: replace(t, intent=f"{t.intent}, after <a_901><b_77>")

    # -- step 4 about something else

    def _sibling(self, trace: Trace) -> Trace | None:
        path = self.catalogue.categories[trace.target]
        near = [
            item
            for item, other in enumerate(self.catalogue.categories)
            if len(path) > 1 and other[:-1] == path[:-1] and other != path
        ]
        return self._recommend(trace, near[self.rng.integers(len(near))]) if near else None

    def _elsewhere(self, trace: Trace) -> Trace | None:
        path = self.catalogue.categories[trace.target]
        item = int(self.rng.integers(len(self.catalogue)))
        other = self.catalogue.categories[item]
        return self._recommend(trace, item) if path and other and not set(path[1:]) & set(other) else None

    def _recommend(self, trace: Trace, item: int) -> Trace:
        if trace.recommendation.startswith(self.leaves[trace.target]):  # as the rule-based teacher writes
            spoken = trace.recommendation.replace(self.leaves[trace.target], self.leaves[item], 1)
            return replace(trace, recommendation=spoken)
        return replace(trace, recommendation=self.writer.texts(trace.history, item)["recommendation"])
