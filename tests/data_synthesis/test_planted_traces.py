"""Of planted bad traces the filters catch nearly all, and of sound ones they lose hardly any."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_synthesis.filters import reason_to_drop
from data_synthesis.near_copies import near_copies
from data_synthesis.teacher import RuleTeacher
from gream.data.prepare import DataConfig
from gream.data.prepare import run as run_data
from gream.data.store import load_catalogue, load_interactions
from gream.language.reasoning import Trace
from tests.data_synthesis.phrasing import Paraphraser
from tests.data_synthesis.planting import Planter

REAL = Path(os.environ.get("GREAM_DATA", Path(__file__).parents[3] / "shared" / "data")) / "scientific"
CAUGHT, LOST = 0.95, 0.02
SAMPLE = 500  # sound traces of each sort; every way of spoiling is tried on as many as remain of 60

# What the filters call each kind of badness; a trace may be bad in another way as well.
REASONS = {
    "format": {"lacks a step"},
    "too short": {"is too short", "lacks a step"},
    "too long": {"is too long"},
    "names the target": {"names the target", "spells a name"},
    "unseen evidence": {"cites an item outside the history"},
    "unreal item": {"invents an item", "spells a name"},
    "contradiction": {"contradicts the target"},
}


def sound(teacher: RuleTeacher, sequences: list[np.ndarray], seed: int) -> dict[str, list[Trace]]:
    """Traces that are right by construction: in free words, and by rules with the intent that came true."""
    rng = np.random.default_rng(seed)
    writer = Paraphraser(teacher.catalogue, rng)
    traces: dict[str, list[Trace]] = {"free words": [], "rules": []}
    for user in rng.permutation(len(sequences)):
        place = len(sequences[user]) - 1
        if place < 2:
            continue
        history, target = tuple(map(int, sequences[user][:place][-20:])), int(sequences[user][place])
        kind = teacher.categories[teacher.category_of[target]]
        if target in history or not kind:
            continue
        if len(traces["free words"]) < SAMPLE:
            traces["free words"].append(writer.trace(int(user), history, target))
        for e in (
            teacher.explain(history, rng, len(teacher.categories)) if len(traces["rules"]) < SAMPLE else ()
        ):
            if e.intent.endswith(f" comes {kind}") and all(e.kinds):
                traces["rules"].append(Trace(int(user), history, target, *vars(e).values()))
    return traces


def spoilt(planter: Planter, traces: list[Trace]) -> dict[str, list[Trace]]:
    """Bad traces of every kind."""
    every = {}
    for kind, ways in planter.ways().items():
        changed = [change(trace) for n, change in enumerate(ways) for trace in traces[n::8][:60]]
        every[kind] = [trace for trace in changed if trace is not None]
    return every


def copied(traces: list[Trace], sort: str, rng: np.random.Generator) -> list[Trace]:
    """Near-copies: the very same; another spelling; one purchase less; a word changed; other items."""

    def reword(text: str) -> str:
        words = text.split()
        words[int(rng.integers(len(words)))] = "really"
        return " ".join(words)

    steps = ("preference", "intent", "recommendation")
    ways: list[Callable[[Trace, Trace], Trace]] = [
        lambda t, o: t,
        lambda t, o: replace(t, **{s: f"{getattr(t, s).upper()}!" for s in steps}),
        lambda t, o: replace(t, rewritten=t.rewritten[1:]) if len(t.rewritten) > 3 else t,
    ]
    if sort == "free words":
        ways += [
            lambda t, o: replace(t, intent=reword(t.intent)),
            lambda t, o: replace(o, kinds=t.kinds, **{s: getattr(t, s) for s in steps}),
        ]
    return [
        way(t, o)
        for n, way in enumerate(ways)
        for t, o in zip(traces[n::9], traces[n + 1 :: 9], strict=False)
    ]


def measure(
    teacher: RuleTeacher, sequences: list[np.ndarray], seed: int
) -> list[tuple[str, str, int, float, float]]:
    """Rows (sort, kind, traces, share dropped, share dropped for the reason that was planted)."""
    rows = []
    for sort, traces in sound(teacher, sequences, seed).items():
        rng = np.random.default_rng([seed, 1])
        reasons = [reason_to_drop(trace, teacher.facts) for trace in traces]
        alike = near_copies(traces)
        lost = [r or a is not None for r, a in zip(reasons, alike, strict=True)]
        rows.append((sort, "sound", len(traces), float(np.mean([bool(x) for x in lost])), 0.0))
        for kind, bad in spoilt(Planter(teacher.catalogue, traces, rng), traces).items():
            reasons = [reason_to_drop(trace, teacher.facts) for trace in bad]
            meant = np.mean([reason in REASONS[kind] for reason in reasons])
            rows.append(
                (sort, kind, len(bad), float(np.mean([r is not None for r in reasons])), float(meant))
            )
        copies = copied(traces, sort, rng)
        seen = float(np.mean([place is not None for place in near_copies([*traces, *copies])[len(traces) :]]))
        rows.append((sort, "near-copy", len(copies), seen, seen))
    return rows


def check(rows: list[tuple[str, str, int, float, float]]) -> None:
    for sort, kind, number, dropped, meant in rows:
        print(f"{sort:10} {kind:17} {number:5} dropped {dropped:.3f}, for this reason {meant:.3f}")
    for sort, kind, number, dropped, meant in rows:
        assert number >= 100, (sort, kind)
        assert dropped <= LOST if kind == "sound" else min(dropped, meant) >= CAUGHT, (sort, kind)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[RuleTeacher, list[np.ndarray]]:
    run_dir = tmp_path_factory.mktemp("shop")
    run_data(DataConfig(run_dir=str(run_dir), num_customers=1200, seed=1))
    sequences = load_interactions(run_dir / "data").training_sequences()
    return RuleTeacher(load_catalogue(run_dir / "data"), sequences), sequences


def test_planted_traces_are_caught_and_sound_ones_kept(shop: tuple[RuleTeacher, list[np.ndarray]]) -> None:
    check(measure(*shop, seed=1))


@pytest.mark.real_data
def test_planted_traces_are_caught_in_a_real_catalogue(tmp_path: Path) -> None:
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is absent; set GREAM_DATA to the folder with the real data")
    run_data(DataConfig(run_dir=str(tmp_path), source="jsonl", path=str(REAL)))
    sequences = load_interactions(tmp_path / "data").training_sequences()
    check(measure(RuleTeacher(load_catalogue(tmp_path / "data"), sequences), sequences, seed=1))
