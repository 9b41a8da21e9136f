"""Pruning by categories: values worked by hand, slow versions, and what a search loses and never loses."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from gream.decoding.beam import BeamResult, beam_search
from gream.decoding.consistency import (
    CategoryPruner,
    code_categories,
    item_categories,
    pair_agreement,
    pruning_quality,
    subtree_consistency,
)
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.paths import Constraint
from gream.semantic_ids.postings import PostingConstraint
from tests.decoding.scripted import BLOCKS, ScriptedBackend, assert_same, random_names

INF = torch.inf


def unordered_names(num_items: int, seed: int, sizes: tuple[int, ...] = (4, 3, 5, 3)) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(s) for s in sizes], indexing="ij"), -1).reshape(-1, len(sizes))
    chosen = np.random.default_rng(seed).permutation(len(every))[:num_items]
    return Names(SidLayout(sizes, ordered=False), every[chosen].astype(np.int32))


def either_names(ordered: bool, seed: int) -> tuple[Constraint, list[range]]:
    if ordered:
        return constraint_of(random_names(40, seed)), BLOCKS
    return constraint_of(unordered_names(90, seed)), [range(10, 25)] * 4


def categories_of(constraint: Constraint, seed: int, number: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, number, constraint.num_items)


def node_of(constraint: PostingConstraint, path: list[tuple[int, int]]) -> int:
    """The node of (codebook, code) pairs."""
    node = torch.zeros(1, 1, dtype=torch.int64)
    for level, (book, code) in enumerate(path):
        column = constraint.names.layout.offsets[book] + code
        node = constraint.follow(node, torch.full_like(node, column), level)
    return int(node)


def test_agreement_is_the_share_of_equal_pairs() -> None:
    """Of the pairs of (1, 1, 2) one of three agrees; -1 takes no part: (1, -1, 1) has one pair."""
    rows = torch.tensor([[1, 1, 1], [1, 1, 2], [0, 1, 2], [1, -1, 1], [1, -1, 2], [-1, 1, -1], [-1, -1, -1]])
    shares = [1, 1 / 3, 0, 1, 0, 1, 1]
    torch.testing.assert_close(pair_agreement(rows), torch.tensor(shares))
    assert pair_agreement(torch.tensor([[4]])).tolist() == [1.0]


def test_agreement_is_the_mean_of_the_papers_number_over_all_orders() -> None:
    """The paper's figure counts equal neighbours along the path: (30, 30, 30) has 2, (27, 30, 30) has 1."""
    for path, neighbours in [((30, 30, 30), 2), ((27, 30, 30), 1)]:
        assert sum(one == two for one, two in zip(path, path[1:], strict=False)) == neighbours
    for path in ((30, 30, 30), (27, 30, 30), (27, 30, 27, 12), (1, 1, 2, 2)):
        orders = list(permutations(path))
        means = [np.mean([a == b for a, b in zip(o, o[1:], strict=False)]) for o in orders]
        assert float(pair_agreement(torch.tensor([path]))) == pytest.approx(np.mean(means))


def test_a_code_has_the_most_frequent_category_of_its_items() -> None:
    """Code 0 of codebook 0: categories 2, 2, 0; code 1: 1 and none; a tie (2, 1, of codebook 1) is 1."""
    tokens = np.array([[0, 2], [0, 3], [0, 3], [1, 2], [1, 4]])
    categories = np.array([2, 2, 0, 1, -1])
    assert code_categories(tokens, categories, 6).tolist() == [2, 1, 1, 0, -1, -1]


def test_a_path_without_an_order_is_as_consistent_as_its_codes() -> None:
    """Items (0, 0, 0), (0, 1, 1), (1, 1, 0); categories 7, 7, 3.

    Codebook 0: code 0 is 7, code 1 is 3. Codebook 1: code 0 is 7, code 1 is 3 (a tie). Codebook 2: code 0
    is 3 (a tie), code 1 is 7. So the first item's name says 7, 7, 3.
    """
    names = Names(SidLayout((2, 2, 2), ordered=False), np.array([[0, 0, 0], [0, 1, 1], [1, 1, 0]], np.int32))
    constraint = PostingConstraint(names)
    pruner = CategoryPruner(constraint, np.array([7, 7, 3]), threshold=0.5)
    assert pruner.level == 1
    paths = [[(0, 0), (1, 0)], [(2, 0), (0, 0)], [(1, 1), (2, 1)], [(1, 1)], [(0, 0), (1, 0), (2, 0)]]
    nodes = torch.tensor([[node_of(constraint, path) for path in paths]])
    torch.testing.assert_close(pruner.consistency(nodes), torch.tensor([[1.0, 0.0, 0.0, 1.0, 1 / 3]]))


