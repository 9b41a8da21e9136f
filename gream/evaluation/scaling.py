"""Test-time scaling: the same users searched with many settings, quality beside measured time.

The sweep holds plain beams of several widths; with a scorer the expand widths of PROMISE (arXiv 2601.04674),
the levels where it keeps and the rules; with a pruning threshold REG4Rec's pruning; in reasoning mode numbers
of chains and the early stop. Beside every setting stands the plain beam that takes as long, because a guided
search that a wider beam beats has gained nothing.

Legend: B users, L levels, S settings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from gream.decoding.answer import Answer
from gream.decoding.beam import RULES
from gream.decoding.recommend import Engine, Search, recommend_many
from gream.evaluation.exam import Exam, Row
from gream.evaluation.prefix_recall import false_prune_rate, prefix_hits, prefix_recall
from gream.evaluation.settings import EvaluateConfig, plain_search, reasoning_search
from gream.processes import ALONE, Team, no_bar
from gream.semantic_ids.paths import Constraint

# Families of settings, as the plot calls them.
PLAIN, WIDTH, LEVELS, RULE = "plain beam", "scorer, expand width", "scorer, levels", "scorer, rules"
PRUNED, CHAINS = "pruned beam", "reasoning"
_EXPANSIONS = (1, 2, 4, 8)  # expand widths, in beams
_EXPANSION = 4  # the one at which levels and rules are compared
_CHAINS = (1, 2, 4)
_ALIKE = 2  # chains that must agree for the early stop
_WARM_UP = 32  # users of the untimed searches; the first search of a process pays for things once


@dataclass(frozen=True)
class Setting:
    """One search of the sweep; those with the same `family` share a marker in the plot."""

    family: str
    name: str
    search: Search


def settings_of(config: EvaluateConfig, depth: int) -> list[Setting]:
    """Return the sweep, simpler settings first, each search once.

    No level of the scorer at all is the plain beam of `num_beams`, so it has no row of its own.

    Args:
        config: gives everything that a setting does not vary.
        depth: number of codes in a name, L.
    """
    plain = replace(plain_search(config), prune_threshold=None, scorer_levels=None)
    plain = replace(plain, num_beams=max(plain.num_beams, config.k))
    widths = sorted({*config.scaling_beams, plain.num_beams})
    settings = [Setting(PLAIN, f"plain beam of {width}", replace(plain, num_beams=width)) for width in widths]
    if config.scorer:
        settings += _guided(config, plain, depth)
    if config.prune_threshold:
        pruned = replace(plain_search(config), num_beams=plain.num_beams)
        name = f"beam of {plain.num_beams}, pruned below {config.prune_threshold:g}"
        settings.append(Setting(PRUNED, name, pruned))
    if config.reasoning:
        settings += _chains(config, plain)
    first = {setting.search: setting for setting in reversed(settings)}
    return [setting for setting in settings if first[setting.search] is setting]


def sweep(
    exam: Exam,
    engine: Engine,
    settings: Sequence[Setting],
    *,
    batch_size: int,
    recommend: Callable[..., list[Answer]] = recommend_many,
    team: Team = ALONE,
) -> list[Row]:
    """Search all users with every setting; one row for each, S in all.

    Every batch of users goes through all settings before the next one does, so that a machine that slows down
    in between slows all of them. Only the searches are timed, after a short one of each that is not; of
    several processes, which share the batches out, the times are added.

    Returns:
        Rows of `Exam.row` with `family`, `name`, `num_beams`, `tokens_per_user`, in direct mode `hrecall`
        (L figures), and `false_prune_rate` where paths were pruned. None but in the main process.
    """
    histories = [history.tolist() for history in exam.histories]
    first = replace(exam, cases=exam.cases[:_WARM_UP])
    for setting in settings:
        recommend(engine, histories[:_WARM_UP], setting.search, allowed=first.allowed, batch_size=batch_size)
    starts = range(0, len(histories), batch_size)
    searches = len(settings) * sum(len(histories[start : start + batch_size]) for start in team.share(starts))
    progress = tqdm(total=searches, desc="scaling", unit="search", disable=no_bar())

    def searched(start: int) -> list[_Found]:
        part = slice(start, start + batch_size)
        asked = replace(exam, cases=exam.cases[part])
        by_setting = []
        for setting in settings:
            search = replace(setting.search, seed=setting.search.seed + start)
            started = time.perf_counter()
            found = recommend(engine, histories[part], search, allowed=asked.allowed, batch_size=batch_size)
            seconds = time.perf_counter() - started
            by_setting.append(_Found.of(found, exam.targets[part], engine.constraint, seconds))
            progress.update(len(found))
        return by_setting

    team.wait()  # what one process does before must not slow the searches of the others
    with progress:
        batches = team.share_out(starts, searched)
    by_setting = zip(*batches, strict=True)
    return [
        _row(setting, found, exam, engine.constraint)
        for setting, found in zip(settings, by_setting, strict=False)  # without batches there are no rows
    ]


def frontier(seconds: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Return the positions that no other one beats in time and quality (Pareto), fastest first.

    Of equals the first one is taken, which in a sweep is the simplest.
    """
    order = sorted(range(len(seconds)), key=lambda i: (seconds[i], -quality[i], i))
    chosen: list[int] = []
    for position in order:
        if not chosen or quality[position] > quality[chosen[-1]]:
            chosen.append(position)
    return chosen


