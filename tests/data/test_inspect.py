"""`gream data --inspect`: what it recognises, and recipes that really work on the same files."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.arguments import load_config
from gream.data.head import read_head
from gream.data.inspect import RECIPE_FILE, guess_columns, inspect, recipe
from gream.data.prepare import DataConfig, run
from gream.data.store import load_catalogue, load_interactions
from gream.errors import InputError

# Five users buy each of four items in turn; every format below tells the same shop.
BOUGHT = [
    (f"u{user}", f"i{(user + step) % 4}", 1_500_000_000 + 100 * step)
    for user in range(5)
    for step in range(4)
]
ITEMS = [f"i{number}" for number in range(4)]
TITLES = ["Title 0", "Title 1", "Title 2", "Title 3"]


def _lines(path: Path, *lines: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    raw = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def _ours(folder: Path) -> Path:
    _lines(folder / "items.jsonl", *({"item_id": i, "title": t} for i, t in zip(ITEMS, TITLES, strict=True)))
    users = [
        {"user_id": f"u{u}", "item_ids": [i for who, i, _ in BOUGHT if who == f"u{u}"]} for u in range(5)
    ]
    _lines(folder / "sequences.jsonl", *users)
    return folder


def _frame() -> pl.DataFrame:
    titles = dict(zip(ITEMS, TITLES, strict=True))
    rows = [(user, item, time, titles[item]) for user, item, time in BOUGHT]
    return pl.DataFrame(rows, schema=["Customer ID", "sku", "event_time", "Product.Name"], orient="row")


def _csv(folder: Path) -> Path:
    _frame().write_csv(folder / "p.csv")
    return folder / "p.csv"


def _tsv_packed(folder: Path) -> Path:
    return _lines(folder / "p.tsv.gz", _frame().write_csv(separator="\t").rstrip())


def _parquet(folder: Path) -> Path:
    _frame().with_columns(pl.from_epoch("event_time")).write_parquet(folder / "p.parquet")
    return folder / "p.parquet"


def _jsonl(folder: Path) -> Path:
    return _lines(folder / "p.jsonl", *_frame().to_dicts())


def _jsonl_packed(folder: Path) -> Path:
    return _lines(folder / "p.json.gz", *_frame().to_dicts())


def _amazon_old(folder: Path, *, literal: bool, **more: Any) -> Path:
    reviews = [
        {"reviewerID": u, "asin": i, "unixReviewTime": t, "reviewText": "ok", **more} for u, i, t in BOUGHT
    ]
    metadata = [{"asin": i, "title": t, "imUrl": "x"} for i, t in zip(ITEMS, TITLES, strict=True)]
    _lines(folder / "meta_Beauty.json.gz", *(repr(entry) if literal else entry for entry in metadata))
    _lines(folder / "meta_Beauty_Tools.json.gz", {"asin": "i0", "title": "of another set", "imUrl": "x"})
    name = "reviews_Beauty_5.json.gz" if literal else "Beauty.json.gz"
    return _lines(folder / name, *reviews)


def _amazon_2014(folder: Path) -> Path:
    return _amazon_old(folder, literal=True, helpful=[0, 0])


def _amazon_2018(folder: Path) -> Path:
    return _amazon_old(folder, literal=False, verified=True)


def _amazon_2023(folder: Path) -> Path:
    reviews = [
        {"user_id": u, "parent_asin": i, "asin": i, "timestamp": t * 1000, "text": "ok"} for u, i, t in BOUGHT
    ]
    metadata = [{"parent_asin": i, "title": t, "details": {}} for i, t in zip(ITEMS, TITLES, strict=True)]
    _lines(folder / "meta_Beauty.jsonl.gz", *metadata)
    return _lines(folder / "Beauty.jsonl.gz", *reviews)


def _movielens_1m(folder: Path) -> Path:
    _lines(folder / "movies.dat", *(f"{i}::{t}::Drama" for i, t in zip(ITEMS, TITLES, strict=True)))
    _lines(folder / "ratings.dat", *(f"{u}::{i}::5::{t}" for u, i, t in BOUGHT))
    return folder


def _movielens_100k(folder: Path) -> Path:
    _lines(folder / "u.genre", "unknown|0", "Drama|1", "")
    _lines(folder / "u.item", *(f"{i}|{t}|01-Jan-1995||x|0|1" for i, t in zip(ITEMS, TITLES, strict=True)))
    _lines(folder / "u.data", *(f"{u}\t{i}\t5\t{t}" for u, i, t in BOUGHT))
    return folder


def _recbole(folder: Path) -> Path:
    _lines(folder / "x.item", "item_id:token\ttitle:token_seq", *(f"{i}\tTitle {i[1]}" for i in ITEMS))
    header = "user_id:token\titem_id:token\ttimestamp:float"
    _lines(folder / "x.inter", header, *(f"{u}\t{i}\t{t}" for u, i, t in BOUGHT))
    return folder


def _lcrec(folder: Path) -> Path:
    users = {str(u): [int(i[1]) for who, i, _ in BOUGHT if who == f"u{u}"] for u in range(5)}
    _lines(folder / "x.item.json", {str(n): {"title": t} for n, t in enumerate(TITLES)})
    _lines(folder / "x.inter.json", users)
    _lines(folder / "x.user2id", *(f"u{u}\t{u}" for u in range(5)))
    _lines(folder / "x.item2id", *(f"i{n}\t{n}" for n in range(4)))
    return folder


def _minionerec(folder: Path) -> Path:
    header = ["user_id", "history_item_title", "item_title", "history_item_id", "item_id"]
    for split, last in (("train", 1), ("valid", 2), ("test", 3)):
        (folder / split).mkdir()
        with (folder / split / "x.csv").open("w", newline="") as handle:
            rows = csv.writer(handle)
            rows.writerow(header)
            for user in range(5):
                items = [item for who, item, _ in BOUGHT if who == f"u{user}"]
                titles = [TITLES[int(item[1])] for item in items]
                rows.writerow([f"u{user}", titles[:last], titles[last], items[:last], items[last]])
    return folder


FORMATS: list[tuple[Callable[[Path], Path], str, str]] = [
    (_ours, "", "gream's own JSONL"),
    (_ours, "sequences.jsonl", "gream's own JSONL"),
    (_ours, "items.jsonl", "gream's own JSONL"),
    (_csv, "", "CSV, 20 rows"),
    (_tsv_packed, "", "CSV, 20 rows"),
    (_parquet, "", "Parquet, 20 rows"),
    (_jsonl, "", "JSON lines, 20 rows"),
    (_jsonl_packed, "", "JSON lines, 20 rows"),
    (_amazon_2014, "", "reviews of Amazon Reviews 2014, 20 rows"),
    (_amazon_2018, "", "reviews of Amazon Reviews 2018, 20 rows"),
    (_amazon_2023, "", "reviews of Amazon Reviews 2023, 20 rows"),
    (_movielens_1m, "", "MovieLens-1M, 20 rows"),
    (_movielens_1m, "ratings.dat", "a file of MovieLens"),
    (_movielens_100k, "", "MovieLens-100K, 20 rows"),
    (_movielens_100k, "u.item", "a file of MovieLens"),
    (_recbole, "", "RecBole atomic files, 20 rows"),
    (_recbole, "x.item", "a RecBole atomic file"),
    (_lcrec, "", "LC-Rec JSON"),
    (_lcrec, "x.inter.json", "LC-Rec JSON"),
    (_minionerec, "", "MiniOneRec CSV, 5 rows"),
    (_minionerec, "test/x.csv", "MiniOneRec CSV, 5 rows"),
]


def _run_recipe(text: str, tmp_path: Path) -> Path:
    """Save the recipe that a text ends in, run it, and return the data folder."""
    head, _, printed = text.partition("\n\n# gream data")
    assert head.endswith(f"to be saved as {RECIPE_FILE}:")
    (tmp_path / RECIPE_FILE).write_text("# gream data" + printed)
    overrides = {"run_dir": str(tmp_path / "run"), "core": 3, "max_unusable": 0.0}
    run(load_config(DataConfig, tmp_path / RECIPE_FILE, overrides))
    return tmp_path / "run" / "data"


@pytest.mark.parametrize(
    ("write", "part", "what"), FORMATS, ids=lambda value: getattr(value, "__name__", value)
)
def test_printed_recipe_reads_the_same_files(
    tmp_path: Path, write: Callable[[Path], Path], part: str, what: str
) -> None:
    (tmp_path / "raw").mkdir()
    text = inspect(write(tmp_path / "raw") / part)
    assert what in text.splitlines()[0]
    folder = _run_recipe(text, tmp_path)
    catalogue, read = load_catalogue(folder), load_interactions(folder)
    titles = dict(zip(catalogue.item_ids, catalogue.titles, strict=True))
    assert titles == dict(zip(ITEMS, TITLES, strict=True))
    bought = {
        user: [catalogue.item_ids[item] for item in items]
        for user, items in zip(read.user_ids, read.sequences, strict=True)
    }
    assert bought == {f"u{u}": [i for who, i, _ in BOUGHT if who == f"u{u}"] for u in range(5)}


def test_columns_are_shown_with_missing_values_and_examples(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.csv", "user,item,note", "a,1,", "b,2,x", "c,3,", "d,4,")
    shown = inspect(path).splitlines()
    assert shown[0] == f"{path}: CSV, 4 rows"
    assert shown[1] == "  column  missing  examples, of the first 4 rows"
    assert shown[2:5] == [
        "  user         0%  'a', 'b', 'c'",
        "  item         0%  '1', '2', '3'",
        "  note        75%  'x'",
    ]


def test_columns_are_guessed_by_name_and_kept_only_where_their_values_fit(tmp_path: Path) -> None:
    rows = [
        "reviewer_id,ASIN,date,timestamp,Price,genres",
        "a,1,2024-01-01,soon,3,x",
        "b,2,2024-01-02,late,4,y",
    ]
    assert guess_columns(read_head(_lines(tmp_path / "p.csv", *rows))) == {
        "user": "reviewer_id", "item": "ASIN", "time": "date", "category": "genres", "price": "Price",
    }  # fmt: skip
    entries = [{"user": {"id": 1}, "uid": 7, "item": [1], "product": "x", "time": 1.5, "title": {}}]
    assert guess_columns(read_head(_lines(tmp_path / "p.jsonl", *entries))) == {
        "user": "uid", "item": "product", "time": "time",
    }  # fmt: skip


def test_users_and_items_that_no_name_tells_are_guessed_in_order_and_said_so(tmp_path: Path) -> None:
    text = inspect(_lines(tmp_path / "p.csv", "x,y,time", "a,1,5", "b,2,6"))
    assert "The column of the user is a guess" in text and "The column of the item is a guess" in text
    assert text.endswith("columns:\n  user: x\n  item: y\n  time: time\n")


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("meta_X.json", ["{'asin': '1', 'imUrl': 'x'}"], "metadata of Amazon Reviews, 1 rows"),
        ("meta_X.jsonl", ['{"parent_asin": "1", "details": {}}'], "inspect the file of reviews"),
        ("p.csv", ["lonely", "1"], "no columns that could be users and items"),
        ("notes.txt", ["hello", "world"], "text without columns, 2 rows\n  'hello'\n  'world'"),
        ("p.txt", ['{"user": "a", "item": "b"}'], "let it end in .jsonl or .ndjson or .json"),
        ("p.json", ["{'user': 'a', 'item': 'b'}"], "Python literals, 1 rows"),
    ],
)
def test_what_no_recipe_can_read_is_said_without_one(
    tmp_path: Path, name: str, lines: list[str], message: str
) -> None:
    text = inspect(_lines(tmp_path / name, *lines))
    assert message in text and "source:" not in text


def test_only_the_head_of_a_huge_file_is_read(tmp_path: Path) -> None:
    rows = [f"user{n % 977:04d},item{n % 31:03d}" for n in range(200_000)]
    for name in ("p.csv", "p.csv.gz"):
        text = inspect(_lines(tmp_path / name, "user,item", *rows))
        assert (
            ", about 200,000 rows" in text or ", about 210,000 rows" in text or ", about 190,000 rows" in text
        )
        assert "of the first 999 rows" in text  # the first of 1,000 lines is the header


def test_reviews_without_their_metadata_are_told(tmp_path: Path) -> None:
    path = _amazon_2023(tmp_path)
    (tmp_path / "meta_Beauty.jsonl.gz").unlink()
    text = inspect(path)
    assert "items will have no text" in text and "items_path" not in text


def test_folder_of_one_usable_file_is_that_file(tmp_path: Path) -> None:
    _csv(tmp_path)
    (tmp_path / "README.md").write_text("read me")
    assert f"path: {tmp_path / 'p.csv'}" in inspect(tmp_path)


def test_nothing_there_nothing_in_it_or_nothing_known_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x does not exist; give a file or a folder"):
        inspect(tmp_path / "x")
    with pytest.raises(InputError, match=r"no set that gream knows as a whole.*: no files"):
        inspect(tmp_path)
    (tmp_path / "empty.csv").write_bytes(b"\n \n")
    with pytest.raises(InputError, match=r"empty\.csv is empty"):
        inspect(tmp_path / "empty.csv")
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"user,item\na,1\n")[:-9])
    with pytest.raises(InputError, match=r"p\.csv\.gz ends early or is damaged"):
        inspect(tmp_path / "p.csv.gz")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"p\.parquet cannot be read"):
        inspect(tmp_path / "p.parquet")


HOSTILE = [
    "us: er, #{x}",
    "[1e5]",
    "1e5",
    "null",
    "- a\nb: c",
    "\u2028\x1b[31m",
    "${HOME}",
    "'\"",
    "!!python/object:os",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_and_file_names_stay_data(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw" / f"{name}.csv".replace("/", "_")
    frame = _frame().select("Customer ID", "sku", "event_time", "Product.Name")
    frame.rename({"Product.Name": "title", "sku": name, "event_time": "time"}).write_csv(path)
    text = inspect(path)
    assert "\x1b" not in text
    assert load_catalogue(_run_recipe(text, tmp_path)).titles == [TITLES[int(i[1])] for i in ITEMS]


def test_relative_path_with_a_tilde_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _csv(tmp_path).rename(tmp_path / "~p.csv")
    assert len(load_catalogue(_run_recipe(inspect(Path("~p.csv")), tmp_path))) == 4


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@settings(deadline=None)
@given(path=NAMES, user=NAMES, item=NAMES)
def test_any_text_in_a_recipe_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, path: str, user: str, item: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(
        recipe({"source": "table", "path": path, "columns": {"user": user, "item": item}}), "utf-8"
    )
    config = load_config(DataConfig, file)
    assert config.columns == {"user": user, "item": item}
    assert config.path == path or "${" in path
