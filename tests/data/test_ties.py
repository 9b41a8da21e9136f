"""Purchases of one user at one time: which ones they are, and what shuffling them may change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream.data.keep import Prepared, prepare, runs_of_ties
from gream.data.prepare import DataConfig, run
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.data.store import TEST, load_interactions


def source(times: list[tuple[str, str, int | None]]) -> Source:
    """Purchases (user, item, time) of the items a to h."""
    rows = [(user, item, time, None) for user, item, time in times]
    texts = [(item, item.upper(), "", "", [], None) for item in "abcdefgh"]
    return Source(
        pl.DataFrame(texts, schema=ITEM_SCHEMA, orient="row"),
        pl.DataFrame(rows, schema=PURCHASE_SCHEMA, orient="row"),
    )


def days(prepared: Prepared) -> list[list[tuple[int | None, str]]]:
    """Every user's purchases: time and item, in order."""
    ids, times = prepared.catalogue.item_ids, iter(prepared.timestamps.to_list())
    return [[(next(times), ids[item]) for item in items] for items in prepared.interactions.sequences]


def test_runs_are_neighbours_of_one_user_at_one_known_time() -> None:
    user = np.array([0, 0, 0, 1, 1, 1, 1, 2])
    times = pl.Series([5, 5, 6, 6, None, None, 7, 7])
    assert runs_of_ties(user, times).tolist() == [1, 1, 2, 3, 4, 5, 6, 7]


def test_shuffling_moves_purchases_within_their_time_and_nowhere_else() -> None:
    when = dict(zip("abcdefgh", [1, 1, 1, 1, 2, 3, 3, 3], strict=True))
    bought = [(user, item, day) for user in "pq" for item, day in when.items()]
    plain = days(prepare(source(bought), core=1, deduplicate=True))
    found = [
        days(prepare(source(bought), core=1, deduplicate=True, shuffle_ties=True, seed=seed))
        for seed in range(40)
    ]
    for shuffled in found:
        for before, after in zip(plain, shuffled, strict=True):
            assert [day for day, _ in after] == [day for day, _ in before]
            assert sorted(after) == sorted(before)
    assert {users[0][-1][1] for users in found} == set("fgh")  # of the last day, in some draw
    assert any(users[0] != users[1] for users in found)  # users are shuffled on their own
    again = days(prepare(source(bought), core=1, deduplicate=True, shuffle_ties=True, seed=3))
    assert again == found[3] and found[3] != plain


def test_the_split_follows_the_shuffled_order() -> None:
    bought = [("p", item, day) for item, day in zip("abcd", [1, 2, 2, 2], strict=True)]
    for seed in range(6):
        prepared = prepare(source(bought), core=1, deduplicate=True, shuffle_ties=True, seed=seed)
        assert prepared.interactions.splits[0].tolist() == [0, 0, 1, TEST]
        assert prepared.counts["targets_tied"] == 1


def test_tied_targets_are_counted() -> None:
    bought = [
        *[("p", item, day) for item, day in zip("abc", [1, 2, 2], strict=True)],
        *[("q", item, day) for item, day in zip("abc", [1, 1, 2], strict=True)],
        *[("r", item, day) for item, day in zip("abc", [2, None, None], strict=True)],
    ]
    assert prepare(source(bought), core=1, deduplicate=True).counts["targets_tied"] == 1


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_stage_shuffles_by_its_seed_and_tells_of_ties_otherwise(
    tmp_path: Path, shuffle: bool, caplog: pytest.LogCaptureFixture
) -> None:
    lines = [f"p{user},i{item},{item // 4}" for user in range(30) for item in range(8)]
    (tmp_path / "bought.csv").write_text("user,item,time\n" + "\n".join(lines) + "\n")
    caplog.set_level("INFO")
    for seed, output in ((0, "a"), (0, "b"), (1, "c")):
        config = DataConfig(
            run_dir=str(tmp_path), output=output, seed=seed, source="table",
            path=str(tmp_path / "bought.csv"),
            columns={"user": "user", "item": "item", "time": "time"}, core=1, shuffle_ties=shuffle,
        )  # fmt: skip
        run(config)
    a, b, c = ([s.tolist() for s in load_interactions(tmp_path / o).sequences] for o in "abc")
    assert a == b and (a == c) is not shuffle
    assert ("30 test purchases have the same time" in caplog.text) is not shuffle
