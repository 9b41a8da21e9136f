"""Readers of Amazon Reviews, on small files in the true form of 2014, 2018 and 2023."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.amazon import read_amazon_2014, read_amazon_2018, read_amazon_2023
from gream.data.sources import ITEM_SCHEMA, PURCHASE_SCHEMA, Source
from gream.errors import InputError

DAY = 86_400


def _file(path: Path, lines: list[Any], *, packed: bool = True) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    raw = ("\n".join(texts) + "\n").encode("utf-8")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    return path


def _review(user: Any, item: Any, time: Any, **more: Any) -> dict[str, Any]:
    return {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time, **more}


def _rows(source: Source) -> list[tuple[str, str, int | None]]:
    return source.purchases.select("user_id", "item_id", "timestamp").rows()


def _items(source: Source) -> dict[str, dict[str, Any]]:
    return {row["item_id"]: row for row in source.items.to_dicts()}


def test_2014_reviews_in_order_of_time_with_ties_in_order_of_the_file(tmp_path: Path) -> None:
    reviews = [
        _review(
            "A1", "B3", 3 * DAY, summary="Five Stars", reviewText="I &lt;3 it &amp; more", helpful=[0, 0]
        ),
        _review("A2", "B1", 2 * DAY),
        _review("A1", "B2", 1 * DAY, reviewText="ok"),
        _review("A1", "B1", 1 * DAY, overall=1.0),
    ]
    source = read_amazon_2014(_file(tmp_path / "reviews_Beauty_5.json.gz", reviews), None)
    assert dict(source.purchases.schema) == PURCHASE_SCHEMA
    assert _rows(source) == [
        ("A1", "B2", DAY), ("A1", "B1", DAY), ("A1", "B3", 3 * DAY), ("A2", "B1", 2 * DAY),
    ]  # fmt: skip
    assert source.purchases["review"].to_list() == ["ok", None, "Five Stars: I <3 it & more", None]
    assert source.counts["items_without_metadata"] == 3
    assert source.unusable.total == 0 and source.unusable.rows == 4


def test_2014_metadata_are_python_literals(tmp_path: Path) -> None:
    path = _file(tmp_path / "reviews.json", [_review("A1", "B1", 1), _review("A1", "B2", 2)], packed=False)
    meta = [
        "{'asin': 'B2', 'title': \"Kid's\\tComb\", 'price': 5.3, 'related': {'also_bought': ['B1']},"
        " 'categories': [['Beauty', 'Hair Care'], ['Toys &amp; Games', 'Dolls', 'Hair']], 'brand': 'Conair',"
        " 'description': 'Nice<br />and <b>big</b>, for ages <3'}",
        "{'asin': 'B9', 'title': 'Nobody buys me'}",
        "{'asin': 'B2', 'title': 'The same again'}",
    ]
    source = read_amazon_2014(path, _file(tmp_path / "meta.json.gz", meta))
    assert dict(source.items.schema) == ITEM_SCHEMA
    assert source.items.rows() == [
        (
            "B2",
            "Kid's Comb",
            "Nice and big , for ages <3",
            "Conair",
            ["Beauty", "Hair Care"],
            pytest.approx(5.3),
        ),
        ("B1", "", "", "", [], None),
    ]
    assert source.counts["items_without_metadata"] == 1
    assert source.counts["items_never_bought"] == 1
    assert source.unusable.counts == {"the same item again": 1}
    assert source.unusable.shown["the same item again"] == [f"{tmp_path / 'meta.json.gz'}, line 3"]


def test_2014_reviews_may_be_python_literals_too(tmp_path: Path) -> None:
    line = (
        "{'reviewerID': 'A1', 'asin': 'B1', 'helpful': [0, 1], 'summary': 'It\\'s ok', 'unixReviewTime': 7}"
    )
    source = read_amazon_2014(_file(tmp_path / "r.json.gz", [line]), None)
    assert source.purchases.rows() == [("A1", "B1", 7, "It's ok")]


@pytest.mark.parametrize(
    "line",
    [
        "{'asin': __import__('os').system('touch {path}')}",
        "{'reviewerID': 'A', 'asin': 'B', 'unixReviewTime': (lambda: 1)()}",
        "[" * 10_000,
        "[" * 10_000 + "]" * 10_000,
        "{'asin': " + "-" * 10_000 + "1}",
        '{"reviewerID": "A1", "asin": "B1", "unixRev',
        "\x00\x01",
        "{'reviewerID': 0x" + "f" * 5000 + ", 'asin': 0x" + "f" * 5000 + "}",
    ],
)
def test_hostile_and_broken_lines_are_counted_and_not_run(tmp_path: Path, line: str) -> None:
    target = tmp_path / "run"
    path = _file(
        tmp_path / "r.json", [_review("A1", "B1", 1), line.replace("{path}", str(target))], packed=False
    )
    source = read_amazon_2014(path, _file(tmp_path / "m.json", [line.replace("{path}", str(target))]))
    assert len(source.purchases) == 1
    assert source.unusable.total == 2 and source.unusable.rows == 3
    assert not target.exists()


def test_2018_page_source_is_no_title_and_ends_the_categories(tmp_path: Path) -> None:
    path = _file(tmp_path / "X_5.json.gz", [_review("A1", item, 1) for item in ("B1", "B2", "B3")])
    meta = [
        {
            "asin": "B1",
            "title": "Drill &quot;XL&quot;",
            "category": ["Tools &amp; Home", "Drills", "</span></span></span>", "Ships fast!"],
            "description": ["<p>Strong.</p>", "Light."],
            "feature": ["5 bits"],
            "brand": "by\n    \n    Bosch",
            "price": "$1,012.99",
        },
        {
            "asin": "B2",
            "title": "var aPageStart = (new Date()).getTime();",
            "price": "$5.99 - $9.99",
            "category": [],
        },
        {"asin": "B3", "title": "ok", "price": ".a-box-inner{background-color:#fff}#alohaBuyBoxWidget $3.99"},
    ]
    items = _items(read_amazon_2018(path, _file(tmp_path / "meta.json.gz", meta)))
    assert items["B1"] == {
        "item_id": "B1",
        "title": 'Drill "XL"',
        "description": "Strong. Light. 5 bits",
        "brand": "Bosch",
        "categories": ["Tools & Home", "Drills"],
        "price": pytest.approx(1012.99),
    }
    assert (items["B2"]["title"], items["B2"]["price"]) == ("", pytest.approx(5.99))
    assert (items["B3"]["title"], items["B3"]["price"]) == ("ok", None)


def test_2018_repeated_reviews_are_counted_and_left_out(tmp_path: Path) -> None:
    twice = _review("A1", "B1", 5)
    lines = [twice, _review("A1", "B1", 6), {**twice, "summary": "again"}, _review("A1", "B2", None)]
    path = _file(tmp_path / "r.json.gz", [*lines, _review("A1", "B2", None)])
    source = read_amazon_2018(path, None)
    assert _rows(source) == [("A1", "B1", 5), ("A1", "B1", 6), ("A1", "B2", None), ("A1", "B2", None)]
    assert source.unusable.counts == {"the same user, item and time again": 1}
    assert source.unusable.shown["the same user, item and time again"] == [f"{path}, line 3"]
    assert source.counts["interactions_without_time"] == 2


def test_2018_lines_are_json_only(tmp_path: Path) -> None:
    path = _file(tmp_path / "r.json", [_review("A1", "B1", 1), "{'reviewerID': 'A1', 'asin': 'B1'}"])
    assert read_amazon_2018(path, None).unusable.counts == {"no complete JSON object": 1}


def test_2023_times_are_milliseconds_and_items_are_parents(tmp_path: Path) -> None:
    lines = [
        {"user_id": "U", "asin": "V1", "parent_asin": "P1", "timestamp": 1588687728923, "rating": 5.0,
         "title": "Great", "text": "Smells<br />good", "images": [], "verified_purchase": True},
        {"user_id": "U", "asin": "V2", "parent_asin": "P2", "timestamp": 1588687728001, "title": ""},
    ]  # fmt: skip
    meta = [
        {
            "parent_asin": "P1",
            "title": "Spray",
            "main_category": "All Beauty",
            "categories": [],
            "description": [],
            "features": ["Fresh"],
            "price": "None",
            "store": "Howard",
            "details": {"UPC": "1"},
        },
        {
            "parent_asin": "P2",
            "title": None,
            "categories": ["A", "B"],
            "price": 8.5,
            "store": None,
            "features": [],
        },
    ]
    source = read_amazon_2023(
        _file(tmp_path / "X.jsonl.gz", lines), _file(tmp_path / "meta_X.jsonl.gz", meta)
    )
    # The second review came 922 milliseconds earlier, in the same second.
    assert source.purchases.rows() == [
        ("U", "P2", 1588687728, None), ("U", "P1", 1588687728, "Great: Smells good"),
    ]  # fmt: skip
    assert source.items.rows() == [
        ("P1", "Spray", "Fresh", "Howard", ["All Beauty"], None), ("P2", "", "", "", ["A", "B"], 8.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("price", "read"),
    [
        (3, 3.0), (None, None), ("None", None), ("", None), ("\u2014", None), ("from 14.50", 14.5),
        ("$12.99", 12.99), ("$.99", 0.99), (True, None), (-1, None), (float("nan"), None), (10**400, None),
        ("$" * 100, None), ([], None),
    ],
)  # fmt: skip
def test_prices_are_numbers_or_unknown(tmp_path: Path, price: Any, read: float | None) -> None:
    path = _file(tmp_path / "r", [{"user_id": "U", "parent_asin": "P", "timestamp": 1}])
    meta = _file(tmp_path / "m", [{"parent_asin": "P", "price": price}])
    assert read_amazon_2023(path, meta).items["price"].to_list() == [
        read if read is None else pytest.approx(read)
    ]


def test_rows_without_user_item_or_a_real_time_are_counted_by_reason(tmp_path: Path) -> None:
    lines = [
        _review("A1", "B1", 1), _review("", "B1", 1), _review(None, "B1", 1), _review("\ud800", "B1", 1),
        _review("A1", ["B1"], 1), _review("A1", "B1", "1"), _review("A1", "B1", float("inf")),
        _review("A", "B", 1e300),
        _review(True, "B1", 1), _review(12, 34, 2.5), ["no object"],
    ]  # fmt: skip
    source = read_amazon_2014(_file(tmp_path / "r", lines), None)
    assert _rows(source) == [("A1", "B1", 1), ("12", "34", 2)]
    expected = {"no user id": 4, "no item id": 1, "no time": 3, "no JSON object": 1}
    assert source.unusable.counts == expected


def test_a_missing_file_an_empty_one_and_nothing_to_use_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_amazon_2014(tmp_path / "none.json", None)
    with pytest.raises(InputError, match="is empty"):
        read_amazon_2014(_file(tmp_path / "e", ["", " "]), None)
    with pytest.raises(InputError, match="No row can be used as a purchase .*no user id"):
        read_amazon_2014(_file(tmp_path / "r", [_review("", "B", 1)]), None)
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-9])
    with pytest.raises(InputError, match="ends early or is damaged"):
        read_amazon_2014(cut, None)


LINES = st.one_of(
    st.builds(
        _review,
        st.sampled_from(["u1", "u2", "", None, 3]),
        st.sampled_from(["i1", "i2", "i3", "", 4, {}]),
        st.sampled_from([1, 2, 3.5, None, "x", True]),
        reviewText=st.sampled_from(["fine", None, 1, "a\ud800b"]),
    ).map(json.dumps),
    st.sampled_from(["{", "[]", "null", "{'reviewerID': 'u1', 'asin': 'i1', 'unixReviewTime': 9}", "", "  "]),
    st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=8),
)
META = st.one_of(
    st.fixed_dictionaries(
        {"asin": st.sampled_from(["i1", "i2", "z", None, 4]), "title": st.sampled_from(["t", None, 5])}
    ).map(json.dumps),
    st.sampled_from(["{", "[]", "", "{'asin': 'i3', 'title': 'x'}"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, max_size=20), st.lists(META, max_size=8))
def test_rows_in_are_rows_used_and_rows_left_out(lines: list[str], meta: list[str]) -> None:
    lines = [json.dumps(_review("sure", "thing", 1)), *lines]
    meta = ["{}", *meta]
    with TemporaryDirectory() as folder:
        path, items = Path(folder) / "r", Path(folder) / "m"
        source = read_amazon_2014(_file(path, lines), _file(items, meta, packed=False))
    filled = sum(bool(line.encode().strip()) for line in lines + meta)
    described = len(source.items) - source.counts["items_without_metadata"]
    used = len(source.purchases) + described + source.counts["items_never_bought"]
    assert source.unusable.rows == filled == used + source.unusable.total
    assert set(source.purchases["item_id"]) == set(source.items["item_id"])
    assert source.items["item_id"].is_unique().all()
    for _, bought in source.purchases.group_by("user_id", maintain_order=True):
        known = bought["timestamp"].drop_nulls()
        assert known.is_sorted()
