"""The trie of names: by hand, and against a dictionary of prefixes on random unequal codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gream.errors import InputError
from gream.semantic_ids import constraint
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout, sort_by_codes
from gream.semantic_ids.paths import DeadPathError

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
    assert [trie.level_nodes(depth) for depth in range(3)] == [range(0, 1), range(1, 3), range(3, 7)]


def test_columns_of_the_hand_worked_trie() -> None:
    trie = TrieConstraint(HAND)
    assert trie.legal(torch.tensor([[0]]), 0).tolist() == [[[True, False, True]]]
    assert trie.finish(torch.tensor([[2, 1, -1]])).tolist() == [[[3, 1, -1, -1], [-1, 2, -1, 0], [-1] * 4]]
    followed = trie.follow(torch.tensor([[2, 2, 1, -1]]), torch.tensor([[1, 2, 3, 0]]), 1)
    assert followed.tolist() == [[6, -1, 4, -1]]
    assert trie.reach(torch.tensor([[1, 2, -1]]), 0).tolist() == [[2, 2, 0]]


def test_allowed_equals_a_dictionary_of_prefixes(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    for path in slow:
        following = sorted({longer[-1] for longer in slow if longer[:-1] == path and longer})
        assert trie.allowed(path).tolist() == following


def test_items_equal_a_dictionary_of_prefixes(names: Names) -> None:
    trie = TrieConstraint(names)
    for path, items in slow_trie(names).items():
        assert trie.items(path).tolist() == items
        assert trie.item(path) == (items[0] if len(path) == trie.depth else None)


def test_every_prefix_has_its_own_node(names: Names) -> None:
    trie, slow = TrieConstraint(names), slow_trie(names)
    assert sorted(trie.node(path) for path in slow) == list(range(trie.num_nodes))
    for item, codes in enumerate(names.codes.tolist()):
        prefixes = [trie.node(codes[: length + 1]) for length in range(trie.depth)]
        assert trie.item_nodes[item].tolist() == prefixes


def test_stored_rows_and_lists_of_children_give_the_same_columns(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraint, "ROW_BYTES", 0)
    lists = TrieConstraint(names)
    monkeypatch.setattr(constraint, "ROW_BYTES", 10**6)
    rows = TrieConstraint(names)
    for level in range(rows.depth):
        nodes = torch.tensor([[-1, *rows.level_nodes(level)]])
        assert torch.equal(lists.legal(nodes, level), rows.legal(nodes, level))
    assert torch.equal(lists.finish(nodes), rows.finish(nodes))
    assert any("_rows_" in key and value is not None for key, value in vars(rows).items())
    assert vars(lists)[f"_rows_{lists.depth - 1}"] is None


def test_codes_too_many_for_one_number_are_sorted_all_the_same() -> None:
    sizes = (2**31,) * 3
    codes = np.random.default_rng(0).integers(3, size=(40, 3)).astype(np.int32)
    codes = np.unique(codes, axis=0)[::-1]
    expected = np.lexsort(codes.T[::-1])
    assert (
        sort_by_codes(codes, sizes).tolist() == sort_by_codes(codes, (3, 3, 3)).tolist() == expected.tolist()
    )


def test_an_unknown_path_raises() -> None:
    trie = TrieConstraint(HAND)
    for path in [(1,), (0, 0), (2, 3), (0, 1, 0)]:
        with pytest.raises(DeadPathError, match="No item has the path"):
            trie.allowed(path)
        with pytest.raises(DeadPathError):
            trie.items(path)


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
