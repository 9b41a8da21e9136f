"""Stage `data`: deduplication, k-core, splits, counts, and settings that cannot work."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream import artifacts
from gream.data.keep import Prepared, k_core, prepare
from gream.data.prepare import DataConfig, run
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.data.store import TEST, VALIDATION, load_catalogue, load_interactions
from gream.errors import InputError

REAL = Path(os.environ.get("GREAM_DATA", Path(__file__).parents[3] / "shared" / "data"))


def _source(purchases: str, items: str) -> Source:
    """`ax` is a purchase of item x by user a; every letter of `items` is an item."""
    rows = [(pair[0], pair[1], 100 + time, None) for time, pair in enumerate(purchases.split())]
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


def test_too_many_unusable_rows_are_an_error_and_leave_nothing_behind(tmp_path: Path) -> None:
    raw = _write_jsonl(tmp_path / "raw")
    with (raw / "sequences.jsonl").open("a") as handle:
        handle.write('{"user_id": "u9", "item_ids": [1\n' * 3)
    settings = {"run_dir": str(tmp_path / "run"), "source": "jsonl", "path": str(raw)}
    # 6 items, 6 users, 30 purchases and 3 broken lines.
    message = r"3 of 45 rows cannot be used, but at most 5% may be .*line 7.*raise `max_unusable`"
    with pytest.raises(InputError, match=message):
        run(DataConfig(**settings))
    assert list((tmp_path / "run").iterdir()) == []


def test_few_unusable_rows_are_told_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = _write_jsonl(tmp_path / "raw")
    with (raw / "sequences.jsonl").open("a") as handle:
        handle.write('{"user_id": "u9", "item_ids": [1\n' * 3)
    settings = {"run_dir": str(tmp_path / "run"), "source": "jsonl", "path": str(raw), "max_unusable": 0.07}
    with caplog.at_level("INFO", logger="gream"):
        run(DataConfig(**settings))
    assert any("3 of 45 rows left out, no complete JSON object" in line for line in caplog.messages)
    counts = artifacts.read_manifest(tmp_path / "run" / "data", stage="data").counts
    assert counts["rows_unusable"] == {"no complete JSON object": 3}
    assert counts["interactions"] == 30


def _by_part(prepared: Prepared) -> list[tuple[str, str]]:
    """Each user's items with the first letter of their part: ("a", "xT yT zV")."""
    ids, letters = prepared.catalogue.item_ids, "TVX"
    found = prepared.interactions
    return [
        (user, " ".join(ids[item] + letters[mark] for item, mark in zip(items, marks, strict=True)))
        for user, items, marks in zip(found.user_ids, found.sequences, found.splits, strict=True)
    ]


def test_temporal_split_cuts_everybody_at_the_same_time_and_keeps_short_users() -> None:
    source = _source("ax ay bx az bz cx cy cz dw ew", "wxyz")  # times 100 to 109
    prepared = prepare(source, core=1, deduplicate=True, split="temporal")
    assert _by_part(prepared) == [
        ("a", "xT yT zT"),
        ("b", "xT zT"),
        ("c", "xT yT zT"),
        ("d", "wV"),
        ("e", "wX"),
    ]
    assert prepared.counts["training_purchases"] == 8
    assert prepared.counts["test_purchases_without_history"] == 1
    assert prepared.interactions.cases(TEST) == []


def test_temporal_split_orders_by_time_whatever_the_source_says() -> None:
    source = _source("ax ay az bx by bz cx cy cz dx", "xyz")
    times = pl.Series([5, 1, 9, 3, 3, 2, 6, 7, 4, 8])
    source = Source(source.items, source.purchases.with_columns(timestamp=times))
    prepared = prepare(source, core=1, deduplicate=True, split="temporal")
    assert _by_part(prepared) == [("a", "yT xT zX"), ("b", "zT xT yT"), ("c", "zT xT yT"), ("d", "xV")]
    assert prepared.timestamps.to_list() == [1, 5, 9, 2, 3, 3, 4, 6, 7, 8]


def test_temporal_split_drops_and_counts_purchases_without_a_time() -> None:
    source = _source("ax ax ay bx by bz cx cy cz dx dy dz", "xyz")
    times = pl.Series([None, *range(1, 12)])
    source = Source(source.items, source.purchases.with_columns(timestamp=times))
    prepared = prepare(source, core=1, deduplicate=True, split="temporal")
    assert _by_part(prepared)[0] == ("a", "xT yT")  # the second purchase of x, whose time is known
    assert prepared.counts["interactions_dropped_without_time"] == 1
    assert prepared.counts["interactions_dropped_repeated"] == 0


def test_temporal_split_without_any_times_says_so() -> None:
    source = _source("ax ay bx by", "xy")
    source = Source(source.items, source.purchases.with_columns(timestamp=pl.lit(None, dtype=pl.Int64)))
    with pytest.raises(InputError, match=r"Nothing is left of 4 purchases .* dropping 4 without a time"):
        prepare(source, core=1, deduplicate=True, split="temporal")


