"""Amazon Reviews of 2014, 2018 and 2023: a file of reviews and, optionally, one of item metadata.

Sources: cseweb.ucsd.edu/~jmcauley/datasets.html (2014 and 2018), amazon-reviews-2023.github.io. One object a
line, usually gzip: `reviews_Beauty_5.json.gz` with `meta_Beauty.json.gz` (2014; metadata, and the reviews of
the files that are not 5-core, are Python literals, not JSON), `Beauty_5.json.gz` with `meta_Beauty.json.gz`
(2018), `All_Beauty.jsonl.gz` with `meta_All_Beauty.jsonl.gz` (2023).

Every review is a purchase, whatever its rating. An item is an `asin`, in 2023 a `parent_asin`, which stands
for all variants of a product. Rows that repeat user, item and time of an earlier one are left out, and so is
a second entry for the same item. Metadata files list millions of items; only those bought are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from gream.data.assemble import (
    LARGEST_TIME,
    assemble,
    item_frame,
    read_price,
)
from gream.data.lines import json_lines
from gream.data.sources import Source, clean_text, identifier
from gream.data.unusable import NUM_SHOWN, Unusable

_ROWS_AT_ONCE = 100_000  # as Python objects; more are packed into a frame, which takes a tenth of the memory
_FIELDS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "review": pl.String,
    "line": pl.Int64,
}
_NO_TIME = object()

# Tags that web pages use. Other text in angle brackets is text.
_TAG = re.compile(
    r"</?(?:a|b|big|blockquote|br|center|div|em|font|h[1-6]|hr|i|img|li|ol|p|small|span|strong|sub|sup|table|tbody"
    r"|td|th|tr|u|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_BY = re.compile(r"\s*by\s*\n")  # 2018: what the page shows before a brand

_Texts = tuple[str, str, str, list[str], float | None]  # title, description, brand, categories, price


@dataclass(frozen=True)
class _Edition:
    """How one edition of the collection names its fields."""

    user: str
    item: str
    time: str
    per_second: int
    headline: str
    text: str
    literal: bool
    texts: Callable[[Mapping[str, Any]], _Texts]


def read_amazon_2014(path: Path, items_path: Path | None) -> Source:
    """Read reviews of 2014; the categories of an item are the first of its paths, as GREAM takes them.

    Raises:
        InputError: a file that is missing, empty or damaged, or no review that can be used.
    """
    return _read(path, items_path, _EDITION_2014)


def read_amazon_2018(path: Path, items_path: Path | None) -> Source:
    """Read reviews of 2018; what a page's source left in titles and categories is taken out.

    Raises:
        InputError: a file that is missing, empty or damaged, or no review that can be used.
    """
    return _read(path, items_path, _EDITION_2018)


def read_amazon_2023(path: Path, items_path: Path | None) -> Source:
    """Read reviews of 2023, whose times are milliseconds; the brand of an item is its store.

    Raises:
        InputError: a file that is missing, empty or damaged, or no review that can be used.
    """
    return _read(path, items_path, _EDITION_2023)


def _read(path: Path, items_path: Path | None, edition: _Edition) -> Source:
    unusable = Unusable()
    counts: dict[str, int] = {}
    purchases = _purchases(path, edition, unusable)
    rows: list[tuple[object, ...]] = []
    if items_path:
        rows = _item_rows(items_path, edition, set(purchases["item_id"]), unusable, counts)
    return assemble(
        item_frame(rows), purchases, unusable=unusable, counts=counts, per_second=edition.per_second
    )


def _purchases(path: Path, edition: _Edition, unusable: Unusable) -> pl.DataFrame:
    frames: list[pl.DataFrame] = []
    rows: list[tuple[object, ...]] = []
    for where, entry in json_lines(path, unusable, literal=edition.literal):
        user, item = identifier(entry.get(edition.user)), identifier(entry.get(edition.item))
        time = _ticks(entry.get(edition.time))
        if user is None:
            unusable.add("no user id", [where])
        elif item is None:
            unusable.add("no item id", [where])
        elif time is _NO_TIME:
            unusable.add("no time", [where])
        else:
            rows.append((user, item, time, _review(entry, edition), int(where.rpartition(" ")[2])))
        if len(rows) == _ROWS_AT_ONCE:
            frames.append(pl.DataFrame(rows, schema=_FIELDS, orient="row"))
            rows.clear()
    frames.append(pl.DataFrame(rows, schema=_FIELDS, orient="row"))
    purchases = pl.concat(frames)
    again = (
        purchases["timestamp"].is_not_null()
        & ~purchases.select(pl.struct("user_id", "item_id", "timestamp").is_first_distinct()).to_series()
    )
    places = [f"{path}, line {line}" for line in purchases["line"].filter(again).head(NUM_SHOWN)]
    unusable.add("the same user, item and time again", places, int(again.sum()))
    return purchases.filter(~again)


def _ticks(value: object) -> object:
    """Return a time as a whole number, None where it is unknown, _NO_TIME for what is no time."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_TIME:
        return _NO_TIME
    return int(value // 1)


def _review(entry: Mapping[str, Any], edition: _Edition) -> str | None:
    parts = [_plain(entry.get(key)) for key in (edition.headline, edition.text)]
    return ": ".join(part for part in parts if part) or None


def _item_rows(
    path: Path, edition: _Edition, bought: set[str], unusable: Unusable, counts: dict[str, int]
) -> list[tuple[object, ...]]:
    rows: dict[str, tuple[object, ...]] = {}
    counts["items_never_bought"] = 0
    for where, entry in json_lines(path, unusable, literal=edition.literal):
        item = identifier(entry.get(edition.item))
        if item is None:
            unusable.add("no item id", [where])
        elif item not in bought:
            counts["items_never_bought"] += 1
        elif item in rows:
            unusable.add("the same item again", [where])
        else:
            rows[item] = (item, *edition.texts(entry))
    return list(rows.values())


def _texts_2014(entry: Mapping[str, Any]) -> _Texts:
    paths = entry.get("categories")
    first = paths[0] if isinstance(paths, list) and paths else []
    return (
        _plain(entry.get("title")),
        _plain(entry.get("description")),
        _plain(entry.get("brand")),
        _names(first),
        read_price(entry.get("price")),
    )


def _texts_2018(entry: Mapping[str, Any]) -> _Texts:
    title, brand = entry.get("title"), entry.get("brand")
    return (
        # Some titles are the script of a page that was not rendered.
        "" if isinstance(title, str) and "getTime" in title else _plain(title),
        _joined(entry.get("description"), entry.get("feature")),
        _plain(_BY.sub("", brand, count=1) if isinstance(brand, str) else brand),
        _names(entry.get("category")),
        read_price(entry.get("price")),
    )


def _texts_2023(entry: Mapping[str, Any]) -> _Texts:
    return (
        _plain(entry.get("title")),
        _joined(entry.get("description"), entry.get("features")),
        _plain(entry.get("store")),
        _names(entry.get("categories")) or _names([entry.get("main_category")]),
        read_price(entry.get("price")),
    )


def _plain(value: object) -> str:
    """Return clean text without the tags of a web page; "" for what is no text."""
    if not isinstance(value, str):
        return ""
    return clean_text(_TAG.sub(" ", value) if "<" in value else value)


def _joined(*values: object) -> str:
    """Join texts and lists of texts: a description and the points that the page lists beside it."""
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return " ".join(text for text in map(_plain, texts) if text)


def _names(path: object) -> list[str]:
    """Return a path of categories; in 2018 page source ends it, and what follows are selling points."""
    names: list[str] = []
    for name in path if isinstance(path, list) else []:
        if isinstance(name, str) and "</span>" in name:
            break
        names.append(_plain(name))
    return [name for name in names if name]


_shared = partial(_Edition, user="reviewerID", item="asin", time="unixReviewTime", per_second=1)
_EDITION_2014 = _shared(headline="summary", text="reviewText", literal=True, texts=_texts_2014)
_EDITION_2018 = _shared(headline="summary", text="reviewText", literal=False, texts=_texts_2018)
_EDITION_2023 = _Edition(
    user="user_id",
    item="parent_asin",
    time="timestamp",
    per_second=1000,
    headline="title",
    text="text",
    literal=False,
    texts=_texts_2023,
)