def test_a_disambiguation_code_has_no_say_and_moves_the_pruning_a_level_up() -> None:
    codes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [0, 1, 0]], np.int32)
    names = Names(SidLayout((2, 2, 2), ordered=False, disambiguation=True), codes)
    constraint = PostingConstraint(names)
    pruner = CategoryPruner(constraint, np.array([0, 0, 1, 1]), threshold=1.0)
    assert pruner.level == 0
    assert CategoryPruner(constraint, np.array([0, 0, 1, 1]), threshold=1.0, level=1).level == 1
    whole = node_of(constraint, [(0, 0), (1, 0), (2, 0)])  # 0 and 0 agree, whatever the last code's items are
    assert pruner.consistency(torch.tensor([[whole]])).tolist() == [[1.0]]


def test_the_entropy_of_a_prefix_by_hand() -> None:
    """Two of one category and two of another, of four in all: entropy log 2, as a share of log 4 a half."""
    nodes = np.array([[1, 3], [1, 4], [1, 5], [1, 6], [2, 7], [2, 8], [2, 9]])
    categories = np.array([0, 0, 3, 3, 1, 1, -1])
    table = subtree_consistency(nodes, categories, 10)
    six = [2 / 6, 2 / 6, 2 / 6]
    root = 1 + sum(p * np.log(p) for p in six) / np.log(4)
    np.testing.assert_allclose(table, [root, 0.5, 1, 1, 1, 1, 1, 1, 1, 1], rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_entropy_table_equals_a_slow_loop_over_prefixes(seed: int) -> None:
    names = random_names(45, seed)
    constraint, categories = TrieConstraint(names), np.random.default_rng(seed).integers(-1, 5, 45)
    categories[0] = 4  # so that all five are there
    pruner = CategoryPruner(constraint, categories, threshold=0.5)
    for item, codes in enumerate(names.codes):
        for level in range(3):
            below = categories[constraint.items(codes[: level + 1].tolist())]
            shares = np.array([np.mean(below[below >= 0] == c) for c in np.unique(below[below >= 0])])
            expected = 1 + (shares * np.log(shares)).sum() / np.log(5)
            found = pruner.consistency(constraint.item_nodes[item : item + 1, level : level + 1])
            assert float(found) == pytest.approx(expected, abs=1e-6)  # float32


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_of_zero_changes_nothing(ordered: bool, seed: int) -> None:
    constraint, blocks = either_names(ordered, seed)
    backend, prompts = ScriptedBackend(seed), [[1], [2, 3], [4]]
    pruner = CategoryPruner(constraint, categories_of(constraint, seed), threshold=0.0)
    plain = beam_search(backend, prompts, constraint, blocks, num_beams=5)
    pruned = beam_search(backend, prompts, constraint, blocks, num_beams=5, pruner=pruner)
    for one, two in zip(plain, pruned, strict=True):
        assert_same(one, two)
        assert all(len(nodes) == 0 for nodes in two.pruned)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_no_list_becomes_shorter_and_no_item_is_invented(ordered: bool, seed: int) -> None:
    """Users with all items, and with 7, 3 and 1 allowed; threshold 1, which drops whatever it may."""
    constraint, blocks = either_names(ordered, seed)
    backend, prompts = ScriptedBackend(seed), [[1], [2, 3], [4], [5]]
    mask = torch.zeros(4, constraint.num_items, dtype=torch.bool)
    for user, number in enumerate([constraint.num_items, 7, 3, 1]):
        mask[
            user, torch.randperm(constraint.num_items, generator=torch.Generator().manual_seed(seed))[:number]
        ] = True
    narrowing = constraint.narrow(mask)
    pruner = CategoryPruner(constraint, categories_of(constraint, seed), threshold=1.0, list_length=5)
    plain = beam_search(backend, prompts, constraint, blocks, num_beams=8, narrowing=narrowing)
    pruned = beam_search(
        backend, prompts, constraint, blocks, num_beams=8, narrowing=narrowing, pruner=pruner
    )
    assert sum(len(nodes) for result in pruned for nodes in result.pruned) > 0
    for user, (one, two) in enumerate(zip(plain, pruned, strict=True)):
        assert len(two.items) >= min(5, len(one.items)) and len(two.items) > 0
        assert mask[user, two.items].all() and len(set(two.items.tolist())) == len(two.items)
        for level in range(pruner.level + 1):  # up to the drop the same beams
            assert sorted([*two.kept[level], *two.pruned[level]]) == one.kept[level].tolist()


class OneLikesA(ScriptedBackend):
    """Every token costs 1 but token 10, code 0 of codebook 0, which costs nothing."""

    def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
        return np.array([0.0 if token == 10 else -1.0 for token in block], dtype=np.float32)


def test_a_planted_inconsistent_path_disappears_before_its_last_step() -> None:
    """Items 0 to 3 are of category 0 or 1 and consistent; item 4 is the most probable, and mixes both.

    Code 0 of codebook 0 is item 4's own, category 1; its code in codebook 1 is shared with items 0 and 1,
    category 0. After two codes the path disagrees, is dropped, and its child is never asked for.
    """
    codes = np.array([[1, 0, 0], [1, 0, 1], [2, 1, 2], [2, 1, 3], [0, 0, 2]], np.int32)
    names = Names(SidLayout((3, 2, 4), ordered=False), codes)
    constraint, categories = PostingConstraint(names), np.array([0, 0, 1, 1, 1])
    blocks = [range(10, 19)] * 3
    plain_engine, engine = OneLikesA(0), OneLikesA(0)
    (plain,) = beam_search(plain_engine, [[1]], constraint, blocks, num_beams=12)
    assert plain.items[0] == 4
    pruner = CategoryPruner(constraint, categories, threshold=1.0, list_length=2)
    (pruned,) = beam_search(engine, [[1]], constraint, blocks, num_beams=12, pruner=pruner)
    bad = node_of(constraint, [(0, 0), (1, 0)])
    assert bad in plain.kept[1] and bad in pruned.pruned[1] and bad not in pruned.kept[1]
    assert len(pruned.pruned[1]) > 0 and len(pruned.pruned[0]) == 0
    assert engine.rows == plain_engine.rows - len(pruned.pruned[1])


def test_dropped_paths_come_back_by_consistency_then_log_probability() -> None:
    """One user of a trie, six beams, the last of them padding; consistencies 0.2, 0.9, 0.2, 0.5, 0.5.

    With a threshold of 0.8 only the second stays, and reaches 2 items. For 3 items the fourth comes back: as
    consistent as the fifth, and likelier. For 6 the fifth too; for 9 of the two worst the likelier one.
    """
    constraint = TrieConstraint(random_names(40, 0))
    pruner = CategoryPruner(constraint, categories_of(constraint, 0), threshold=0.8, list_length=99)
    pruner._table = torch.tensor([0.2, 0.9, 0.2, 0.5, 0.5, 1.0])
    nodes = torch.arange(6)[None]
    logps = torch.tensor([[-5.0, -9.0, -1.0, -2.0, -3.0, -INF]])
    reach = torch.tensor([[4, 2, 2, 3, 3, 7]])
    expected = {
        1: [1],
        2: [1],
        3: [1, 3],
        5: [1, 3],
        6: [1, 3, 4],
        8: [1, 3, 4],
        9: [1, 2, 3, 4],
        11: [0, 1, 2, 3, 4],
    }
    for wanted, stay in expected.items():
        kept = pruner.keep(pruner.level, nodes, logps, reach, wanted)
        assert kept.nonzero()[:, 1].tolist() == stay, wanted
        short = CategoryPruner(constraint, categories_of(constraint, 0), threshold=0.8, list_length=1)
        short._table = pruner._table
        assert short.keep(short.level, nodes, logps, reach, wanted).nonzero()[:, 1].tolist() == [1]
    everywhere_else = pruner.keep(pruner.level - 1, nodes, logps, reach, 3)
    assert everywhere_else.nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_what_is_surely_within_reach_never_exceeds_the_different_items() -> None:
    """Paths of two codes of codebooks {0, 1}, {0, 2} ... share items; sets of items are the slow truth."""
    names = unordered_names(60, 3)
    constraint = PostingConstraint(names)
    pruner = CategoryPruner(constraint, categories_of(constraint, 3), threshold=0.5)
    rng = np.random.default_rng(0)
    for _ in range(20):
        nodes, below = [], []
        for item in rng.permutation(60)[:7]:
            books = rng.permutation(4)[:2]
            nodes.append(node_of(constraint, [(int(b), int(names.codes[item, b])) for b in books]))
            same = (names.codes[:, books] == names.codes[item, books]).all(axis=1)
            below.append(set(np.flatnonzero(same).tolist()))
        unique = sorted(set(nodes))
        table = torch.tensor([unique])
        reach = constraint.reach(table, 1)
        sure = pruner._within_reach(table, reach)[0].tolist()
        sets = [below[nodes.index(node)] for node in unique]
        assert reach[0].tolist() == [len(s) for s in sets]
        truth = [len(set().union(*sets[:place])) for place in range(len(sets))]
        assert all(s <= t for s, t in zip(sure, truth, strict=True)) and sure[-1] > 0


def test_categories_are_numbered_at_the_coarsest_depth_that_tells_items_apart() -> None:
    paths = [("shop", "ink", "red"), ("shop", "paper"), ("shop",), (), ("shop", "ink", "blue")]
    assert item_categories(paths).tolist() == [0, 1, -1, -1, 0]
    assert item_categories([("shop",), ("shop",)]).tolist() == [-1, -1]
    assert item_categories([]).tolist() == []


def result_of(kept: list[int], pruned: list[int]) -> BeamResult:
    """A search of three levels whose second level kept and dropped these nodes."""
    nothing = np.zeros(0, dtype=np.int64)
    nodes = np.asarray(kept, dtype=np.int64), np.asarray(pruned, dtype=np.int64)
    return BeamResult(nothing, nothing, None, (nothing, nodes[0], nothing), (nothing, nodes[1]))


def test_false_drops_are_counted_over_the_users_whose_target_was_held() -> None:
    """Items 0 (0, 0, 0), 1 (0, 0, 1), 2 (0, 1, 0), 3 (1, 0, 0); prefixes A (0, 0), B (0, 1), C (1, 0).

    User 0 wants 0: A stays. User 1 wants 2: B is dropped, wrongly. User 2 wants 3: C was never held. Seven
    beams, four drops, three of them right.
    """
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], np.int32)
    constraint = TrieConstraint(Names(SidLayout((2, 2, 2)), codes))
    a, b, c = (constraint.node(path) for path in ((0, 0), (0, 1), (1, 0)))
    results = [result_of([a], [b, c]), result_of([a], [b]), result_of([a], [b])]
    quality = pruning_quality(results, [0, 2, 3], constraint, 1)
    assert (quality.users, quality.targets_held, quality.targets_dropped) == (3, 2, 1)
    assert (quality.beams, quality.drops, quality.right_drops) == (7, 4, 3)
    assert (quality.false_prune_rate, quality.drop_precision) == (0.5, 0.75)
    nothing = pruning_quality([result_of([a], [])], [3], constraint, 1)
    assert (nothing.false_prune_rate, nothing.drop_precision) == (0.0, 1.0)


