"""Stage `data`: deduplication, k-core, leave-one-out, counts, and settings that cannot work."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream import artifacts
from gream.data.prepare import DataConfig, Prepared, k_core, prepare, run
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.data.store import TEST, load_catalogue, load_interactions
from gream.errors import InputError

REAL = Path(os.environ.get("GREAM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _source(purchases: str, items: str) -> Source:
    """`ax` is a purchase of item x by user a; every letter of `items` is an item."""
    rows = [(pair[0], pair[1], 100 + time) for time, pair in enumerate(purchases.split())]
    texts = [(item, item.upper(), "", "", [], None) for item in items]
    return Source(
        pl.DataFrame(texts, schema=ITEM_SCHEMA, orient="row"),
        pl.DataFrame(rows, schema=PURCHASE_SCHEMA, orient="row"),
    )


def _raw(prepared: Prepared) -> dict[str, str]:
    ids = prepared.catalogue.item_ids
    interactions = prepared.interactions
    return {
        user: "".join(ids[item] for item in items)
        for user, items in zip(interactions.user_ids, interactions.sequences, strict=True)
    }


def test_last_purchase_is_test_and_the_one_before_is_validation() -> None:
    prepared = prepare(_source("bx ay bz ax by az aw", "wxyz"), core=1, deduplicate=True)
    assert _raw(prepared) == {"b": "xzy", "a": "yxzw"}
    assert [marks.tolist() for marks in prepared.interactions.splits] == [[0, 1, 2], [0, 0, 1, 2]]


def test_dense_items_follow_the_item_file_and_users_their_first_purchase() -> None:
    prepared = prepare(_source("bx ay bz ax by az aw", "wqxyz"), core=1, deduplicate=True)
    assert prepared.catalogue.item_ids == ["w", "x", "y", "z"]
    assert prepared.interactions.user_ids == ["b", "a"]
    assert prepared.counts["items_dropped_never_bought"] == 1


def test_repeat_purchases_are_dropped_and_the_first_is_kept() -> None:
    source = _source("ax ay ax az ay", "xyz")
    prepared = prepare(source, core=1, deduplicate=True)
    assert _raw(prepared) == {"a": "xyz"}
    assert prepared.timestamps.to_list() == [100, 101, 103]
    assert prepared.counts["interactions_dropped_repeated"] == 2
    assert _raw(prepare(source, core=1, deduplicate=False)) == {"a": "xyxzy"}


def test_users_with_fewer_than_three_purchases_are_dropped_and_counted() -> None:
    prepared = prepare(_source("ax ay az bx by", "xyz"), core=1, deduplicate=True)
    assert _raw(prepared) == {"a": "xyz"}
    assert prepared.counts["users_dropped_short"] == 1
    assert prepared.counts["interactions_dropped_short_users"] == 2


def test_item_that_falls_below_the_core_with_a_short_user_leaves_too() -> None:
    # In the 2-core b has two purchases. Without b, item w is bought once; without w, nobody is short.
    source = _source("ax ay az cx cy cz aw bw bx", "wxyz")
    prepared = prepare(source, core=2, deduplicate=True)
    assert _raw(prepared) == {"a": "xyz", "c": "xyz"}
    assert prepared.catalogue.item_ids == ["x", "y", "z"]


def test_the_core_is_iterated() -> None:
    # w is bought once; without it c has one purchase; without c, z is bought once; a and b stay with x, y.
    user = np.array([0, 0, 1, 1, 2, 2, 0])
    item = np.array([0, 1, 0, 1, 3, 2, 2])
    kept = k_core(user, item, np.ones(7, dtype=bool), 2)
    assert kept.tolist() == [True, True, True, True, False, False, False]


def _slow_core(pairs: list[tuple[int, int]], core: int) -> list[tuple[int, int]]:
    """Remove one purchase at a time until everybody left has enough."""
    pairs = list(pairs)
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        weak = [pair for pair in pairs if users[pair[0]] < core or items[pair[1]] < core]
        if not weak:
            return pairs
        pairs.remove(weak[0])


@pytest.mark.parametrize("seed", range(8))
def test_core_equals_removing_one_purchase_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(13 * 9)[:45]
    user, item = pairs // 9, pairs % 9
    core = 2 + seed % 3
    kept = k_core(user, item, np.ones(len(pairs), dtype=bool), core)
    expected = _slow_core(list(zip(user.tolist(), item.tolist(), strict=True)), core)
    assert list(zip(user[kept].tolist(), item[kept].tolist(), strict=True)) == expected


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("core", [1, 2, 4])
def test_counts_account_for_everything_that_came_in(seed: int, core: int) -> None:
    rng = np.random.default_rng(seed)
    letters = "abcdefghijklmnopqrst"
    pairs = [letters[rng.integers(20)] + letters[rng.integers(12)] for _ in range(120)]
    counts = prepare(_source(" ".join(pairs), letters), core=core, deduplicate=True).counts
    for what in ("users", "items", "interactions"):
        dropped = sum(count for key, count in counts.items() if key.startswith(f"{what}_dropped"))
        assert counts[f"{what}_in"] == counts[what] + dropped


def test_nothing_left_says_so() -> None:
    with pytest.raises(InputError, match=r"Nothing is left of 3 purchases .* at least 5 .*lower `core`"):
        prepare(_source("ax ay az", "xyz"), core=5, deduplicate=True)


def test_no_purchase_at_all_is_nothing_left() -> None:
    with pytest.raises(InputError, match=r"Nothing is left of 0 purchases"):
        prepare(_source("", "xyz"), core=1, deduplicate=True)


def _write_jsonl(folder: Path) -> Path:
    folder.mkdir()
    items = [{"item_id": i, "title": f"Item {i}"} for i in range(6)]
    users = [{"user_id": f"u{u}", "item_ids": [(u + step) % 6 for step in range(5)]} for u in range(6)]
    for name, rows in (("items.jsonl", items), ("sequences.jsonl", users)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_stage_writes_a_folder_that_the_next_stage_reads(tmp_path: Path) -> None:
    raw = _write_jsonl(tmp_path / "raw")
    run(DataConfig(run_dir=str(tmp_path / "run"), source="jsonl", path=str(raw)))
    folder = tmp_path / "run" / "data"
    assert load_catalogue(folder).titles == [f"Item {i}" for i in range(6)]
    assert [case.target for case in load_interactions(folder).cases(TEST)] == [4, 5, 0, 1, 2, 3]
    counts = artifacts.read_manifest(folder, stage="data").counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (6, 6, 30)


def test_stage_reads_a_persons_own_csv(tmp_path: Path) -> None:
    lines = ["who,sku,name", *(f"u{u},s{(u + step) % 4},Name {u}" for u in range(4) for step in range(3))]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    columns = {"user": "who", "item": "sku", "title": "name"}
    path = str(tmp_path / "p.csv")
    run(DataConfig(run_dir=str(tmp_path / "run"), source="table", path=path, columns=columns, core=3))
    folder = tmp_path / "run" / "data"
    assert load_catalogue(folder).item_ids == ["s0", "s1", "s2", "s3"]
    assert load_interactions(folder).sequences[1].tolist() == [1, 2, 3]


def test_broken_input_leaves_nothing_behind(tmp_path: Path) -> None:
    raw = _write_jsonl(tmp_path / "raw")
    with (raw / "sequences.jsonl").open("a") as handle:
        handle.write('{"user_id": "u9", "item_ids": [1')
    with pytest.raises(InputError, match=r"sequences\.jsonl, line 7"):
        run(DataConfig(run_dir=str(tmp_path / "run"), source="jsonl", path=str(raw)))
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "excel"}, r"`source` is 'excel'; choose one of `simulator`, `jsonl`, `table`"),
        ({"core": 0}, r"`core` is 0; give at least 1"),
        ({"source": "jsonl"}, r"`path` is empty; `source: jsonl` reads files"),
        ({"source": "jsonl", "path": "not/there"}, r"not/there does not exist; correct `path`"),
        ({"source": "table", "path": "."}, r"`columns` lacks `user`, `item`"),
        (
            {"source": "table", "path": ".", "columns": {"user": "u", "item": "i", "titel": "t"}},
            r"`columns` has the unknown key `titel`; known keys: `user`",
        ),
        ({"num_items": 30}, r"`num_items` is 30, but the shop needs 120"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(DataConfig(run_dir=str(tmp_path), **settings))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "users", "items", "interactions", "unknown_times"),
    [("scientific", 8317, 4344, 58492, 0), ("beauty", 22363, 12101, 198502, 287)],
)
def test_published_sets_come_out_as_published(
    tmp_path: Path, name: str, users: int, items: int, interactions: int, unknown_times: int
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} does not exist; set GREAM_DATA to the folder of the real data")
    run(DataConfig(run_dir=str(tmp_path), source="jsonl", path=str(REAL / name)))
    counts = artifacts.read_manifest(tmp_path / "data", stage="data").counts
    assert (counts["users"], counts["items"], counts["interactions"]) == (users, items, interactions)
    assert counts["interactions_without_time"] == unknown_times
    raw = [json.loads(line) for line in (REAL / name / "sequences.jsonl").read_text().splitlines()]
    ids = load_catalogue(tmp_path / "data").item_ids
    read = load_interactions(tmp_path / "data")
    assert read.user_ids == [entry["user_id"] for entry in raw]
    for entry, case in zip(raw, read.cases(TEST), strict=True):
        assert [ids[item] for item in (*case.history, case.target)] == list(map(str, entry["item_ids"]))
