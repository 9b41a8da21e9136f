"""What every reader of purchases returns, and the reader of JSONL folders; tables.py reads CSV and Parquet.

A reader gives items and purchases as they came, in the order that counts, with cleaned text; what is kept
of them is decided in prepare.py. Nothing is dropped in silence: `counts` says what was left out.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream.errors import InputError

ITEMS_FILE, SEQUENCES_FILE = "items.jsonl", "sequences.jsonl"

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
}


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found.

    `items` follows ITEM_SCHEMA, one row an item, in the order that dense ids will follow. `purchases`
    follows PURCHASE_SCHEMA, one row a purchase, each user's rows in the order of buying.
    """

    items: pl.DataFrame
    purchases: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict)


def read_jsonl(folder: Path) -> Source:
    """Read a folder with `items.jsonl` and `sequences.jsonl`.

    An item has `item_id` (text or whole number) and, each optional, `title`, `description`, `brand`,
    `categories` (path, coarse to fine) and `price`. A user has `user_id`, `item_ids` in the order of
    buying and optionally `timestamps` (UNIX seconds or null). The order of the file is kept whatever the
    timestamps say: in the published sets days tie, and the order within a day is part of the data.

    Raises:
        InputError: a missing or empty file, a line that is broken or incomplete, an id given twice, or a
            purchase of an item that the items file does not have.
    """
    items_path, sequences_path = folder / ITEMS_FILE, folder / SEQUENCES_FILE
    rows = [_item_row(entry, where) for where, entry in _lines(items_path)]
    known = _unique([row[0] for row in rows], "item_id", items_path)
    users: list[str] = []
    bought: list[str] = []
    times: list[int | None] = []
    lengths: list[int] = []
    for where, entry in _lines(sequences_path):
        items, stamps = _sequence(entry, where, known)
        users.append(_identifier(entry.get("user_id"), "user_id", where))
        lengths.append(len(items))
        bought += items
        times += stamps
    _unique(users, "user_id", sequences_path)
    users_of_rows = pl.Series(users, dtype=pl.String).gather(np.repeat(np.arange(len(users)), lengths))
    purchases = pl.DataFrame(
        {"user_id": users_of_rows, "item_id": bought, "timestamp": times}, schema=PURCHASE_SCHEMA
    )
    items_frame = pl.DataFrame(rows, schema=ITEM_SCHEMA, orient="row")
    unknown_times = purchases["timestamp"].null_count() if any(t is not None for t in times) else 0
    counts = {"users_without_purchases": lengths.count(0), "interactions_without_time": unknown_times}
    return Source(items_frame, purchases, counts)


def clean_text(text: str) -> str:
    """Undo HTML entities, put one blank for every run of white space, replace what is no valid Unicode."""
    plain = html.unescape(text).encode("utf-8", "replace").decode("utf-8")
    return " ".join(plain.split())


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield "file, line n" and the object of every line that is not blank."""
    if not path.is_file():
        raise InputError(
            f"{path} does not exist; `source: jsonl` needs a folder with {ITEMS_FILE} and {SEQUENCES_FILE}."
        )
    found = False
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                entry = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise InputError(
                    f"{where} is no complete JSON object ({error}); repair the line or fetch the file again."
                ) from error
            if not isinstance(entry, dict):
                raise InputError(f"{where} is no JSON object; each line must look like {{...}}.")
            found = True
            yield where, entry
    if not found:
        raise InputError(f"{path} is empty; give a file with one JSON object a line.")


def _item_row(entry: dict[str, Any], where: str) -> tuple[Any, ...]:
    categories = entry.get("categories") or []
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise InputError(f"{where}: `categories` must be a list of texts, coarse to fine; correct the line.")
    price = entry.get("price")
    if price is not None and (isinstance(price, bool) or not isinstance(price, int | float)):
        raise InputError(f"{where}: `price` is {price!r}; write a plain number, or null where unknown.")
    texts = [entry.get(key) or "" for key in ("title", "description", "brand")]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"{where}: `title`, `description` and `brand` must be text; correct the line.")
    names = [name for name in map(clean_text, categories) if name]
    return (_identifier(entry.get("item_id"), "item_id", where), *map(clean_text, texts), names, price)


def _sequence(entry: dict[str, Any], where: str, known: set[str]) -> tuple[list[str], list[int | None]]:
    raw = entry.get("item_ids")
    if not isinstance(raw, list):
        raise InputError(f"{where}: `item_ids` must be a list of item ids; correct the line.")
    items = [_identifier(item, "item_ids", where) for item in raw]
    unknown = next((item for item in items if item not in known), None)
    if unknown is not None:
        raise InputError(
            f"{where} names item `{unknown}`, which {ITEMS_FILE} does not have; add the item there, or "
            "take the purchase out."
        )
    stamps = entry.get("timestamps")
    if stamps is None:
        return items, [None] * len(items)
    if not isinstance(stamps, list) or len(stamps) != len(items):
        raise InputError(f"{where}: `timestamps` must list one time for each of {len(items)} item ids.")
    if not all(time is None or (isinstance(time, int | float) and abs(time) < 2**62) for time in stamps):
        raise InputError(f"{where}: `timestamps` must be UNIX seconds or null; correct the line.")
    return items, [None if time is None else int(time) for time in stamps]


def _identifier(value: object, key: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise InputError(f"{where}: `{key}` holds {value!r}; an id must be text or a whole number.")
    return str(value)


def _unique(ids: list[str], key: str, path: Path) -> set[str]:
    known: set[str] = set()
    for identifier in ids:
        if identifier in known:
            raise InputError(f"{path} gives {key} `{identifier}` twice; leave one line for each.")
        known.add(identifier)
    return known
