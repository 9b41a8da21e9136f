"""Whether the first steps of a chain betray an item before the chain comes to recommend it.

Steps 1 to 3 (evidence, preference, intent) may say what kind of item comes, not which. They betray an item
by its name in item tokens, or by a telling run of its title: the whole title, or at least three of its words
in a row, that at most three titles of the catalogue hold and that neither the history nor the item's own
brand and categories explain. The definition is ours; GREAM's code looks at a chain's format alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from gream.evaluation.mentions import Phrase, phrase_of

SHORTEST_RUN = 3  # words of a title in a row that may tell which item it is
FEW_TITLES = 3  # as many titles may hold a run that tells


def shared_run(words: Phrase, title: Phrase) -> Phrase:
    """Return the longest run of a title's words that a text holds too, the first of equal ones.

    Args:
        words: the text, in small letters.
        title: the title, in small letters.

    Returns:
        The run; () where it is shorter than `SHORTEST_RUN` words and not the whole title.
    """
    shortest = min(SHORTEST_RUN, len(title))
    held = set(words)
    if sum(word in held for word in title) < max(shortest, 1):  # most texts, at a small cost
        return ()
    best: Phrase = ()
    lengths = [0] * (len(words) + 1)  # of the run that ends before each place of the text
    for end, word in enumerate(title, start=1):
        before, lengths = lengths, [0] * (len(words) + 1)
        for place, other in enumerate(words, start=1):
            if word == other:
                lengths[place] = before[place - 1] + 1
                if lengths[place] > len(best):
                    best = title[end - lengths[place] : end]
    return best if len(best) >= shortest else ()


def telling_runs(titles: Iterable[str], runs: Collection[Phrase]) -> set[Phrase]:
    """Return those of some runs that at most `FEW_TITLES` titles hold; the titles are read once.

    Args:
        titles: of the whole catalogue.
        runs: what to look for; without any, no title is read.
    """
    if not runs:
        return set()
    starts: dict[str, list[Phrase]] = {}
    for run in set(runs):
        starts.setdefault(run[0], []).append(run)
    held: Counter[Phrase] = Counter()
    for title in titles:
        words = phrase_of(title)
        beginnings = ((place, run) for place, word in enumerate(words) for run in starts.get(word, ()))
        held.update({run for place, run in beginnings if words[place : place + len(run)] == run})
    return {run for run in set(runs) if held[run] <= FEW_TITLES}


def is_explained(run: Phrase, known: Sequence[str]) -> bool:
    """Say whether one of the texts that a chain may know holds a run."""
    size = len(run)
    for text in known:
        words = phrase_of(text)
        if any(words[place : place + size] == run for place in range(len(words) - size + 1)):
            return True
    return False
