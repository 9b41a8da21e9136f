"""Every item has one name, every name one item, whatever the vectors are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gream.errors import InputError
from gream.semantic_ids.collisions import name_new_items, unique_names
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.quantiser import SumQuantiser
from gream.semantic_ids.residual import residual_kmeans

LINE = SumQuantiser(
    "residual_kmeans",
    [np.array([[0.0], [10.0]], np.float32), np.array([[-1.0], [0.0], [1.0]], np.float32)],
)


def test_colliding_items_take_the_cheapest_different_last_codes() -> None:
    # Both items of prefix 0 want code 1 (centroid 0); item 1 is nearer to 1, so it moves to code 2.
    vectors = np.array([[0.1], [0.4], [10.0]], np.float32)
    names = unique_names(vectors, np.array([[0, 1], [0, 1], [1, 1]], np.int32), LINE)
    assert names.codes.tolist() == [[0, 1], [0, 2], [1, 1]]
    assert not names.layout.disambiguation


def test_groups_without_a_collision_keep_their_codes() -> None:
    # Code 0 is not the nearest of item 0, but balanced codes are left alone where nothing collides.
    codes = np.array([[0, 0], [0, 2], [1, 1]], np.int32)
    names = unique_names(np.array([[0.9], [0.0], [10.0]], np.float32), codes, LINE)
    assert names.codes.tolist() == codes.tolist()


def test_the_reassignment_costs_no_more_than_any_other() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.normal(size=(4, 2)).astype(np.float32)
    codebooks = [np.zeros((2, 2), np.float32), generator.normal(size=(6, 2)).astype(np.float32)]
    names = unique_names(vectors, np.zeros((4, 2), np.int32), SumQuantiser("x", codebooks))
    costs = ((vectors[:, None] - codebooks[1][None]) ** 2).sum(axis=-1)
    best = min(sum(costs[np.arange(4), list(p)]) for p in itertools.permutations(range(6), 4))
    assert costs[np.arange(4), names.codes[:, 1]].sum() == pytest.approx(best, rel=1e-5)


def test_too_large_a_group_gets_a_disambiguation_level() -> None:
    # Four items under prefix 0, three last codes: one code, the one that all are nearest to, gets two items.
    codes = np.array([[0, 1], [0, 1], [1, 0], [0, 2], [0, 1]], np.int32)
    names = unique_names(np.zeros((5, 1), np.float32), codes, LINE)
    assert names.layout == SidLayout((2, 3, 4), disambiguation=True)  # ranks 0 and 1, twice the room
    assert sorted(names.codes.tolist()) == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 2, 0], [1, 0, 0]]
    assert names.codes[2].tolist() == [1, 0, 0]


def test_disambiguation_codes_rise_with_the_item() -> None:
    names = unique_names(np.zeros((7, 1), np.float32), np.zeros((7, 2), np.int32), LINE)
    for code in range(3):
        ranks = names.codes[names.codes[:, 1] == code][:, 2].tolist()
        assert ranks == list(range(len(ranks)))


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("num_different", [1, 3, 40])
@pytest.mark.parametrize("sizes", [(4, 3), (7,), (2, 3, 5)])
def test_names_are_unique_even_for_identical_vectors(
    num_different: int, sizes: tuple[int, ...], balanced: bool
) -> None:
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(num_different, 3)).astype(np.float32)
    vectors = vectors[generator.integers(num_different, size=40)]
    codes, codebooks = residual_kmeans(vectors, sizes, balanced=balanced, seed=0)
    names = unique_names(vectors, codes, SumQuantiser("x", codebooks))
    assert len(np.unique(names.codes, axis=0)) == 40


def test_new_items_leave_the_old_names_alone() -> None:
    generator = np.random.default_rng(4)
    vectors = generator.normal(size=(25, 3)).astype(np.float32)
    codes, codebooks = residual_kmeans(vectors, (3, 4, 5), balanced=True, seed=0)
    names = unique_names(vectors, codes, SumQuantiser("x", codebooks))
    more = name_new_items(
        vectors[:10], SumQuantiser("x", codebooks), names
    )  # as hard as can be: copies of old items
    assert more.layout == names.layout
    assert more.codes[:25].tolist() == names.codes.tolist()
    assert len(np.unique(more.codes, axis=0)) == 35


def test_a_new_item_takes_the_nearest_free_name() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1], [1, 0], [1, 1], [1, 2]], np.int32))
    more = name_new_items(np.array([[0.2], [0.2]], np.float32), LINE, names)
    # Nearest is (0, 1), taken: (0, 2) for the first, and (0, 0) is left for the second.
    assert more.codes[4:].tolist() == [[0, 2], [0, 0]]


def test_a_new_item_is_named_by_what_each_level_leaves_over() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1]], np.int32))
    # 9 is nearest to 10, which leaves -1.
    assert name_new_items(np.array([[9.0]], np.float32), LINE, names).codes[1].tolist() == [1, 0]


def test_new_items_go_elsewhere_when_their_prefix_is_full() -> None:
    names = Names(SidLayout((2, 3)), np.array([[1, 0], [1, 1], [1, 2]], np.int32))
    more = name_new_items(np.array([[9.0]], np.float32), LINE, names)
    assert more.codes[3].tolist() == [0, 2]  # 9 is left over after centroid 0; the nearest last code is 1


def test_new_items_take_the_lowest_free_disambiguation_code() -> None:
    layout = SidLayout((2, 3, 4), disambiguation=True)
    names = Names(layout, np.array([[0, 1, 0], [0, 1, 2], [1, 1, 0]], np.int32))
    more = name_new_items(np.zeros((4, 1), np.float32), LINE, names)
    # Ranks 1 and 3 of (0, 1); then the nearest other last code, the lower of two at distance 1.
    assert more.codes[3:].tolist() == [[0, 1, 1], [0, 1, 3], [0, 0, 0], [0, 0, 1]]


def test_more_new_items_than_free_names_are_refused() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1], [1, 0], [1, 1], [1, 2]], np.int32))
    with pytest.raises(InputError, match="3 new items were given, but only 2 names are free"):
        name_new_items(np.zeros((3, 1), np.float32), LINE, names)


def test_a_new_item_whose_vector_is_no_number_is_refused() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1], [1, 0]], np.int32))
    with pytest.raises(InputError, match="new items: the embedding of item `1` holds NaN"):
        name_new_items(np.array([[0.0], [np.nan]], np.float32), LINE, names)


def test_no_new_items_change_nothing() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1], [1, 0]], np.int32))
    assert name_new_items(np.zeros((0, 1)), LINE, names).codes.tolist() == names.codes.tolist()


def test_unordered_names_stay_unordered() -> None:
    quantiser = SumQuantiser("opq", LINE.codebooks, parallel=True)
    names = unique_names(
        np.array([[0.1], [0.4], [10.0]], np.float32), np.array([[0, 1]] * 3, np.int32), quantiser
    )
    assert not names.layout.ordered
    assert sorted(names.codes[:, 1].tolist()) == [0, 1, 2]


def test_models_of_the_old_names_go_on_with_the_new_items() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1], [1, 0]], np.int32))
    more = name_new_items(np.array([[0.2]], np.float32), LINE, names)
    again = name_new_items(np.array([[9.0]], np.float32), LINE, more)
    assert names.fingerprint() == more.fingerprint() == again.fingerprint()
    assert len({n.checksum() for n in (names, more, again)}) == 3
    assert again.num_trained == 2


@pytest.mark.parametrize("seed", [2, 5, 7])
def test_a_group_as_large_as_the_last_codebook_is_still_named_at_least_cost(seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(5, 2)).astype(np.float32)
    book = np.random.default_rng(seed + 99).normal(size=(5, 2)).astype(np.float32)
    names = unique_names(vectors, np.zeros((5, 1), np.int32), SumQuantiser("x", [book]))
    costs = ((vectors[:, None] - book[None]) ** 2).sum(axis=-1)
    best = min(sum(costs[np.arange(5), list(p)]) for p in itertools.permutations(range(5)))
    assert costs[np.arange(5), names.codes[:, 0]].sum() == pytest.approx(best, rel=1e-5)


def test_every_new_item_is_named_by_its_own_codes() -> None:
    names = Names(SidLayout((2, 3)), np.array([[0, 1]], np.int32))
    # 0.9 is nearest to 0, which leaves 0.9; 9 is nearest to 10, which leaves -1.
    assert name_new_items(np.array([[0.9], [9.0]], np.float32), LINE, names).codes[1:].tolist() == [
        [0, 2],
        [1, 0],
    ]


def test_unordered_names_with_a_disambiguation_level_stay_unordered() -> None:
    quantiser = SumQuantiser("opq", LINE.codebooks, parallel=True)
    layout = unique_names(np.zeros((7, 1), np.float32), np.zeros((7, 2), np.int32), quantiser).layout
    assert layout == SidLayout((2, 3, 6), ordered=False, disambiguation=True)
