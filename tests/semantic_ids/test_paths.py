"""What both constraints answer, ordered codes or not, against a loop over all names."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from gream.errors import InputError
from gream.semantic_ids import postings
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of, load_constraint, save_constraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.paths import Constraint
from gream.semantic_ids.postings import PostingConstraint

KINDS = ["ordered", "unordered", "unordered with a last level"]
Path_ = tuple[int, ...]  # columns of a path, in the order in which they were chosen


def draw(kind: str, seed: int, num_items: int = 23, sizes: tuple[int, ...] = (3, 5, 2, 4)) -> Names:
    codes = np.random.default_rng(seed).integers(sizes, size=(4 * num_items, len(sizes)))
    unique = np.random.default_rng(seed).permutation(np.unique(codes, axis=0))[:num_items]
    layout = SidLayout(sizes, ordered=kind == "ordered", disambiguation=kind.endswith("level"))
    return Names(layout, unique.astype(np.int32))


def all_paths(names: Names, level: int, seed: int) -> list[Path_]:
    """Paths of `level` codes that have an item, unordered ones in a few orders each."""
    layout = names.layout
    books: list[tuple[int, ...]] = [tuple(range(level))]
    if not layout.ordered:
        listed = layout.num_codebooks - layout.disambiguation
        books = list(itertools.permutations(range(listed), min(level, listed)))
        if level > listed:
            books = [(*chosen, listed) for chosen in books]
    offsets = (0,) * layout.num_codebooks if layout.ordered else layout.offsets
    found = {tuple(int(c[b]) + offsets[b] for b in chosen) for c in names.codes for chosen in books}
    chosen = np.random.default_rng(seed).permutation(len(found))[:12]
    return [sorted(found)[i] for i in chosen]


def node_of(constraint: Constraint, path: Path_) -> int:
    node = torch.zeros(1, 1, dtype=torch.int64)
    for level, column in enumerate(path):
        node = constraint.follow(node, torch.tensor([[column]]), level)
    return int(node)


def with_path(names: Names, path: Path_) -> list[int]:
    """Items whose names have all columns of a path; for ordered names as their first codes."""
    layout = names.layout
    if layout.ordered:
        return [i for i, codes in enumerate(names.codes.tolist()) if tuple(codes[: len(path)]) == path]
    columns = names.codes + np.asarray(layout.offsets)
    return [i for i, row in enumerate(columns.tolist()) if set(path) <= set(row)]


def columns_after(names: Names, path: Path_, items: list[int]) -> set[int]:
    layout = names.layout
    if layout.ordered:
        return {int(names.codes[item, len(path)]) for item in items}
    listed = layout.num_codebooks - (layout.disambiguation and len(path) < layout.num_codebooks - 1)
    columns = names.codes[items, :listed] + np.asarray(layout.offsets[:listed])
    used = np.searchsorted(layout.offsets, path, side="right") - 1
    return {int(c) for c in np.delete(columns, used, axis=1).ravel()}


@pytest.fixture(params=KINDS)
def names(request: pytest.FixtureRequest) -> Names:
    return draw(request.param, seed=3)


def test_legal_columns_equal_a_loop_over_all_names_with_and_without_a_subset(names: Names) -> None:
    constraint = constraint_of(names)
    mask = torch.from_numpy(np.random.default_rng(5).random((2, len(names))) < 0.4)
    narrowing = constraint.narrow(mask)
    for level in range(constraint.depth):
        paths = all_paths(names, level, level)
        nodes = torch.tensor([[-1, *(node_of(constraint, path) for path in paths)]] * 2)
        free, narrowed = constraint.legal(nodes, level), constraint.legal(nodes, level, narrowing)
        assert not free[:, 0].any() and not narrowed[:, 0].any()
        for user, (column, path) in itertools.product(range(2), enumerate(paths, start=1)):
            items = with_path(names, path)
            assert set(free[user, column].nonzero().flatten().tolist()) == columns_after(names, path, items)
            items = [item for item in items if mask[user, item]]
            found = set(narrowed[user, column].nonzero().flatten().tolist())
            assert found == columns_after(names, path, items)


def test_the_last_level_names_the_item_of_every_column(names: Names) -> None:
    constraint = constraint_of(names)
    mask = torch.from_numpy(np.random.default_rng(7).random((1, len(names))) < 0.5)
    for path in all_paths(names, constraint.depth - 1, 0):
        node = torch.tensor([[node_of(constraint, path)]])
        expected = {}
        for item in with_path(names, path):
            (column,) = columns_after(names, path, [item])
            expected[column] = item
        found = constraint.finish(node)[0, 0]
        assert {c: int(found[c]) for c in (found >= 0).nonzero().flatten().tolist()} == expected
        found = constraint.finish(node, constraint.narrow(mask))[0, 0]
        expected = {column: item for column, item in expected.items() if mask[0, item]}
        assert {c: int(found[c]) for c in (found >= 0).nonzero().flatten().tolist()} == expected


def test_following_illegal_columns_is_a_dead_path(names: Names) -> None:
    constraint = constraint_of(names)
    for level in range(constraint.depth):
        paths = all_paths(names, level, 1)
        nodes = torch.tensor([[node_of(constraint, path) for path in paths]])
        legal = constraint.legal(nodes, level)
        for column in range(legal.shape[2]):
            followed = constraint.follow(nodes, torch.full_like(nodes, column), level)
            allowed = legal[0, :, column]
            if not names.layout.ordered and names.layout.disambiguation and level < constraint.depth - 1:
                last = column >= names.layout.offsets[-1]
                if last:
                    continue  # never offered there; what it leads to does not matter
            assert ((followed[0] >= 0) == allowed).all()


def test_reach_and_holds_equal_counts_over_all_names(names: Names) -> None:
    constraint = constraint_of(names)
    mask = torch.from_numpy(np.random.default_rng(9).random((2, len(names))) < 0.6)
    targets = torch.tensor([4, 11])
    for level in range(constraint.depth):
        paths = all_paths(names, level + 1, level)
        nodes = torch.tensor([[node_of(constraint, path) for path in paths]] * 2)
        free, narrowed = (
            constraint.reach(nodes, level),
            constraint.reach(nodes, level, constraint.narrow(mask)),
        )
        holds = constraint.holds(nodes, level, targets)
        for user, (column, path) in itertools.product(range(2), enumerate(paths)):
            items = with_path(names, path)
            assert int(free[user, column]) == len(items)
            assert int(narrowed[user, column]) == sum(bool(mask[user, item]) for item in items)
            assert bool(holds[user, column]) == (int(targets[user]) in items)


def test_whole_names_translate_to_items_and_parts_do_not(names: Names) -> None:
    constraint = constraint_of(names)
    for item, codes in enumerate(names.codes.tolist()):
        assert constraint.item(codes) == item
        assert constraint.item(codes[:-1]) is None
    assert constraint.item([0, 0, 0, 99]) is None
    assert constraint.item_of(torch.tensor([[-1]])).tolist() == [[-1]]
    with pytest.raises(ValueError, match="unfinished path"):
        constraint.item_of(constraint.follow(torch.zeros(1, 1, dtype=torch.int64), torch.tensor([[0]]), 0))


def test_items_that_were_taken_out_are_gone_and_nodes_stay(names: Names) -> None:
    constraint = constraint_of(names)
    before = constraint.without([2, 5])
    smaller = before.without([7])
    assert before.item(names.codes[7].tolist()) == 7  # a constraint never changes
    left = torch.ones(1, len(names), dtype=torch.bool)
    left[0, [2, 5, 7]] = False
    narrowing = constraint.narrow(left)
    for level in range(constraint.depth):
        nodes = torch.tensor([[node_of(constraint, path) for path in all_paths(names, level, 2)]])
        assert torch.equal(smaller.legal(nodes, level), constraint.legal(nodes, level, narrowing))
    assert torch.equal(smaller.finish(nodes), constraint.finish(nodes, narrowing))
    assert torch.equal(smaller.reach(nodes, level - 1), constraint.reach(nodes, level - 1, narrowing))
    assert smaller.item(names.codes[5].tolist()) is None
    assert smaller.item(names.codes[6].tolist()) == 6
    with pytest.raises(InputError, match="user 0"):
        smaller.narrow(~left)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_added_items_give_what_a_build_of_all_names_gives(kind: str, seed: int) -> None:
    whole = draw(kind, seed, num_items=31)
    known = Names(whole.layout, whole.codes[:20])
    extended, rebuilt = constraint_of(known).without([3]).extended(whole), constraint_of(whole)
    for left, right in zip(extended.tensors().items(), rebuilt.tensors().items(), strict=True):
        assert left[0] == right[0] and torch.equal(left[1], right[1])
    assert extended.item(whole.codes[3].tolist()) is None  # taken out before
    assert [extended.item(codes) for codes in whole.codes[20:].tolist()] == list(range(20, 31))
    with pytest.raises(ValueError, match="do not begin"):
        rebuilt.extended(known)
    larger = SidLayout((3, 5, 2, 6), ordered=kind == "ordered", disambiguation=kind.endswith("level"))
    with pytest.raises(ValueError, match="do not begin"):
        constraint_of(known).extended(Names(larger, whole.codes))


def test_a_narrowing_can_repeat_and_reorder_its_users(names: Names) -> None:
    constraint = constraint_of(names)
    mask = torch.from_numpy(np.random.default_rng(1).random((3, len(names))) < 0.5)
    narrowing = constraint.narrow(mask).take([2, 0, 2])
    root = torch.zeros(3, 1, dtype=torch.int64)
    expected = constraint.legal(root, 0, constraint.narrow(mask[[2, 0, 2]]))
    assert torch.equal(constraint.legal(root, 0, narrowing), expected)


def test_an_empty_subset_is_refused(names: Names) -> None:
    mask = torch.zeros(2, len(names), dtype=torch.bool)
    mask[0, 1] = True
    with pytest.raises(InputError, match=f"user 1 of this request leaves none of {len(names)} items"):
        constraint_of(names).narrow(mask)


def test_a_stored_constraint_is_read_back_equal_and_refused_for_other_names(
    names: Names, tmp_path: Path
) -> None:
    save_constraint(tmp_path, names)
    loaded, built = load_constraint(tmp_path, names), constraint_of(names)
    assert type(loaded) is type(built)
    for left, right in zip(loaded.tensors().values(), built.tensors().values(), strict=True):  # type: ignore[attr-defined]
        assert torch.equal(left, right)
    root = torch.zeros(1, 1, dtype=torch.int64)
    assert torch.equal(loaded.legal(root, 0), built.legal(root, 0))
    other = Names(names.layout, names.codes[::-1].copy())
    with pytest.raises(InputError, match="made for other names"):
        load_constraint(tmp_path, other)
    assert load_constraint(tmp_path / "nowhere", names).num_items == len(names)


def test_what_is_stored_is_used_as_it_is(names: Names) -> None:
    stored = constraint_of(names).tensors()
    again = type(constraint_of(names))(names, stored=stored).tensors()
    assert all(again[key] is tensor for key, tensor in stored.items() if key != "level_starts")


def test_the_same_codes_in_another_order_are_one_node() -> None:
    """Its number: a bit for each codebook that is used, times the items, and the lowest item of the path."""
    names = draw("unordered", seed=3)
    constraint = PostingConstraint(names)
    columns = (names.codes[6] + np.asarray(names.layout.offsets)).tolist()
    for length in range(1, 5):
        nodes = {node_of(constraint, order) for order in itertools.permutations(columns[:length])}
        lowest = min(with_path(names, tuple(columns[:length])))
        assert nodes == {((1 << length) - 1) * 23 + lowest}
        codes = constraint.codes_of(torch.tensor([[nodes.pop()]]))[0, 0].tolist()
        assert codes == [*names.codes[6, :length].tolist(), *[-1] * (4 - length)]


def test_a_moved_constraint_answers_the_same(names: Names) -> None:
    constraint = constraint_of(names)
    moved = constraint.without([1]).to("cpu")
    assert moved.device == torch.device("cpu")
    root = torch.zeros(1, 1, dtype=torch.int64)
    assert torch.equal(moved.legal(root, 0), constraint.without([1]).legal(root, 0))


def test_items_are_taken_out_where_the_constraint_is(names: Names) -> None:
    """A mask that stays on the host cannot be used on a GPU."""
    elsewhere = constraint_of(names).to("meta").without([1]).without([2])
    tensors = [value for value in vars(elsewhere).values() if isinstance(value, torch.Tensor)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize("cells", [1, 60])
def test_first_codes_are_the_same_for_some_users_at_a_time(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23 items: one user, then two users at a time, of five."""
    constraint = PostingConstraint(draw("unordered with a last level", seed=3))
    narrowing = constraint.narrow(torch.from_numpy(np.random.default_rng(5).random((5, 23)) < 0.2))
    root = torch.zeros(5, 1, dtype=torch.int64)
    expected = constraint.legal(root, 0, narrowing)
    monkeypatch.setattr(postings, "ROOT_CELLS", cells)
    assert torch.equal(constraint.legal(root, 0, narrowing), expected)
    assert len({tuple(row) for row in expected[:, 0].tolist()}) == 5


def test_each_kind_of_names_is_refused_by_the_other_constraint() -> None:
    with pytest.raises(InputError, match="unordered ones"):
        PostingConstraint(draw("ordered", seed=0))
    with pytest.raises(InputError, match="a trie needs ordered ones"):
        TrieConstraint(draw("unordered", seed=0))
    none = Names(SidLayout((3, 4), ordered=False), np.zeros((0, 2), dtype=np.int32))
    with pytest.raises(InputError, match="Names of 0 items"):
        PostingConstraint(none)
