"""Reader and writer of LC-Rec's JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.lcrec import read_lcrec, write_lcrec
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, clean_text
from gream.data.store import Catalogue, Interactions
from gream.errors import InputError

INTER = {"0": [1, 0, 2], "1": [2], "2": []}
ITEMS = {
    "0": {
        "title": "Salt &amp; Pepper.",
        "description": "",
        "brand": "K",
        "categories": "Home,Clothing, Shoes & Co",
    },
    "1": {"title": "Mug", "description": ["Red.", "Big."], "categories": ["Home", "Mugs"], "price": "$2.50"},
    "3": {"title": "Nobody buys me"},
}
REVIEWS = {
    "(0, 1)": {"review": "I like it.", "summary": "Good"},
    "(1, 2)": {"review": "", "summary": ""},
    "('0', 2)": {"review": "as text"},
}


def _set(folder: Path, inter: Any = INTER, items: Any = ITEMS, reviews: Any = REVIEWS, **maps: str) -> Path:
    for ending, value in ((".inter.json", inter), (".item.json", items), (".review.json", reviews)):
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value, indent=4)
            (folder / f"Beauty{ending}").write_text(text)
    for name, text in maps.items():
        (folder / f"Beauty.{name}").write_text(text)
    return folder


def test_sequences_texts_and_reviews(tmp_path: Path) -> None:
    source = read_lcrec(_set(tmp_path), None)
    assert dict(source.items.schema) == ITEM_SCHEMA and dict(source.purchases.schema) == PURCHASE_SCHEMA
    assert source.purchases.rows() == [
        ("0", "1", None, "Good: I like it."), ("0", "0", None, None), ("0", "2", None, "as text"),
        ("1", "2", None, None),
    ]  # fmt: skip
    assert source.items.rows() == [
        ("0", "Salt & Pepper.", "", "K", ["Home", "Clothing, Shoes & Co"], None),
        ("1", "Mug", "Red. Big.", "", ["Home", "Mugs"], 2.5),
        ("2", "", "", "", [], None),
    ]
    assert source.counts == {
        "users_without_purchases": 1, "interactions_without_time": 0, "items_without_metadata": 1,
        "items_never_bought": 1,
    }  # fmt: skip
    assert source.unusable.rows == 4 + 3 + 3 and source.unusable.total == 0


def test_the_maps_give_raw_ids_back(tmp_path: Path) -> None:
    _set(tmp_path, user2id="A1\t0\nA2\t1\n", item2id="B0\t0\nB1\t1\nB2\t2\nB3\t3\n")
    source = read_lcrec(tmp_path / "Beauty.inter.json", None)
    assert source.purchases.select("user_id", "item_id").rows() == [
        ("A1", "B1"), ("A1", "B0"), ("A1", "B2"), ("A2", "B2"),
    ]  # fmt: skip
    assert source.items["item_id"].to_list() == ["B0", "B1", "B2"]
    assert source.purchases["review"][0] == "Good: I like it."


def test_what_a_map_lacks_is_counted(tmp_path: Path) -> None:
    _set(tmp_path, reviews=None, user2id="A1\t0\nA1\t5\nbroken\n\t7\n", item2id="B0\t0\nB1\t1\n")
    source = read_lcrec(tmp_path, None)
    assert source.purchases["item_id"].to_list() == ["B1", "B0"]
    assert source.unusable.counts == {
        "a raw id or number again": 1, "no raw id and number": 2, "an item without a raw id": 2,
        "a user without a raw id": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "key",
    [
        "__import__('os').system('touch {path}')", "(0, __import__('os').system('touch {path}'))",
        "[" * 10_000, "(" * 900 + ")" * 900, "-" * 900 + "1", "(0, 1, 2)", "[0, 1]", "(0,)", "(None, 1)",
        "(0, 1", "", "\x00",
    ],
)  # fmt: skip
def test_hostile_keys_of_reviews_are_counted_and_not_run(tmp_path: Path, key: str) -> None:
    target = tmp_path / "run"
    _set(tmp_path, reviews={key.replace("{path}", str(target)): {"review": "x"}})
    source = read_lcrec(tmp_path, None)
    assert source.unusable.counts == {"no review of a user and an item": 1}
    assert source.purchases["review"].is_null().all() and not target.exists()


def test_entries_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    inter = {"0": [0, None, True, 1.5, "", [0]], "1": "0", "": [0], "2": [1, "1"]}
    items = '{"0": {"title": 5}, "1": "text", "0": {}, "": {}}'
    reviews = {"(9, 9)": {"review": "x"}, "(0, 0)": "text", "(2, 1)": {}, "(2,1)": {}}
    source = read_lcrec(_set(tmp_path, inter, items, reviews), None)
    assert source.purchases.select("user_id", "item_id").rows() == [("0", "0"), ("2", "1"), ("2", "1")]
    assert source.unusable.counts == {
        "no item id": 5, "no list of items": 1, "no user id": 1, "no item": 2, "the same item again": 1,
        "a review of no purchase": 1, "no review of a user and an item": 1,
        "a second review of a purchase": 1,
    }  # fmt: skip


def test_without_an_item_file_items_have_no_text(tmp_path: Path) -> None:
    source = read_lcrec(_set(tmp_path, items=None, reviews=None), None)
    assert source.counts["items_without_metadata"] == 3
    other = tmp_path / "enriched.json"
    other.write_text(json.dumps({"1": {"title": "From elsewhere"}}))
    assert read_lcrec(tmp_path, other).items["title"].to_list() == ["From elsewhere", "", ""]


def test_a_missing_broken_or_ambiguous_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold one file `\*\.inter\.json`, but has none"):
        read_lcrec(tmp_path, None)
    with pytest.raises(InputError, match="does not exist"):
        read_lcrec(tmp_path / "nowhere", None)
    _set(tmp_path, inter="[" * 10_000)
    with pytest.raises(InputError, match="is no complete JSON file"):
        read_lcrec(tmp_path, None)
    _set(tmp_path, inter="[1]")
    with pytest.raises(InputError, match="holds no JSON object"):
        read_lcrec(tmp_path, None)
    _set(tmp_path, inter={"0": []})
    with pytest.raises(InputError, match="No row can be used"):
        read_lcrec(tmp_path, None)
    with pytest.raises(InputError, match=r"does not end in `\.inter\.json`"):
        read_lcrec(tmp_path / "Beauty.item.json", None)
    (tmp_path / "Toys.inter.json").write_text("{}")
    with pytest.raises(InputError, match="has `Beauty.inter.json`, `Toys.inter.json`"):
        read_lcrec(tmp_path, None)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(clean_text)
NAMES = st.one_of(
    TEXT, st.sampled_from(["Home & Kitchen", "Clothing, Shoes", "&amp; &lt;b&gt;", '"Quoted"', "'Til"])
)
IDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufeff"), min_size=1, max_size=6
).filter(str.strip)


@st.composite
def shops(draw: st.DrawFn) -> tuple[Catalogue, Interactions]:
    """A catalogue with texts of every kind, in which every item is bought."""
    item_ids = draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    size = len(item_ids)
    columns = [draw(st.lists(TEXT, min_size=size, max_size=size)) for _ in range(3)]
    paths = draw(st.lists(st.lists(NAMES.filter(bool), max_size=3), min_size=size, max_size=size))
    prices = draw(st.lists(st.sampled_from([float("nan"), 12.99, 0.1, 1e8]), min_size=size, max_size=size))
    user_ids = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    sequences = [np.array(draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6))) for _ in user_ids]
    sequences[-1] = np.concatenate([sequences[-1], np.arange(size)])
    splits = [np.zeros(len(items), dtype=np.int8) for items in sequences]
    catalogue = Catalogue(
        item_ids, *columns, [tuple(path) for path in paths], np.array(prices, dtype=np.float32)
    )
    return catalogue, Interactions(user_ids, sequences, splits)


@settings(max_examples=60, deadline=None)
@given(shops())
def test_what_is_written_is_read_back(shop: tuple[Catalogue, Interactions]) -> None:
    catalogue, interactions = shop
    with TemporaryDirectory() as folder:
        write_lcrec(Path(folder) / "out", "Set", catalogue, interactions)
        source = read_lcrec(Path(folder) / "out", None)
    assert source.unusable.total == 0
    items = source.items
    assert items["item_id"].to_list() == catalogue.item_ids
    assert items["title"].to_list() == catalogue.titles
    assert items["description"].to_list() == catalogue.descriptions
    assert items["brand"].to_list() == catalogue.brands
    prices = items["price"].fill_null(float("nan")).to_numpy()
    np.testing.assert_array_equal(prices, catalogue.prices)
    # Bare commas join names, so the writer changes the commas of a name, and nothing else.
    letters = [
        [name.replace(",", "").replace(" ", "") for name in path] for path in items["categories"].to_list()
    ]
    given_letters = [
        [name.replace(",", "").replace(" ", "") for name in path] for path in catalogue.categories
    ]
    assert letters == [[name for name in path if name] for path in given_letters]
    users = zip(interactions.user_ids, interactions.sequences, strict=True)
    bought = [(user, catalogue.item_ids[item]) for user, row in users for item in row]
    assert source.purchases.select("user_id", "item_id").rows() == bought


def test_the_written_form_is_that_of_lcrec(tmp_path: Path) -> None:
    catalogue = Catalogue(
        ["B7", "B8"],
        ["Mug", ""],
        ["Red", ""],
        ["K", ""],
        [("Home", "Mugs"), ()],
        np.array([2.5, np.nan], np.float32),
    )
    interactions = Interactions(["u"], [np.array([1, 0, 1])], [np.zeros(3, dtype=np.int8)])
    write_lcrec(tmp_path, "Set", catalogue, interactions)
    assert json.loads((tmp_path / "Set.inter.json").read_text()) == {"0": [1, 0, 1]}
    assert json.loads((tmp_path / "Set.item.json").read_text()) == {
        "0": {"title": "Mug", "description": "Red", "brand": "K", "categories": "Home,Mugs", "price": 2.5},
        "1": {"title": "", "description": "", "brand": "", "categories": "", "price": None},
    }
    assert (tmp_path / "Set.user2id").read_text() == "u\t0\n"
    assert (tmp_path / "Set.item2id").read_text() == "B7\t0\nB8\t1\n"


def test_a_comma_inside_the_name_of_a_category_joins_no_names(tmp_path: Path) -> None:
    names = [("A,B", "Clothing, Shoes", "C,")]
    catalogue = Catalogue(["B7"], [""], [""], [""], names, np.array([np.nan], np.float32))
    interactions = Interactions(["u"], [np.array([0])], [np.zeros(1, dtype=np.int8)])
    write_lcrec(tmp_path, "Set", catalogue, interactions)
    assert read_lcrec(tmp_path, None).items["categories"].to_list() == [["A, B", "Clothing, Shoes", "C"]]


@pytest.mark.parametrize(
    ("name", "raw"), [("../x", "B"), ("", "B"), ("x", "a\tb"), ("x", "\ufeff"), ("x", " ")]
)
def test_names_and_ids_that_files_cannot_hold_are_refused(tmp_path: Path, name: str, raw: str) -> None:
    catalogue = Catalogue([raw], [""], [""], [""], [()], np.array([np.nan], np.float32))
    interactions = Interactions(["u"], [np.array([0])], [np.zeros(1, dtype=np.int8)])
    with pytest.raises(InputError, match="cannot name a data set|is blank or holds a tab"):
        write_lcrec(tmp_path, name, catalogue, interactions)


ENTRY = st.sampled_from([0, 1, "1", 2, None, "", 1.5, True])
USER = st.sampled_from(["0", "1", "2", "", "\ud800"])


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(USER, st.one_of(st.lists(ENTRY, max_size=5), st.none()), max_size=4),
    st.dictionaries(USER, st.one_of(st.just({"title": "t"}), st.none()), max_size=4),
    st.dictionaries(st.sampled_from(["(0, 1)", "(1, 0)", "(", "9"]), st.just({"review": "r"}), max_size=3),
)
def test_rows_in_are_rows_used_and_rows_left_out(inter: Any, items: Any, reviews: Any) -> None:
    inter = {"sure": ["thing"], **inter}
    with TemporaryDirectory() as folder:
        source = read_lcrec(_set(Path(folder), inter, items, reviews), None)
    rows = sum(1 if row is None else len(row) for row in inter.values()) + len(items) + len(reviews)
    described = len(source.items) - source.counts["items_without_metadata"]
    told = len(
        source.purchases.filter(source.purchases["review"].is_not_null()).unique(["user_id", "item_id"])
    )
    used = len(source.purchases) + described + source.counts["items_never_bought"] + told
    assert source.unusable.rows == rows == used + source.unusable.total
    assert set(source.purchases["item_id"]) == set(source.items["item_id"])
