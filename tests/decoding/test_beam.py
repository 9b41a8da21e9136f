"""The search against slow obvious versions of itself, with numbers from a script instead of a model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gream.decoding.beam import BeamResult, beam_search
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout

SIZES = (4, 3, 5)
FIRST_TOKEN = 10
BLOCKS = [range(10, 14), range(14, 17), range(17, 22)]


def random_names(num_items: int, seed: int) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in SIZES], indexing="ij"), -1).reshape(-1, len(SIZES))
    chosen = np.random.default_rng(seed).permutation(len(every))[:num_items]
    return Names(SidLayout(SIZES), every[chosen].astype(np.int32))


class ScriptedBackend:
    """Log-probabilities as a table of (prompt, path). Coarse ones, so that sums often tie."""

    def __init__(self, seed: int, coarse: bool = True) -> None:
        self.seed, self.coarse = seed, coarse
        self.rows = 0  # beams that went through the "model"
        self.numbers = functools.cache(self.draw)

    def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
        rng = np.random.default_rng([self.seed, *prompt, 99, *path])
        if self.coarse:
            return -0.5 * rng.integers(1, 4, len(block)).astype(np.float32)
        return -rng.random(len(block)).astype(np.float32)

    def start(self, prompts: list[list[int]]) -> ScriptedSession:
        return ScriptedSession(self, prompts)


class ScriptedSession:
    def __init__(self, backend: ScriptedBackend, prompts: list[list[int]]) -> None:
        self.backend, self.prompts = backend, [tuple(prompt) for prompt in prompts]
        self.paths: list[list[tuple[int, ...]]] = [[()] for _ in prompts]

    def first(self, block: range) -> torch.Tensor:
        return torch.tensor(np.stack([self.backend.numbers(p, (), block) for p in self.prompts]))

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        self.backend.rows += tokens.numel()
        self.paths = [
            [paths[parent] + (token,) for parent, token in zip(of_user, added, strict=True)]
            for paths, of_user, added in zip(self.paths, parents, tokens.tolist(), strict=True)
        ]
        rows = [
            np.stack([self.backend.numbers(prompt, path, block) for path in paths])
            for prompt, paths in zip(self.prompts, self.paths, strict=True)
        ]
        return torch.tensor(np.stack(rows))


def tokens_of(codes: Sequence[int]) -> tuple[int, ...]:
    return tuple(block[int(code)] for block, code in zip(BLOCKS, codes, strict=False))  # a prefix is shorter


def obvious_logp(backend: ScriptedBackend, prompt: list[int], codes: Sequence[int]) -> np.float32:
    total = np.float32(0)
    for level, code in enumerate(codes):
        total += backend.numbers(tuple(prompt), tokens_of(codes[:level]), BLOCKS[level])[int(code)]
    return total


def obvious_beam(
    backend: ScriptedBackend, prompt: list[int], names: Names, num_beams: int
) -> tuple[list[int], list[list[tuple[int, ...]]]]:
    """Beam search over sorted Python lists: the items, best first, and the prefixes kept at each level."""
    item_of = {tuple(map(int, codes)): item for item, codes in enumerate(names.codes)}
    kept: list[list[tuple[int, ...]]] = []
    beams: list[tuple[int, ...]] = [()]
    for level in range(len(SIZES)):
        prefixes = sorted({codes[: level + 1] for codes in item_of if codes[:level] in beams})
        last = level == len(SIZES) - 1
        prefixes.sort(key=lambda p: (-obvious_logp(backend, prompt, p), item_of[p] if last else p))
        beams = prefixes[:num_beams]
        kept.append(sorted(beams))
    return [item_of[codes] for codes in beams], kept


def nodes_to_prefixes(constraint: TrieConstraint, names: Names, level: int) -> dict[int, tuple[int, ...]]:
    nodes = constraint.item_nodes[:, level].tolist()
    return {node: tuple(map(int, codes[: level + 1])) for node, codes in zip(nodes, names.codes, strict=True)}


class TableScorer:
    """A score for every (user, node); it remembers what it was asked."""

    def __init__(self, table: torch.Tensor) -> None:
        self.table = table  # (B, num_nodes)
        self.asked: list[torch.Tensor] = []

    def context(self, histories: list[Sequence[int]]) -> object:
        return None

    def score(self, context: object, level: int, nodes: torch.Tensor) -> torch.Tensor:
        self.asked.append(nodes.clone())
        return self.table.gather(1, nodes)


def assert_same(left: BeamResult, right: BeamResult) -> None:
    np.testing.assert_array_equal(left.items, right.items)
    np.testing.assert_array_equal(left.logps, right.logps)
    for a, b in zip(left.kept, right.kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(10))
def test_with_as_many_beams_as_items_the_search_ranks_the_whole_catalogue(seed: int) -> None:
    names, backend, prompts = random_names(23, seed), ScriptedBackend(seed), [[1], [2, 3]]
    results = beam_search(backend, prompts, TrieConstraint(names), BLOCKS, num_beams=len(names))
    for prompt, result in zip(prompts, results, strict=True):
        logps = np.array([obvious_logp(backend, prompt, codes) for codes in names.codes])
        order = np.lexsort((np.arange(len(names)), -logps))
        np.testing.assert_array_equal(result.items, order)
        np.testing.assert_array_equal(result.logps, logps[order])


@pytest.mark.parametrize("num_beams", [1, 2, 3, 7])
@pytest.mark.parametrize("seed", range(15))
def test_narrow_beams_equal_a_search_over_python_lists_with_ties(seed: int, num_beams: int) -> None:
    names, backend, prompts = random_names(29, seed), ScriptedBackend(seed), [[1], [2], [3, 4]]
    constraint = TrieConstraint(names)
    results = beam_search(backend, prompts, constraint, BLOCKS, num_beams=num_beams)
    for prompt, result in zip(prompts, results, strict=True):
        items, kept = obvious_beam(backend, prompt, names, num_beams)
        assert result.items.tolist() == items
        assert result.logps.dtype == np.float32 and result.scores is None
        for level, prefixes in enumerate(kept):
            spelled = nodes_to_prefixes(constraint, names, level)
            assert [spelled[int(node)] for node in result.kept[level]] == prefixes


def test_a_fixed_case_worked_by_hand() -> None:
    """Items 0 = (0, 1), 1 = (0, 0), 2 = (1, 0); first codes cost 1 and 2, second codes 1 and 1.

    Sums: item 0 -2, item 1 -2, item 2 -3; the tie goes to item 0 although its leaf comes later in the trie.
    """

    class Fixed(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            return np.array([-1, -1] if path else [-1, -2], dtype=np.float32)

    names = Names(SidLayout((2, 2)), np.array([[0, 1], [0, 0], [1, 0]], dtype=np.int32))
    blocks = [range(0, 2), range(2, 4)]
    (result,) = beam_search(Fixed(0), [[9]], TrieConstraint(names), blocks, num_beams=2)
    assert result.items.tolist() == [0, 1]
    assert result.logps.tolist() == [-2.0, -2.0]
    (single,) = beam_search(Fixed(0), [[9]], TrieConstraint(names), blocks, num_beams=1)
    assert single.items.tolist() == [0]


def test_every_user_of_a_batch_gets_what_it_gets_alone() -> None:
    names, backend, prompts = random_names(31, 0), ScriptedBackend(4), [[1], [2], [3], [4]]
    constraint = TrieConstraint(names)
    together = beam_search(backend, prompts, constraint, BLOCKS, num_beams=4)
    for prompt, result in zip(prompts, together, strict=True):
        assert_same(result, beam_search(backend, [prompt], constraint, BLOCKS, num_beams=4)[0])


@pytest.mark.parametrize("seed", range(8))
def test_only_alive_items_come_back_and_they_equal_the_filtered_ranking(seed: int) -> None:
    names, backend, prompts = random_names(30, seed), ScriptedBackend(seed, coarse=False), [[1], [2], [3]]
    constraint = TrieConstraint(names)
    mask = torch.zeros(3, 30, dtype=torch.bool)
    mask[0, [4]] = True
    mask[1, [0, 7, 8, 29]] = True
    mask[2] = torch.rand(30, generator=torch.Generator().manual_seed(seed)) < 0.5
    results = beam_search(backend, prompts, constraint, BLOCKS, num_beams=30, alive=constraint.alive(mask))
    for user, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        alive = mask[user].nonzero().flatten().tolist()
        ranked = sorted(alive, key=lambda item: -obvious_logp(backend, prompt, names.codes[item]))
        assert result.items.tolist() == ranked


def test_a_user_with_fewer_legal_items_than_beams_gets_a_shorter_list() -> None:
    names, backend = random_names(30, 1), ScriptedBackend(1)
    constraint = TrieConstraint(names)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, [3, 11]] = True
    mask[1] = True
    short, full = beam_search(
        backend, [[1], [2]], constraint, BLOCKS, num_beams=5, alive=constraint.alive(mask)
    )
    assert sorted(short.items.tolist()) == [3, 11] and len(short.logps) == 2
    assert np.isfinite(short.logps).all()
    assert all(len(nodes) <= 2 for nodes in short.kept)
    assert len(full.items) == 5


def test_engine_and_scorer_see_only_real_legal_paths_where_a_user_has_few() -> None:
    names, backend = random_names(30, 1), ScriptedBackend(1)
    constraint = TrieConstraint(names)
    mask = torch.zeros(2, 30, dtype=torch.bool)
    mask[0, 3] = True
    mask[1] = True
    scorer = TableScorer(torch.zeros(2, constraint.num_nodes))
    session = backend.start([[1], [2]])
    backend.start = lambda prompts: session  # type: ignore[method-assign]
    only, full = beam_search(
        backend, [[1], [2]], constraint, BLOCKS, num_beams=4, scorer=scorer, alive=constraint.alive(mask)
    )
    assert only.items.tolist() == [3] and len(full.items) == 4
    assert set(session.paths[0]) == {tokens_of(names.codes[3][:2])}
    for level, asked in enumerate(scorer.asked):
        assert (asked[0] == constraint.item_nodes[3, level]).all()


def test_a_user_without_a_legal_item_raises() -> None:
    constraint = TrieConstraint(random_names(12, 0))
    with pytest.raises(InputError):
        constraint.alive(torch.zeros(1, 12, dtype=torch.bool))
    none = torch.zeros(1, constraint.num_nodes, dtype=torch.bool)
    with pytest.raises(ValueError, match="no legal path"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=2, alive=none)


@pytest.mark.parametrize("seed", range(10))
def test_with_expand_width_equal_to_beams_a_scorer_changes_the_order_only(seed: int) -> None:
    names, backend, prompts = random_names(40, seed), ScriptedBackend(seed), [[1], [2]]
    constraint = TrieConstraint(names)
    table = torch.randn(2, constraint.num_nodes, generator=torch.Generator().manual_seed(seed))
    plain = beam_search(backend, prompts, constraint, BLOCKS, num_beams=6)
    guided = beam_search(backend, prompts, constraint, BLOCKS, num_beams=6, scorer=TableScorer(table))
    for user, (a, b) in enumerate(zip(plain, guided, strict=True)):
        for left, right in zip(a.kept, b.kept, strict=True):
            np.testing.assert_array_equal(left, right)
        assert set(a.items.tolist()) == set(b.items.tolist())
        assert b.scores is not None and (np.diff(b.scores) <= 0).all()
        leaves = constraint.item_nodes[torch.tensor(b.items), -1]
        np.testing.assert_array_equal(b.scores, table[user, leaves].numpy())
        logps = [obvious_logp(backend, prompts[user], names.codes[item]) for item in b.items]
        np.testing.assert_array_equal(b.logps, logps)  # the scorer never changes the log-probability


def test_the_rule_sum_orders_by_log_probability_plus_score() -> None:
    names, backend = random_names(40, 2), ScriptedBackend(2, coarse=False)
    constraint = TrieConstraint(names)
    scorer = TableScorer(torch.randn(1, constraint.num_nodes, generator=torch.Generator().manual_seed(0)))
    search = {"num_beams": 8, "expand_width": 16, "scorer": scorer}
    (by_score,) = beam_search(backend, [[1]], constraint, BLOCKS, **search)
    (by_sum,) = beam_search(backend, [[1]], constraint, BLOCKS, rule="sum", **search)
    assert by_sum.scores is not None
    assert (np.diff(by_sum.logps + by_sum.scores) <= 0).all()
    assert set(by_sum.items.tolist()) == set(by_score.items.tolist())
    assert by_sum.items.tolist() != by_score.items.tolist()


def test_the_scorer_alone_decides_among_the_proposed_prefixes() -> None:
    """With an oracle the truth is kept wherever it was proposed, with a negated oracle nowhere."""
    names, constraint_seed, kept_somewhere = random_names(50, 3), 5, 0
    constraint = TrieConstraint(names)
    for truth in range(50):
        for sign in (1.0, -1.0):
            table = torch.zeros(1, constraint.num_nodes)
            table[0, constraint.item_nodes[truth]] = sign
            scorer, backend = TableScorer(table), ScriptedBackend(constraint_seed, coarse=False)
            (result,) = beam_search(
                backend, [[1]], constraint, BLOCKS, num_beams=2, expand_width=3, scorer=scorer
            )
            for level, asked in enumerate(scorer.asked):
                node = constraint.item_nodes[truth, level].item()
                proposed, kept = node in asked, node in result.kept[level]
                crowd = len(asked.unique())
                assert kept == (proposed if sign > 0 else proposed and crowd <= 2)
                kept_somewhere += kept
    assert kept_somewhere > 20


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
        Drifting(0), [[1]], constraint, BLOCKS, num_beams=2, expand_width=4, scorer=TableScorer(table)
    )
    assert truth not in plain.items
    assert guided.items[0] == truth


def test_model_rows_do_not_depend_on_expand_width_and_scorer_rows_do() -> None:
    names = random_names(60, 0)
    constraint = TrieConstraint(names)
    model_rows, scorer_rows = [], []
    for expand_width in (3, 6, 12):
        backend, scorer = ScriptedBackend(0), TableScorer(torch.zeros(2, constraint.num_nodes))
        beam_search(
            backend, [[1], [2]], constraint, BLOCKS, num_beams=3, expand_width=expand_width, scorer=scorer
        )
        model_rows.append(backend.rows)
        scorer_rows.append(scorer.asked[-1].shape[1])
    assert model_rows == [12, 12, 12]  # 2 users x 3 beams x 2 steps
    assert scorer_rows == [3, 6, 12]


def test_a_pruner_drops_beams_before_their_next_step() -> None:
    names, backend = random_names(60, 0), ScriptedBackend(0)
    constraint = TrieConstraint(names)

    class KeepsOneNode:
        levels: list[int] = []

        def keep(self, context: object, level: int, nodes: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
            self.levels.append(level)
            return nodes == nodes.max(dim=1, keepdim=True).values

    pruner = KeepsOneNode()
    (result,) = beam_search(backend, [[1]], constraint, BLOCKS, num_beams=4, pruner=pruner)
    assert pruner.levels == [0, 1]  # never after the last level
    assert [len(nodes) for nodes in result.kept[:2]] == [1, 1]
    assert backend.rows == 2
    assert (names.codes[result.items, 0] == 3).all()


def test_a_pruner_that_drops_everything_raises() -> None:
    class DropsAll:
        def keep(self, context: object, level: int, nodes: torch.Tensor, logps: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(nodes, dtype=torch.bool)

    constraint = TrieConstraint(random_names(20, 0))
    with pytest.raises(ValueError, match="dropped every beam"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=4, pruner=DropsAll())


def test_a_number_that_is_not_finite_raises_instead_of_hiding_an_item() -> None:
    class Broken(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            return np.full(len(block), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="not finite"):
        beam_search(Broken(0), [[1]], TrieConstraint(random_names(20, 0)), BLOCKS, num_beams=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "at least 1"),
        (
            {"num_beams": 4, "expand_width": 3, "scorer": TableScorer(torch.zeros(1, 1))},
            "`expand_width` is 3",
        ),
        ({"num_beams": 4, "expand_width": 8}, "no scorer"),
        ({"num_beams": 4, "rule": "product"}, "'product'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        beam_search(ScriptedBackend(0), [[1]], TrieConstraint(random_names(20, 0)), BLOCKS, **options)


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_results() -> None:
    constraint = TrieConstraint(random_names(20, 0))
    assert beam_search(ScriptedBackend(0), [], constraint, BLOCKS, num_beams=2) == []
    with pytest.raises(InputError, match="Prompt 1 has no tokens"):
        beam_search(ScriptedBackend(0), [[1], []], constraint, BLOCKS, num_beams=2)