def plain_at_equal_time(
    seconds: float, widths: Sequence[int], times: Sequence[float], quality: Sequence[float]
) -> tuple[float, float]:
    """Return width and quality of the plain beam that takes `seconds`, interpolated between measured ones.

    Outside of what was measured the nearest end is taken, never a line drawn on.

    Args:
        seconds: time of the setting that is compared.
        widths: beams of the plain searches, ascending.
        times: their seconds; a wider beam that was measured faster counts as fast as the narrower one.
        quality: what each of them reached.
    """
    rising = np.maximum.accumulate(np.asarray(times))
    return float(np.interp(seconds, rising, widths)), float(np.interp(seconds, rising, quality))


def overtaken(
    seconds: Sequence[float], quality: Sequence[float], smaller: Sequence[bool]
) -> tuple[int, int] | None:
    """Return (smaller model's position, larger model's): the best that a larger model did and a smaller beat.

    Beaten is a search of the larger model for which one of the smaller is no slower and no worse. Of all
    beaten ones the best is taken, and of those that beat it the fastest. None where no search is beaten.
    """
    ours, theirs = [i for i, s in enumerate(smaller) if s], [i for i, s in enumerate(smaller) if not s]
    pairs = [(i, j) for i in ours for j in theirs if seconds[i] <= seconds[j] and quality[i] >= quality[j]]
    return min(pairs, key=lambda pair: (-quality[pair[1]], seconds[pair[0]], pair), default=None)


@dataclass(frozen=True)
class _Found:
    """What one setting's search gave for the users of one batch."""

    seconds: float
    tokens: int
    lists: list[np.ndarray]
    hits: np.ndarray | None  # (B, L) whether a kept path is right
    pruned: list[Answer]  # all of them, where any path was pruned

    @classmethod
    def of(
        cls, found: list[Answer], targets: Sequence[int], constraint: Constraint, seconds: float
    ) -> _Found:
        kept = [answer.kept for answer in found]
        return cls(
            seconds,
            sum(answer.tokens for answer in found),
            [answer.items for answer in found],
            prefix_hits(kept, targets, constraint) if kept[0] else None,
            found if found[0].pruned else [],
        )


def _row(setting: Setting, batches: Sequence[_Found], exam: Exam, constraint: Constraint) -> Row:
    """Return the row of a setting from what its searches gave for every batch."""
    lists = [items for batch in batches for items in batch.lists]
    hits = [batch.hits for batch in batches if batch.hits is not None]
    pruned = [answer for batch in batches for answer in batch.pruned]
    row = {"family": setting.family, "name": setting.name, "num_beams": setting.search.num_beams}
    row |= exam.row(lists, sum(batch.seconds for batch in batches))
    row["tokens_per_user"] = round(sum(batch.tokens for batch in batches) / len(lists), 2)
    if hits:
        row["hrecall"] = prefix_recall(np.concatenate(hits))
    if pruned:
        row["false_prune_rate"] = false_prune_rate(pruned, exam.targets, constraint, setting.search)
    return row


def _guided(config: EvaluateConfig, plain: Search, depth: int) -> list[Setting]:
    """Return the settings with the scorer: widths with the levels of the recipe, then levels, then rules."""
    beams, levels = plain.num_beams, _levels(config.scorer_levels, depth)
    widths = {max(config.expand_width, beams), *(times * beams for times in _EXPANSIONS)}
    wide = replace(plain, expand_width=_EXPANSION * beams, scorer_levels=levels)
    size = f"scorer, {beams} of {_EXPANSION * beams}"
    settings = [
        Setting(
            WIDTH, f"scorer, {beams} of {width}{_named(levels, depth)}", replace(wide, expand_width=width)
        )
        for width in sorted(widths)
    ]
    for first in (depth - 1, depth - 2, 0):
        levels = _levels(range(max(first, 0), depth), depth)
        search = replace(wide, scorer_levels=levels)
        settings.append(Setting(LEVELS, f"{size}{_named(levels, depth) or ', all levels'}", search))
    return settings + [Setting(RULE, f"{size}, {rule}", replace(wide, rule=rule)) for rule in RULES]


def _levels(levels: Sequence[int], depth: int) -> tuple[int, ...] | None:
    """Return levels in one spelling: None where they are all, and so where none is named."""
    named = tuple(sorted(set(levels)))
    return None if not named or len(named) == depth else named


def _named(levels: tuple[int, ...] | None, depth: int) -> str:
    if levels is None:
        return ""
    names = {(depth - 1,): ", last level", (depth - 2, depth - 1): ", last two levels"}
    return names.get(levels) or f", levels {' '.join(map(str, levels))}"


def _chains(config: EvaluateConfig, plain: Search) -> list[Setting]:
    """Return the settings of reasoning mode."""
    base = replace(reasoning_search(config), num_beams=plain.num_beams, expand_width=None, choose="merge")
    base = replace(base, prune_threshold=None, scorer_levels=None, agree=0)
    numbers = sorted({*_CHAINS, config.num_chains})
    settings = [
        Setting(CHAINS, f"{n} chain{'s' if n > 1 else ''}", replace(base, num_chains=n)) for n in numbers
    ]
    most = replace(base, num_chains=numbers[-1])
    alike = replace(most, agree=max(_ALIKE, config.agree))
    settings.append(Setting(CHAINS, f"{most.num_chains} chains, stop at {alike.agree} alike", alike))
    if config.scorer:
        best = replace(most, choose="best", expand_width=max(config.expand_width, plain.num_beams))
        settings.append(Setting(CHAINS, f"{most.num_chains} chains, best by the scorer", best))
    return settings
