"""The search against slow obvious versions of itself, with numbers from a script instead of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gream.decoding.beam import Guide, beam_search
from gream.decoding.beams import best
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.paths import Narrowing
from tests.decoding.scripted import (
    BLOCKS,
    ScriptedBackend,
    TableScorer,
    assert_same,
    nodes_to_prefixes,
    obvious_beam,
    obvious_logp,
    random_names,
    tokens_of,
)


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


@pytest.mark.parametrize("num_beams", [1, 3, 40])
def test_every_item_comes_with_the_tokens_of_its_name(num_beams: int) -> None:
    names, backend = random_names(40, 2), ScriptedBackend(2)
    for result in beam_search(backend, [[1], [2]], TrieConstraint(names), BLOCKS, num_beams=num_beams):
        assert result.tokens is not None and len(result.items)
        assert list(map(tuple, result.tokens.tolist())) == [tokens_of(names.codes[i]) for i in result.items]


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
    results = beam_search(
        backend, prompts, constraint, BLOCKS, num_beams=30, narrowing=constraint.narrow(mask)
    )
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
        backend, [[1], [2]], constraint, BLOCKS, num_beams=5, narrowing=constraint.narrow(mask)
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
    backend.start = lambda prompts, keep_states: session  # type: ignore[method-assign]
    only, full = beam_search(
        backend,
        [[1], [2]],
        constraint,
        BLOCKS,
        num_beams=4,
        guide=Guide(scorer, 4),
        narrowing=constraint.narrow(mask),
    )
    assert only.items.tolist() == [3] and len(full.items) == 4
    assert set(session.paths[0]) == {tokens_of(names.codes[3][:2])}
    for level, asked in enumerate(scorer.asked):
        assert (asked[0] == constraint.item_nodes[3, level]).all()


def test_a_user_without_a_legal_item_raises() -> None:
    constraint = TrieConstraint(random_names(12, 0))
    with pytest.raises(InputError):
        constraint.narrow(torch.zeros(1, 12, dtype=torch.bool))
    none = Narrowing(torch.zeros(1, 13, dtype=torch.int32))
    with pytest.raises(ValueError, match="no legal path"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=2, narrowing=none)


def test_a_pruner_drops_beams_before_their_next_step() -> None:
    names, backend = random_names(60, 0), ScriptedBackend(0)
    constraint = TrieConstraint(names)

    class KeepsOneNode:
        levels: list[int] = []

        def keep(self, level: int, nodes: torch.Tensor, *others: object) -> torch.Tensor:
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
        def keep(self, level: int, nodes: torch.Tensor, *others: object) -> torch.Tensor:
            return torch.zeros_like(nodes, dtype=torch.bool)

    constraint = TrieConstraint(random_names(20, 0))
    with pytest.raises(ValueError, match="dropped every beam"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=4, pruner=DropsAll())


def test_a_pruner_that_keeps_padding_only_has_dropped_everything() -> None:
    class KeepsPadding:
        def keep(self, level: int, nodes: torch.Tensor, logps: torch.Tensor, *others: object) -> torch.Tensor:
            return logps == -torch.inf

    constraint = TrieConstraint(random_names(20, 0))
    one = constraint.narrow(torch.arange(20)[None] == 4)
    with pytest.raises(ValueError, match="dropped every beam"):
        beam_search(
            ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=4, pruner=KeepsPadding(), narrowing=one
        )


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_number_that_is_not_finite_raises_instead_of_hiding_an_item(level: int) -> None:
    class Broken(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            broken = np.full(len(block), np.nan, dtype=np.float32)
            return broken if len(path) == level else super().draw(prompt, path, block)

    with pytest.raises(ValueError, match="not finite"):
        beam_search(Broken(0), [[1]], TrieConstraint(random_names(20, 0)), BLOCKS, num_beams=2)


def test_a_score_that_is_not_finite_raises_except_that_of_padding() -> None:
    """User 0 may get one item, so that one of its three columns is real; the others have no finite score."""
    constraint = TrieConstraint(random_names(30, 1))
    mask = torch.ones(2, 30, dtype=torch.bool)
    mask[0, 1:] = False

    class Broken(TableScorer):
        def score(self, context: object, level: int, nodes: torch.Tensor) -> torch.Tensor:
            scores = super().score(context, level, nodes)
            if level == 1:
                scores[0, torch.arange(3) != self.finite] = torch.nan
            return scores

    found = []
    scorer = Broken(torch.zeros(2, constraint.num_nodes))
    for scorer.finite in range(3):
        try:
            found += beam_search(
                ScriptedBackend(1), [[1], [2]], constraint, BLOCKS, num_beams=3, guide=Guide(scorer, 3),
                narrowing=constraint.narrow(mask),
            )  # fmt: skip
        except ValueError as error:
            assert "scorer gave a score that is not finite" in str(error)
    assert len(found) == 2 and found[0].items.tolist() == [0]


def test_illegal_codes_need_no_finite_number() -> None:
    """Names with the first codes 0 and 2; an engine that rules the other codes out may say so."""
    names = Names(SidLayout((4, 3)), np.array([[2, 1], [0, 2], [0, 0]], dtype=np.int32))

    class Sparse(ScriptedBackend):
        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            numbers = np.full(len(block), -np.inf, dtype=np.float32)
            numbers[{(): [0, 2], (0,): [0, 2], (2,): [1]}[path]] = -1
            return numbers

    (found,) = beam_search(Sparse(0), [[9]], TrieConstraint(names), [range(0, 4), range(4, 7)], num_beams=3)
    assert found.items.tolist() == [0, 1, 2]


def test_widths_and_rules_that_do_not_fit_are_refused() -> None:
    constraint, scorer = TrieConstraint(random_names(20, 0)), TableScorer(torch.zeros(1, 1))
    with pytest.raises(InputError, match="at least 1"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=0)
    with pytest.raises(InputError, match="`expand_width` is 3"):
        beam_search(ScriptedBackend(0), [[1]], constraint, BLOCKS, num_beams=4, guide=Guide(scorer, 3))
    with pytest.raises(InputError, match="'product'"):
        Guide(scorer, 3, rule="product")


def test_an_empty_prompt_is_refused_and_no_prompts_give_no_results() -> None:
    constraint = TrieConstraint(random_names(20, 0))
    assert beam_search(ScriptedBackend(0), [], constraint, BLOCKS, num_beams=2) == []
    with pytest.raises(InputError, match="Prompt 1 has no tokens"):
        beam_search(ScriptedBackend(0), [[1], []], constraint, BLOCKS, num_beams=2)


@pytest.mark.parametrize("seed", range(20))
def test_the_best_columns_equal_a_sort_by_value_and_key(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-2, 3, (3, 11), generator=generator).float()
    values[values == -2] = -torch.inf
    keys = torch.stack([torch.randperm(11, generator=generator) for _ in range(3)])
    for width in (1, 4, 11, 15):
        for user, chosen in enumerate(best(values, width, keys).tolist()):
            order = sorted(range(11), key=lambda c: (-float(values[user, c]), int(keys[user, c])))
            assert chosen == sorted(order[:width], key=lambda c: int(keys[user, c]))
            leftmost = sorted(range(11), key=lambda c: (-float(values[user, c]), c))[:width]
            assert best(values, width)[user].tolist() == sorted(leftmost)


def test_paths_above_the_least_value_are_kept_before_illegal_ones_of_low_key() -> None:
    values, keys = torch.tensor([[-torch.inf, -1.0, -torch.inf]]), torch.tensor([[-1, 5, -1]])
    assert 1 in best(values, 2, keys)[0].tolist()