@pytest.mark.parametrize("seed", range(6))
def test_nothing_to_learn_from_is_later_than_anything_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [f"{'abcdefgh'[rng.integers(8)]}{'pqrstuvwxyz'[rng.integers(11)]}" for _ in range(150)]
    source = _source(" ".join(pairs), "pqrstuvwxyz")
    times = pl.Series(rng.integers(0, 60, 150).tolist() if seed % 2 else rng.permutation(150).tolist())
    source = Source(source.items, source.purchases.with_columns(timestamp=times))
    prepared = prepare(source, core=2, deduplicate=bool(seed % 3), split="temporal")
    marks = np.concatenate(prepared.interactions.splits)
    kept = prepared.timestamps.to_numpy()
    assert kept[marks == 0].max() < kept[marks == 1].min() and kept[marks == 1].max() < kept[marks == 2].min()
    learnt = [items.tolist() for items in prepared.interactions.training_sequences()]
    for case in prepared.interactions.cases(TEST):
        assert case.history.tolist()[: len(learnt[case.user])] == learnt[case.user]
    for what in ("users", "items", "interactions"):
        dropped = sum(n for key, n in prepared.counts.items() if key.startswith(f"{what}_dropped"))
        assert prepared.counts[f"{what}_in"] == prepared.counts[what] + dropped


def test_simulator_can_be_split_by_time(tmp_path: Path) -> None:
    run(DataConfig(run_dir=str(tmp_path), num_items=120, num_customers=200, split="temporal"))
    read = load_interactions(tmp_path / "data")
    cases = read.cases(TEST)
    assert len({case.user for case in cases}) < len(cases) < 200 * 14 / 5  # some have several, most have none
    counts = artifacts.read_manifest(tmp_path / "data", stage="data").counts
    assert 0 < counts["best_reachable_recall@10"] < 1


def test_what_does_not_validate_is_learnt_from_and_the_questions_of_the_test_stay(tmp_path: Path) -> None:
    for output, users, seed in (("all", 0, 0), ("few", 7, 0), ("again", 7, 0)):
        shop = DataConfig(run_dir=str(tmp_path), num_items=120, num_customers=200, output=output, seed=seed)
        run(replace(shop, validation_users=users))
    everyone, few, again = (load_interactions(tmp_path / name) for name in ("all", "few", "again"))
    validating = {case.user for case in few.cases(VALIDATION)}
    assert len(validating) == 7 and validating == {case.user for case in again.cases(VALIDATION)}
    for user, (more, less) in enumerate(
        zip(few.training_sequences(), everyone.training_sequences(), strict=True)
    ):
        assert more.tolist() == few.sequences[user][: -2 if user in validating else -1].tolist()
        assert less.tolist() == few.sequences[user][:-2].tolist()
    assert [(c.user, c.history.tolist(), c.target) for c in few.cases(TEST)] == [
        (c.user, c.history.tolist(), c.target) for c in everyone.cases(TEST)
    ]


def test_reviews_of_kept_purchases_are_kept(tmp_path: Path) -> None:
    source = _source("ax ay az bx", "xyz")
    assert prepare(source, core=1, deduplicate=True).reviews is None
    texts = source.purchases.with_columns(review=pl.Series(["good", None, "bad", "gone"]))
    prepared = prepare(Source(source.items, texts), core=1, deduplicate=True)
    assert prepared.reviews is not None and prepared.reviews.to_list() == ["good", None, "bad"]


def test_stage_writes_reviews_where_the_source_has_some(tmp_path: Path) -> None:
    lines = [
        "who,sku,said",
        *(f"u{u},s{(u + step) % 4},text {u}{step}" for u in range(4) for step in range(3)),
    ]
    (tmp_path / "p.csv").write_text("\n".join(lines))
    columns = {"user": "who", "item": "sku", "review": "said"}
    for name, used in (("with", columns), ("without", {"user": "who", "item": "sku"})):
        path = str(tmp_path / "p.csv")
        run(DataConfig(run_dir=str(tmp_path / name), source="table", path=path, columns=used, core=3))
    rows = pl.read_parquet(tmp_path / "with" / "data" / "interactions.parquet")
    assert rows["review"].to_list() == [f"text {u}{step}" for u in range(4) for step in range(3)]
    assert "review" not in pl.read_parquet(tmp_path / "without" / "data" / "interactions.parquet").columns


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": "excel"}, r"`source` is 'excel'; choose one of `simulator`, `table`, `jsonl`"),
        ({"validation_users": -1}, "`validation_users` is -1"),
        ({"validation_users": 5, "split": "temporal"}, "`validation_users` is 5 and `split` is `temporal`"),
        ({"split": "random"}, r"`split` is 'random'; choose one of `leave_one_out`, `temporal`"),
        ({"max_unusable": 5.0}, r"`max_unusable` is 5\.0, but it is a share of rows; give 0 to 1"),
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
