"""The reader of our own JSONL folders, and every way in which they can be wrong."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.recbole import read_recbole
from gream.data.sources import Source, clean_text, is_blank, read_jsonl
from gream.data.tables import read_table
from gream.errors import InputError

ITEMS = [
    {"item_id": 1, "title": "Salt &amp; Pepper", "brand": "", "categories": ["Kitchen", "Spice"]},
    {"item_id": "B2", "title": "", "brand": None, "categories": [], "price": 3},
    {"item_id": "007", "title": "Two\n lines", "description": "5&#39;", "brand": "K", "price": 2.5},
]
SEQUENCES = [
    {"user_id": "u", "item_ids": ["007", 1], "timestamps": [50, None]},
    {"user_id": 7, "item_ids": ["B2", "007", 1], "timestamps": [9, 3, 3]},
]


def _folder(tmp_path: Path, items: list[Any] = ITEMS, sequences: list[Any] = SEQUENCES) -> Path:
    for name, entries in (("items.jsonl", items), ("sequences.jsonl", sequences)):
        lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def _bought(source: Source) -> list[tuple[str, str, int | None]]:
    return source.purchases.select("user_id", "item_id", "timestamp").rows()


def test_jsonl_keeps_the_order_of_the_file_whatever_the_times_say(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path))
    assert _bought(source) == [
        ("u", "007", 50), ("u", "1", None), ("7", "B2", 9), ("7", "007", 3), ("7", "1", 3),
    ]  # fmt: skip


def test_jsonl_ids_become_text_and_items_keep_their_order(tmp_path: Path) -> None:
    assert read_jsonl(_folder(tmp_path)).items["item_id"].to_list() == ["1", "B2", "007"]


def test_jsonl_text_is_cleaned_and_missing_fields_are_empty(tmp_path: Path) -> None:
    items = read_jsonl(_folder(tmp_path)).items
    assert items["title"].to_list() == ["Salt & Pepper", "", "Two lines"]
    assert items["description"].to_list() == ["", "", "5'"]
    assert items["brand"].to_list() == ["", "", "K"]
    assert items["categories"].to_list() == [["Kitchen", "Spice"], [], []]
    assert items["price"].to_list() == [None, 3.0, 2.5]


def test_jsonl_counts_unknown_times_and_users_without_purchases(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path, sequences=[*SEQUENCES, {"user_id": "z", "item_ids": []}]))
    assert source.counts == {
        "users_without_purchases": 1,
        "interactions_without_time": 1,
        "prices_unreadable": 0,
    }
    assert source.unusable.total == 0


def test_jsonl_without_any_times_counts_none_as_unknown(tmp_path: Path) -> None:
    source = read_jsonl(_folder(tmp_path, sequences=[{"user_id": "u", "item_ids": [1]}]))
    assert source.counts["interactions_without_time"] == 0
    assert _bought(source) == [("u", "1", None)]


def test_blank_lines_are_no_lines(tmp_path: Path) -> None:
    assert len(read_jsonl(_folder(tmp_path, items=["", *ITEMS, "  "])).items) == 3


def test_text_that_is_no_valid_unicode_is_replaced() -> None:
    assert clean_text("a\ud800\u00a0&lt;b&gt;") == "a? <b>"


def test_unusable_lines_are_counted_by_reason_and_the_others_stay(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path,
        items=[*ITEMS, "[1]", '{"item_id": "cut', {"item_id": "1", "title": "again"}],
        sequences=[*SEQUENCES, SEQUENCES[0], '{"user_id": "v", "item_ids": [1'],
    )
    source = read_jsonl(folder)
    assert source.unusable.counts == {
        "no JSON object": 1,
        "no complete JSON object": 2,
        "item id given before": 1,
        "user id given before": 1,
    }
    assert source.items["title"][0] == "Salt & Pepper"  # the first of both
    assert len(source.items) == 3 and len(source.purchases) == 5
    assert source.unusable.rows == 6 + 4 + 5  # lines of both files, purchases of the usable lines
    places = source.unusable.shown["no complete JSON object"]
    assert [place.split(": ")[0].removeprefix(f"{folder}/") for place in places] == [
        "items.jsonl, line 5",
        "sequences.jsonl, line 4",
    ]


def test_line_that_is_not_utf8_is_named_by_number(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    (folder / "items.jsonl").write_bytes(b'{"item_id": "1"}\n{"item_id": "caf\xe9"}\n')
    [place] = read_jsonl(folder).unusable.shown["no complete JSON object"]
    assert place.startswith(f"{folder}/items.jsonl, line 2: ")


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"title": "x"}, "no item id"),
        ({"item_id": 1.5}, "no item id"),
        ({"item_id": True}, "no item id"),
        ({"item_id": "  "}, "no item id"),
        ({"item_id": "\ud800"}, "no item id"),
        ({"item_id": 1, "categories": "Kitchen"}, "categories that are no list of texts"),
        ({"item_id": 1, "title": 5}, "title, description or brand that is no text"),
    ],
)
def test_faulty_item_is_counted(tmp_path: Path, entry: Any, reason: str) -> None:
    source = read_jsonl(
        _folder(tmp_path, items=[entry, {"item_id": "ok"}], sequences=[{"user_id": "u", "item_ids": ["ok"]}])
    )
    assert source.unusable.counts == {reason: 1}
    assert source.unusable.shown[reason] == [f"{tmp_path}/items.jsonl, line 1"]
    assert source.items["item_id"].to_list() == ["ok"]


@pytest.mark.parametrize("price", ["$5", True, float("nan"), -1, 1e400, [2]])
def test_price_that_is_none_costs_only_the_price(tmp_path: Path, price: Any) -> None:
    source = read_jsonl(_folder(tmp_path, items=[*ITEMS, {"item_id": "x", "price": price}]))
    assert source.items["price"].to_list() == [None, 3.0, 2.5, None]
    assert source.counts["prices_unreadable"] == 1 and source.unusable.total == 0


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"user_id": "u"}, "no list of item ids"),
        ({"item_ids": [1]}, "no user id"),
        ({"user_id": "u", "item_ids": [1], "timestamps": []}, "not one time for each item id"),
    ],
)
def test_faulty_user_is_counted(tmp_path: Path, entry: Any, reason: str) -> None:
    source = read_jsonl(_folder(tmp_path, sequences=[entry, SEQUENCES[1]]))
    assert source.unusable.counts == {reason: 1}
    assert [user for user, _, _ in _bought(source)] == ["7", "7", "7"]


@pytest.mark.parametrize(
    ("item", "time", "reason"),
    [
        (None, 1, "no item id"),
        ("B3", 1, "item that the items file does not have"),
        (1, "x", "unreadable time"),
        (1, True, "unreadable time"),
        (1, float("nan"), "unreadable time"),
        (1, 10**400, "unreadable time"),
    ],
)
def test_faulty_purchase_is_counted_and_the_rest_of_its_line_stays(
    tmp_path: Path, item: Any, time: Any, reason: str
) -> None:
    entry = {"user_id": "u", "item_ids": ["B2", item, "007"], "timestamps": [1, time, 3]}
    source = read_jsonl(_folder(tmp_path, sequences=[entry]))
    assert source.unusable.counts == {reason: 1}
    assert source.unusable.shown[reason][0].startswith(f"{tmp_path}/sequences.jsonl, line 1: ")
    assert _bought(source) == [("u", "B2", 1), ("u", "007", 3)]


VALUES = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "b", "", " ", "\ud800"])
IDS = st.sampled_from(["a", "b", "c", 1, 2])
LINES = st.lists(
    st.sampled_from(["", "{", "[]", "nonsense", "{}"])
    | st.fixed_dictionaries(
        {}, optional={"item_id": IDS | VALUES, "title": VALUES, "categories": st.lists(VALUES) | VALUES}
    ).map(json.dumps),
    min_size=1,
)
USERS = st.lists(
    st.sampled_from(["", "{", "[]", "nonsense", "{}"])
    | st.fixed_dictionaries(
        {"user_id": VALUES | IDS, "item_ids": st.lists(IDS | VALUES) | VALUES},
        optional={"timestamps": st.lists(VALUES) | VALUES},
    ).map(json.dumps),
    min_size=1,
)


@settings(deadline=None)
@given(items=LINES.filter(any), users=USERS.filter(any))
def test_rows_in_are_rows_kept_and_rows_left_out(items: list[str], users: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = read_jsonl(_folder(Path(folder), items=items, sequences=users))
    user_lines = source.purchases["user_id"].n_unique() + source.counts["users_without_purchases"]
    kept = len(source.items) + user_lines + len(source.purchases)
    assert source.unusable.rows == kept + source.unusable.total
    assert set(source.purchases["item_id"]) <= set(source.items["item_id"])
    assert source.items["item_id"].is_unique().all()


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"items\.jsonl does not exist; `source: jsonl` needs a folder"):
        read_jsonl(tmp_path)
    with pytest.raises(InputError, match=r"sequences\.jsonl is empty"):
        read_jsonl(_folder(tmp_path, sequences=[]))


def test_blank_is_what_python_calls_so() -> None:
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts += ["", " \x1c ", "\x1f\u3000", " a ", "\x1d.\x1d"]
    found = pl.DataFrame({"text": texts}).select(is_blank(pl.col("text")))["text"].to_list()
    assert found == [not text.strip() for text in texts]


@pytest.mark.parametrize("blank", ["\x1c", " \x1f", "\u3000"])
def test_every_reader_takes_blanks_for_no_id_and_for_no_line(tmp_path: Path, blank: str) -> None:
    (tmp_path / "p.csv").write_text(f"who,sku\na,1\n{blank},1\na,{blank}\n", encoding="utf-8")
    source = read_table(tmp_path / "p.csv", None, {"user": "who", "item": "sku"})
    assert source.unusable.counts == {"no user or item id": 2} and _bought(source) == [("a", "1", None)]
    lines = ["user_id:token\titem_id:token", "a\t1", f"{blank}\t1", f"a\t{blank}", blank]
    (tmp_path / "p.inter").write_text("\n".join(lines), encoding="utf-8")
    source = read_recbole(tmp_path, None)
    assert source.unusable.counts == {"no user id": 1, "no item id": 1}
    assert _bought(source) == [("a", "1", None)]
