"""The trie of names: by hand, and against a dictionary of prefixes on random unequal codes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from gream.errors import InputError
from gream.semantic_ids.constraint import DeadPathError, TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout

# Four items, codebooks of 3 and 4. Sorted by code: item 2 (0,1), item 0 (0,3), item 3 (2,0), item 1 (2,1).
# Nodes: 0 root; 1 = (0), 2 = (2); leaves 3 = (0,1), 4 = (0,3), 5 = (2,0), 6 = (2,1).
HAND = Names(SidLayout((3, 4)), np.array([[0, 3], [2, 1], [0, 1], [2, 0]], dtype=np.int32))


def random_names(seed: int, sizes: tuple[int, ...], num_items: int) -> Names:
    generator = np.random.default_rng(seed)
    codes = np.stack([generator.integers(size, size=3 * num_items) for size in sizes], axis=1)
    unique = generator.permutation(np.unique(codes, axis=0))[:num_items]
    return Names(SidLayout(sizes), unique.astype(np.int32))


def slow_trie(names: Names) -> dict[tuple[int, ...], list[int]]:
    """Every prefix with its items, sorted."""
    prefixes: dict[tuple[int, ...], list[int]] = {}
    for item, codes in enumerate(names.codes.tolist()):
        for length in range(len(codes) + 1):
            prefixes.setdefault(tuple(codes[:length]), []).append(item)
    return prefixes


@pytest.fixture(params=[0, 1, 2])
def names(request: pytest.FixtureRequest) -> Names:
    sizes = [(3, 5, 2, 4), (7, 2, 6), (4, 9)][request.param]
    return random_names(request.param, sizes, num_items=23)


def test_nodes_are_numbered_breadth_first_in_the_order_of_codes() -> None:
    trie = TrieConstraint(HAND)
    assert (trie.num_nodes, trie.num_items, trie.depth) == (7, 4, 2)
    assert trie.item_nodes.tolist() == [[1, 4], [2, 6], [1, 3], [2, 5]]
    assert trie.node_codes.tolist() == [0, 0, 2, 1, 3, 0, 1]
    assert [trie.level_nodes(depth) for depth in range(3)] == [range(0, 1), range(1, 3), range(3, 7)]


def test_children_of_the_hand_worked_trie() -> None:
    trie = TrieConstraint(HAND)
    root = trie.children(torch.tensor([[0]]), 0)
    assert root.codes.tolist() == [[[0, 2]]]
    assert root.nodes.tolist() == [[[1, 2]]]
    below = trie.children(torch.tensor([[2, 1, -1]]), 1)
    assert below.codes.tolist() == [[[0, 1], [1, 3], [0, 0]]]
    assert below.nodes.tolist() == [[[5, 6], [3, 4], [-1, -1]]]
    assert below.legal.tolist() == [[[True, True], [True, True], [False, False]]]


def test_allowed_equals_a_dictionary_of_prefixes(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    for path in slow:
        following = sorted({longer[-1] for longer in slow if longer[:-1] == path and longer})
        assert trie.allowed(path).tolist() == following


def test_items_equal_a_dictionary_of_prefixes(names: Names) -> None:
    trie = TrieConstraint(names)
    for path, items in slow_trie(names).items():
        assert trie.items(path).tolist() == items


def test_every_prefix_has_its_own_node(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    assert sorted(trie.node(path) for path in slow) == list(range(trie.num_nodes))
    for item, codes in enumerate(names.codes.tolist()):
        prefixes = [trie.node(codes[: length + 1]) for length in range(trie.depth)]
        assert trie.item_nodes[item].tolist() == prefixes


def test_children_of_every_level_equal_allowed(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    for depth in range(trie.depth):
        paths = [path for path in slow if len(path) == depth]
        found = trie.children(torch.tensor([[trie.node(path) for path in paths]]), depth)
        widest = max(len(trie.allowed(path)) for path in paths)
        assert found.codes.shape == (1, len(paths), widest)
        for position, path in enumerate(paths):
            legal = found.legal[0, position]
            assert found.codes[0, position][legal].tolist() == trie.allowed(path).tolist()
            nodes = found.nodes[0, position][legal].tolist()
            assert nodes == [trie.node((*path, code)) for code in trie.allowed(path).tolist()]


def test_width_depends_on_the_level_and_not_on_the_beams() -> None:
    codes = np.array([[0, 0], [1, 0], [1, 1], [1, 2]], dtype=np.int32)
    trie = TrieConstraint(Names(SidLayout((2, 3)), codes))
    assert trie.children(torch.tensor([[1]]), 1).codes.shape == (1, 1, 3)


def test_complete_names_have_no_children() -> None:
    trie = TrieConstraint(HAND)
    assert trie.children(torch.tensor([[3, 6]]), 2).legal.shape == (1, 2, 0)
    assert trie.allowed((0, 3)).tolist() == []


def test_a_padding_beam_has_no_legal_child() -> None:
    found = TrieConstraint(HAND).children(torch.tensor([[1, -1], [-1, -1]]), 1)
    assert found.legal.any(dim=-1).tolist() == [[True, False], [False, False]]
    assert (found.nodes[~found.legal] == -1).all()


def test_alive_equals_brute_force(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    mask = torch.from_numpy(np.random.default_rng(5).random((3, len(names))) < 0.2)
    mask[:, 4] = True
    alive = trie.alive(mask)
    assert alive.shape == (3, trie.num_nodes)
    for user in range(3):
        for path, items in slow.items():
            assert bool(alive[user, trie.node(path)]) == any(bool(mask[user, item]) for item in items)


def test_narrowed_children_lead_to_allowed_items_only(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    mask = torch.from_numpy(np.random.default_rng(6).random((2, len(names))) < 0.3)
    mask[:, 1] = True
    alive = trie.alive(mask)
    found = trie.children(torch.zeros(2, 1, dtype=torch.long), 0, alive)
    for user in range(2):
        expected = sorted({p[0] for p, items in slow.items() if len(p) == 1 and mask[user, items].any()})
        assert found.codes[user, 0][found.legal[user, 0]].tolist() == expected
        assert trie.allowed((), alive[user]).tolist() == expected


def test_an_unknown_path_raises() -> None:
    trie = TrieConstraint(HAND)
    for path in [(1,), (0, 0), (2, 3), (0, 1, 0)]:
        with pytest.raises(DeadPathError, match="No item has the path"):
            trie.allowed(path)
        with pytest.raises(DeadPathError):
            trie.items(path)


def test_a_path_outside_the_subset_raises() -> None:
    trie = TrieConstraint(HAND)
    alive = trie.alive(torch.tensor([[False, True, False, False]]))
    with pytest.raises(DeadPathError, match="No allowed item has the path"):
        trie.allowed((0,), alive[0])


def test_an_empty_subset_is_refused() -> None:
    mask = torch.tensor([[True, False, False, False], [False] * 4])
    with pytest.raises(InputError, match="user 1 of this request leaves none of 4 items"):
        TrieConstraint(HAND).alive(mask)


def test_leaves_translate_to_items(names: Names) -> None:
    trie = TrieConstraint(names)
    assert trie.item_of(trie.item_nodes[:, -1]).tolist() == list(range(len(names)))
    assert trie.item_of(torch.tensor([[-1]])).tolist() == [[-1]]


def test_an_inner_node_is_no_item() -> None:
    with pytest.raises(ValueError, match="only a leaf is an item"):
        TrieConstraint(HAND).item_of(torch.tensor([2]))


def test_unordered_names_are_refused() -> None:
    names = Names(SidLayout((3, 4), ordered=False), HAND.codes)
    with pytest.raises(InputError, match="a trie needs ordered ones"):
        TrieConstraint(names)


def test_a_catalogue_without_items_is_refused() -> None:
    with pytest.raises(InputError, match="Names of 0 items"):
        TrieConstraint(Names(SidLayout((3, 4)), np.zeros((0, 2), dtype=np.int32)))


def test_a_moved_trie_answers_the_same() -> None:
    trie = TrieConstraint(HAND).to("cpu")
    assert trie.device == torch.device("cpu")
    assert trie.children(torch.tensor([[0]]), 0).nodes.tolist() == [[[1, 2]]]


def test_a_hundred_thousand_names_build_in_a_second_of_processor_time() -> None:
    names = random_names(0, (256, 256, 256), num_items=100_000)
    started = time.process_time()
    TrieConstraint(names)
    assert time.process_time() - started < 1.0