def test_a_target_is_not_lost_while_another_path_of_it_stays() -> None:
    """Item 0 of names without an order is held by two of its pairs of codes; one of them is dropped."""
    names = unordered_names(60, 1)
    constraint = PostingConstraint(names)
    pairs = [[(b, int(names.codes[0, b])) for b in books] for books in combinations(range(4), 2)]
    nodes = [node_of(constraint, pair) for pair in pairs]
    kept_one = pruning_quality([result_of(nodes[:1], nodes[1:2])], [0], constraint, 1)
    assert (kept_one.targets_held, kept_one.targets_dropped, kept_one.right_drops) == (1, 0, 0)
    lost = pruning_quality([result_of([], nodes[:2])], [0], constraint, 1)
    assert (lost.targets_held, lost.targets_dropped, lost.drops, lost.right_drops) == (1, 1, 2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold of pruning is 1.5; give a consistency between 0 and 1"),
        ({"threshold": 0.5, "level": 2}, "level of pruning is 2, but paths of 3 codes"),
        ({"threshold": 0.5, "level": -1}, "dropped after levels 0 to 1 only"),
    ],
)
def test_settings_that_make_no_sense_are_told(options: dict[str, float], message: str) -> None:
    constraint = TrieConstraint(random_names(40, 0))
    with pytest.raises(InputError, match=message):
        CategoryPruner(constraint, categories_of(constraint, 0), **options)  # type: ignore[arg-type]


def test_a_catalogue_without_categories_is_told() -> None:
    constraint = TrieConstraint(random_names(40, 0))
    with pytest.raises(InputError, match="no item of this catalogue has one"):
        CategoryPruner(constraint, np.full(40, -1), threshold=0.5)
