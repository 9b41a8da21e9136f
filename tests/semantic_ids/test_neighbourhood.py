"""Nearest items and what names keep of them, against a slow obvious version."""

from __future__ import annotations

import numpy as np
import pytest

from gream.semantic_ids import neighbourhood
from gream.semantic_ids.neighbourhood import find_neighbours, neighbours_kept, shared_groups


def random_vectors(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 2, 7, 150])
def test_neighbours_are_the_nearest_by_cosine(count: int) -> None:
    vectors = random_vectors(1, count)
    found = find_neighbours(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for item, near in zip(found.items, found.nearest, strict=True):
        others = [other for other in range(count) if other != item]
        slow = sorted(others, key=lambda other: (-float(unit[item] @ unit[other]), other))
        assert near.tolist() == slow[:10]


def test_ties_go_to_the_lower_item() -> None:
    assert find_neighbours(np.ones((15, 3), np.float32)).nearest[12].tolist() == list(range(10))


def test_a_large_catalogue_is_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbourhood, "NUM_SAMPLED", 5)
    vectors = random_vectors(2, 40)
    first, second = find_neighbours(vectors), find_neighbours(vectors)
    assert first.items.tolist() == second.items.tolist() == sorted(set(first.items.tolist()))
    assert first.nearest.shape == (5, 10)


def test_all_neighbours_are_kept_by_the_vectors_themselves_and_few_by_others() -> None:
    vectors = random_vectors(3, 100)
    near = find_neighbours(vectors)
    assert neighbours_kept(near, vectors) == 1
    assert neighbours_kept(near, random_vectors(4, 100)) < 0.25


def test_shared_groups_by_hand() -> None:
    # Two tight pairs and one far away: every item of a pair has the other as its nearest.
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1]], np.float32)
    found = shared_groups(find_neighbours(vectors), np.array([[0], [0], [1], [1], [2]]))
    # Of 5 x 4 neighbours four share a group; a random other item shares it in 1 of 4 cases for four items.
    assert found == {"kept": pytest.approx(4 / 20), "chance": pytest.approx(4 / 5 * 1 / 4)}


def test_neighbours_of_some_items_are_those_they_have_among_all() -> None:
    vectors, items = random_vectors(5, 90), np.array([70, 3, 41])
    found = find_neighbours(vectors, items)
    assert found.items.tolist() == items.tolist()
    assert found.nearest.tolist() == find_neighbours(vectors).nearest[items].tolist()


def test_ties_of_many_items_go_to_the_lower_ones() -> None:
    vectors = np.tile(np.eye(3, dtype=np.float32), (100, 1))
    assert find_neighbours(vectors).nearest[299].tolist() == list(range(2, 32, 3))
