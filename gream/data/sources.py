"""What every reader of purchases returns, and the reader of our own JSONL folders.

A reader gives items and purchases as they came, in the order that counts, with cleaned text; what is kept
of them is decided in prepare.py. Nothing is dropped in silence: `unusable` says what was left out and why.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream.data.lines import json_lines
from gream.data.unusable import Unusable
from gream.errors import InputError

ITEMS_FILE, SEQUENCES_FILE = "items.jsonl", "sequences.jsonl"

_BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001))))  # the last is the ideographic space
_HIGHEST_PRICE = 1e30  # still a finite float32
_LATEST_TIME = 2**62  # seconds that an int64 holds, with room for sums

ITEM_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "item_id": pl.String,
    "title": pl.String,
    "description": pl.String,
    "brand": pl.String,
    "categories": pl.List(pl.String),
    "price": pl.Float32,
}
PURCHASE_SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "review": pl.String,
}


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found.

    `items` follows ITEM_SCHEMA, one row an item, in the order that dense ids will follow; every purchased
    item is there, if need be without text. `purchases` follows PURCHASE_SCHEMA, one row a purchase, each
    user's rows in the order of buying; `review` is what the user wrote, null where nothing is known.
    `unusable` says what was left out, `counts` what else is worth telling.
    """

    items: pl.DataFrame
    purchases: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict)
    unusable: Unusable = field(default_factory=Unusable)


def read_jsonl(folder: Path, items_path: Path | None = None) -> Source:
    """Read a folder with `items.jsonl`, which `items_path` replaces, and `sequences.jsonl`.

    An item has `item_id` (text or whole number) and, each optional, `title`, `description`, `brand`,
    `categories` (path, coarse to fine) and `price`. A user has `user_id`, `item_ids` in the order of
    buying and optionally `timestamps` (UNIX seconds or null). The order of the file is kept whatever the
    timestamps say: in the published sets days tie, and the order within a day is part of the data.

    A line that is broken or incomplete, or gives an id for the second time, cannot be used, and neither can
    a purchase of an item that the items file does not have. Rows are the lines of both files and the
    purchases on the lines that can be used. A price that is no number leaves its item without a price.

    Raises:
        InputError: a missing or empty file.
    """
    items_path, sequences_path = items_path or folder / ITEMS_FILE, folder / SEQUENCES_FILE
    for file in (items_path, sequences_path):
        if not file.is_file():
            raise InputError(
                f"{file} does not exist; `source: jsonl` needs a folder with {ITEMS_FILE} and "
                f"{SEQUENCES_FILE}."
            )
    unusable = Unusable()
    items, faulty_prices = read_items(items_path, unusable)
    purchases, counts = _sequences(sequences_path, set(items["item_id"]), unusable)
    return Source(items, purchases, {**counts, "prices_unreadable": faulty_prices}, unusable)


def clean_text(text: str) -> str:
    """Undo HTML entities, put one blank for every run of white space, replace what is no valid Unicode."""
    plain = html.unescape(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(plain.split())


def is_blank(texts: pl.Expr) -> pl.Expr:
    """Say which texts hold nothing, as `str.isspace` does; polars takes four separators for something."""
    return texts.str.strip_chars(_BLANKS) == ""


def identifier(value: object) -> str | None:
    """Return an id as text; None for what is neither a text with something in it nor a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        text = str(value)  # refuses numbers of thousands of digits
        text.encode("utf-8")  # refuses half of a surrogate pair, which JSON can spell and no file can hold
    except ValueError:
        return None
    return text if text.strip() else None


def read_items(path: Path, unusable: Unusable) -> tuple[pl.DataFrame, int]:
    """Read items, one JSON object a line, as `read_jsonl` describes them.

    Returns:
        A frame of ITEM_SCHEMA in the order of the file, and how many prices could not be read.

    Raises:
        InputError: no such file, or an empty one.
    """
    rows: dict[str, tuple[Any, ...]] = {}
    faulty_prices = 0
    for where, entry in json_lines(path, unusable):
        item = identifier(entry.get("item_id"))
        texts = [entry.get(key) or "" for key in ("title", "description", "brand")]
        categories = entry.get("categories") or []
        price = entry.get("price")
        if item is None:
            unusable.add("no item id", [where])
        elif item in rows:
            unusable.add("item id given before", [f"{where}: {item!r}"])
        elif not all(isinstance(text, str) for text in texts):
            unusable.add("title, description or brand that is no text", [where])
        elif not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
            unusable.add("categories that are no list of texts", [where])
        else:
            names = [name for name in map(clean_text, categories) if name]
            known = _price(price)
            faulty_prices += known is None and price is not None
            rows[item] = (item, *map(clean_text, texts), names, known)
    return pl.DataFrame(list(rows.values()), schema=ITEM_SCHEMA, orient="row"), faulty_prices


def _price(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _HIGHEST_PRICE else None


def _sequences(path: Path, known: set[str], unusable: Unusable) -> tuple[pl.DataFrame, dict[str, int]]:
    lengths: dict[str, int] = {}  # of every user's usable purchases
    bought: list[str] = []
    times: list[int | None] = []
    for where, entry in json_lines(path, unusable):
        user, items, stamps = identifier(entry.get("user_id")), entry.get("item_ids"), entry.get("timestamps")
        if user is None:
            unusable.add("no user id", [where])
        elif user in lengths:
            unusable.add("user id given before", [f"{where}: {user!r}"])
        elif not isinstance(items, list):
            unusable.add("no list of item ids", [where])
        elif stamps is not None and (not isinstance(stamps, list) or len(stamps) != len(items)):
            unusable.add("not one time for each item id", [where])
        else:
            before = len(bought)
            _add_purchases(where, items, stamps or [None] * len(items), known, bought, times, unusable)
            lengths[user] = len(bought) - before
    counts = {
        "users_without_purchases": list(lengths.values()).count(0),
        "interactions_without_time": times.count(None) if any(time is not None for time in times) else 0,
    }
    users = pl.Series(list(lengths), dtype=pl.String)
    columns = {
        "user_id": users.gather(np.repeat(np.arange(len(users)), list(lengths.values()))),
        "item_id": bought,
        "timestamp": times,
        "review": pl.repeat(None, len(bought), dtype=pl.String, eager=True),
    }
    return pl.DataFrame(columns, schema=PURCHASE_SCHEMA), counts


def _add_purchases(
    where: str,
    items: list[object],
    stamps: list[object],
    known: set[str],
    bought: list[str],
    times: list[int | None],
    unusable: Unusable,
) -> None:
    """Add the purchases of one line to `bought` and `times`."""
    unusable.rows += len(items)
    for value, stamp in zip(items, stamps, strict=True):
        item = identifier(value)
        if item is None:
            unusable.add("no item id", [f"{where}: {value!r:.60}"])
        elif item not in known:
            unusable.add("item that the items file does not have", [f"{where}: {item!r}"])
        elif stamp is not None and not _is_time(stamp):
            unusable.add("unreadable time", [f"{where}: {stamp!r:.60}"])
        else:
            bought.append(item)
            times.append(None if stamp is None else int(stamp))  # type: ignore[call-overload]


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LATEST_TIME  # false for NaN
