"""The search with a scorer: what it keeps, what it costs, and every rule that combines it with the policy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gream.decoding.beam import RULES, Guide, beam_search
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from tests.decoding.scripted import (
    BLOCKS,
    SIZES,
    ScriptedBackend,
    TableScorer,
    assert_same,
    nodes_to_prefixes,
    obvious_logp,
    random_names,
    tokens_of,
)


@pytest.mark.parametrize("seed", range(10))
def test_with_expand_width_equal_to_beams_a_scorer_changes_the_order_only(seed: int) -> None:
    names, backend, prompts = random_names(40, seed), ScriptedBackend(seed), [[1], [2]]
    constraint = TrieConstraint(names)
    table = torch.randn(2, constraint.num_nodes, generator=torch.Generator().manual_seed(seed))
    plain = beam_search(backend, prompts, constraint, BLOCKS, num_beams=6)
    guided = beam_search(
        backend, prompts, constraint, BLOCKS, num_beams=6, guide=Guide(TableScorer(table), 6)
    )
    for user, (a, b) in enumerate(zip(plain, guided, strict=True)):
        assert a.tokens is not None and b.tokens is not None
        assert list(map(tuple, b.tokens.tolist())) == [tokens_of(names.codes[item]) for item in b.items]
        for left, right in zip(a.kept, b.kept, strict=True):
            np.testing.assert_array_equal(left, right)
        assert set(a.items.tolist()) == set(b.items.tolist())
        assert b.scores is not None and (np.diff(b.scores) <= 0).all()
        leaves = constraint.item_nodes[torch.tensor(b.items), -1]
        np.testing.assert_array_equal(b.scores, table[user, leaves].numpy())
        logps = [obvious_logp(backend, prompts[user], names.codes[item]) for item in b.items]
        np.testing.assert_array_equal(b.logps, logps)  # the scorer never changes the log-probability


def obvious_guided(
    backend: ScriptedBackend, prompt: list[int], names: Names, guide: Guide, user: int, num_beams: int
) -> tuple[list[int], list[list[tuple[int, ...]]]]:
    """Guided search over sorted Python lists: the items, best first, and the prefixes kept at each level."""
    constraint = TrieConstraint(names)
    item_of = {tuple(map(int, codes)): item for item, codes in enumerate(names.codes)}
    table = guide.scorer.table  # type: ignore[attr-defined]

    def score(path: tuple[int, ...]) -> np.float32:
        return np.float32(table[user, constraint.node(path)])

    def kept_by(path: tuple[int, ...]) -> np.float32:
        if guide.rule == "sum":
            return obvious_logp(backend, prompt, path) + np.float32(guide.weight) * score(path)
        return score(path)

    beams: list[tuple[int, ...]] = [()]
    kept = []
    for level in range(len(SIZES)):
        last = level == len(SIZES) - 1
        tie = {p[: level + 1]: item_of[p] if last else p[: level + 1] for p in item_of}
        guided = guide.keeps(level)
        paths = sorted(
            {codes[: level + 1] for codes in item_of if codes[:level] in beams},
            key=lambda p: (-obvious_logp(backend, prompt, p), tie[p]),
        )[: guide.expand_width if guided else num_beams]
        if guided:
            paths = sorted(paths, key=lambda p: (-kept_by(p), tie[p]))[:num_beams]
            by_score = paths
        beams = paths
        kept.append(sorted(beams))
    if guided and guide.rule == "scorer_then_policy":
        beams = sorted(by_score, key=lambda p: (-obvious_logp(backend, prompt, p), tie[p]))
    return [item_of[codes] for codes in beams], kept


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("levels", [None, (), (2,), (1, 2), (0,)])
def test_every_rule_and_choice_of_levels_equals_a_search_over_python_lists(
    rule: str, levels: tuple[int, ...] | None
) -> None:
    orders = set()
    for seed in range(6):
        names, backend, prompts = random_names(45, seed), ScriptedBackend(seed), [[1], [2]]
        constraint = TrieConstraint(names)
        drawn = torch.randint(-2, 3, (2, constraint.num_nodes), generator=torch.Generator().manual_seed(seed))
        guide = Guide(TableScorer(drawn.float()), 9, rule=rule, weight=0.5, levels=levels)
        results = beam_search(backend, prompts, constraint, BLOCKS, num_beams=4, guide=guide)
        for user, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
            items, kept = obvious_guided(backend, prompt, names, guide, user, 4)
            assert result.items.tolist() == items
            assert (result.scores is None) == (levels is not None and 2 not in levels)
            for level, prefixes in enumerate(kept):
                spelled = nodes_to_prefixes(constraint, names, level)
                assert [spelled[int(node)] for node in result.kept[level]] == prefixes
            orders.add(tuple(items))
    assert len(orders) > 6


def test_the_rules_differ_where_scorer_and_policy_disagree() -> None:
    names, backend = random_names(40, 2), ScriptedBackend(2, coarse=False)
    constraint = TrieConstraint(names)
    table = torch.randn(1, constraint.num_nodes, generator=torch.Generator().manual_seed(0))
    lists = []
    for rule, weight in (("scorer", 1.0), ("sum", 1.0), ("sum", 0.1), ("scorer_then_policy", 1.0)):
        guide = Guide(TableScorer(table), 16, rule=rule, weight=weight)
        (found,) = beam_search(backend, [[1]], constraint, BLOCKS, num_beams=8, guide=guide)
        lists.append(tuple(found.items.tolist()))
    assert len(set(lists)) == 4
    assert set(lists[0]) == set(lists[3])  # the same were kept, another order


def test_the_scorer_alone_decides_among_the_proposed_prefixes() -> None:
    """With an oracle the truth is kept wherever it was proposed, with a negated oracle nowhere."""
    names, constraint_seed, kept_somewhere = random_names(50, 3), 5, 0
    constraint = TrieConstraint(names)
    for truth in range(50):
        for sign in (1.0, -1.0):
            table = torch.zeros(1, constraint.num_nodes)
            table[0, constraint.item_nodes[truth]] = sign
            scorer, backend = TableScorer(table), ScriptedBackend(constraint_seed, coarse=False)
            (result,) = beam_search(backend, [[1]], constraint, BLOCKS, num_beams=2, guide=Guide(scorer, 3))
            for level, asked in enumerate(scorer.asked):
                node = constraint.item_nodes[truth, level].item()
                proposed, kept = node in asked, node in result.kept[level]
                crowd = len(asked.unique())
                assert kept == (proposed if sign > 0 else proposed and crowd <= 2)
                kept_somewhere += kept
    assert kept_somewhere > 20


def test_a_pruner_sees_what_the_scorer_kept() -> None:
    names, backend = random_names(40, 2), ScriptedBackend(2, coarse=False)
    constraint = TrieConstraint(names)
    table = torch.randn(1, constraint.num_nodes, generator=torch.Generator().manual_seed(0))
    seen: list[list[int]] = []

    class KeepsAll:
        def keep(self, level: int, nodes: torch.Tensor, logps: torch.Tensor, *others: object) -> torch.Tensor:
            seen.append(sorted(nodes[logps > -torch.inf].tolist()))
            return torch.ones_like(nodes, dtype=torch.bool)

    options = {"num_beams": 3, "guide": Guide(TableScorer(table), 8)}
    (alone,) = beam_search(backend, [[1]], constraint, BLOCKS, **options)
    (both,) = beam_search(backend, [[1]], constraint, BLOCKS, pruner=KeepsAll(), **options)
    assert_same(alone, both)
    assert seen == [nodes.tolist() for nodes in alone.kept[:2]]


def test_padding_never_takes_the_place_of_a_path_with_a_lower_score() -> None:
    """Padding repeats a legal path, and its score; each user may get three items, and three are asked for."""
    names, backend = random_names(40, 1), ScriptedBackend(1)
    constraint = TrieConstraint(names)
    items = torch.randperm(40, generator=torch.Generator().manual_seed(2))[:30].view(10, 3)
    narrowing = constraint.narrow(torch.zeros(10, 40, dtype=torch.bool).scatter(1, items, True))
    table = torch.randn(10, constraint.num_nodes, generator=torch.Generator().manual_seed(3))
    results = beam_search(
        backend, [[user + 1] for user in range(10)], constraint, BLOCKS, num_beams=3,
        guide=Guide(TableScorer(table), 8), narrowing=narrowing,
    )  # fmt: skip
    assert [set(result.items.tolist()) for result in results] == [set(row) for row in items.tolist()]


def test_a_planted_drift_is_mended_by_the_scorer() -> None:
    """The policy ranks the true first code third, beyond two beams; below it, it is certain of the truth."""
    names = random_names(60, 0)
    constraint = TrieConstraint(names)
    truth = int(np.flatnonzero((names.codes == [2, 1, 3]).all(axis=1))[0])

    class Drifting(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            numbers = np.full(len(block), -3, dtype=np.float32)
            numbers[[0, 1, 2]] = [-0.5, -1.0, -1.5] if not path else numbers[:3]
            if path and path == tokens_of(names.codes[truth][: len(path)]):
                numbers[names.codes[truth][len(path)]] = -0.1
            return numbers

    table = torch.zeros(1, constraint.num_nodes)
    table[0, constraint.item_nodes[truth]] = 5.0
    (plain,) = beam_search(Drifting(0), [[1]], constraint, BLOCKS, num_beams=2)
    (guided,) = beam_search(
        Drifting(0), [[1]], constraint, BLOCKS, num_beams=2, guide=Guide(TableScorer(table), 4)
    )
    assert truth not in plain.items
    assert guided.items[0] == truth


def test_model_rows_do_not_depend_on_expand_width_and_scorer_rows_do() -> None:
    names = random_names(60, 0)
    constraint = TrieConstraint(names)
    model_rows, scorer_rows = [], []
    for expand_width in (3, 6, 12):
        backend, scorer = ScriptedBackend(0), TableScorer(torch.zeros(2, constraint.num_nodes))
        beam_search(backend, [[1], [2]], constraint, BLOCKS, num_beams=3, guide=Guide(scorer, expand_width))
        model_rows.append(backend.rows)
        scorer_rows.append(scorer.asked[-1].shape[1])
    assert model_rows == [12, 12, 12]  # 2 users x 3 beams x 2 steps
    assert scorer_rows == [3, 6, 12]
