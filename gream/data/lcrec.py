"""The JSON files of LC-Rec, which GREAM's own release and many others share.

Source: github.com/zhengbw0324/LC-Rec and github.com/Indolent-Kawhi/GRRM, `data_process`. For a set X:
`X.inter.json` {user: [item, ...]} in the order of buying, items as whole numbers; `X.item.json` {item:
{title, description, brand, categories, price}}, categories in one text, "Beauty,Hair Care"; optionally
`X.review.json` {"(user, item)": {review, summary}}, and `X.user2id`, `X.item2id`, lines of raw id, tab,
number. Where the maps are, raw ids come back. Every entry of a sequence is a purchase. `X.index.json`, the
names of the items, is not read here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from gream.data.assemble import (
    assemble,
    check_names,
    item_frame,
    one_file,
    protected,
    read_fields,
    read_price,
    shortest,
)
from gream.data.lines import PARSE_ERRORS, open_plain
from gream.data.sources import PURCHASE_SCHEMA, Source, clean_text, identifier
from gream.data.store import Catalogue, Interactions
from gream.data.unusable import Unusable
from gream.errors import InputError

_ENDING = ".inter.json"
_LONGEST_KEY = 1000  # characters of "(user, item)"; longer ones are no keys, and slow to parse
_COMMA = re.compile(r",(?! )")  # joins names; in "Clothing, Shoes & Jewelry" the comma is part of one


def read_lcrec(path: Path, items_path: Path | None) -> Source:
    """Read a folder in LC-Rec's form, or the set of one `X.inter.json`; `items_path` replaces `X.item.json`.

    Raises:
        InputError: no or several sets in the folder, a file that holds no JSON object, or nothing to use.
    """
    inter = path if path.is_file() else one_file(path, _ENDING)
    if not inter.name.endswith(_ENDING):
        raise InputError(
            f"{inter} does not end in `{_ENDING}`; give the sequences of a set in LC-Rec's form."
        )
    files = {
        kind: inter.with_name(inter.name.removesuffix(_ENDING) + kind)
        for kind in (".item.json", ".review.json", ".user2id", ".item2id")
    }
    unusable, counts = Unusable(), {"users_without_purchases": 0}
    raw_users, raw_items = (_id_map(files[kind], unusable) for kind in (".user2id", ".item2id"))
    bought = _sequences(inter, raw_users, raw_items, unusable, counts)
    reviews = _reviews(files[".review.json"], set(bought), unusable)
    purchases = pl.DataFrame(
        [(raw_users.get(u, u), raw_items.get(i, i), None, reviews.get((u, i))) for u, i in bought],
        schema=PURCHASE_SCHEMA,
        orient="row",
    )
    items_file = items_path or files[".item.json"]
    rows = read_items(items_file, unusable, raw_items) if items_path or items_file.is_file() else []
    return assemble(item_frame(rows), purchases, unusable=unusable, counts=counts)


def read_items(path: Path, unusable: Unusable, raw_ids: Mapping[str, str]) -> list[tuple[object, ...]]:
    """Read an `X.item.json` as rows of ITEM_SCHEMA.

    Args:
        path: the file.
        unusable: takes entries that are no items.
        raw_ids: number of an item to its raw id; empty if there is no map.

    Raises:
        InputError: no such file, or one that holds no JSON object.
    """
    rows: dict[str, tuple[object, ...]] = {}
    for key, entry in _entries(path):
        unusable.rows += 1
        where = f"{path}, item {key!r}"
        item = identifier(key)
        if item is None or not isinstance(entry, dict):
            unusable.add("no item", [where])
        elif raw_ids and item not in raw_ids:
            unusable.add("an item without a raw id", [where])
        elif item in rows:
            unusable.add("the same item again", [where])
        else:
            texts = (_text(entry.get(name)) for name in ("title", "description", "brand"))
            names = _names(entry.get("categories"))
            rows[item] = (raw_ids.get(item, item), *texts, names, read_price(entry.get("price")))
    return list(rows.values())


def write_lcrec(folder: Path, name: str, catalogue: Catalogue, interactions: Interactions) -> None:
    """Write whole sequences and the catalogue as LC-Rec and GREAM read them, with the id maps.

    `name`.inter.json, .item.json, .user2id and .item2id; `read_lcrec` gives the same sequences, ids and texts
    back. The format knows no times. A comma inside the name of a category gets a blank behind it, as bare
    commas join names.

    Raises:
        InputError: a name that is a path, or an id that a line of the map cannot hold.
    """
    check_names(name, [*interactions.user_ids, *catalogue.item_ids])
    folder.mkdir(parents=True, exist_ok=True)
    sequences = {str(user): items.tolist() for user, items in enumerate(interactions.sequences)}
    _write_json(folder / f"{name}{_ENDING}", sequences)
    _write_json(
        folder / f"{name}.item.json", {str(item): _entry(catalogue, item) for item in range(len(catalogue))}
    )
    for kind, raw_ids in (("user", interactions.user_ids), ("item", catalogue.item_ids)):
        lines = (f"{raw}\t{index}\n" for index, raw in enumerate(raw_ids))
        (folder / f"{name}.{kind}2id").write_text("".join(lines), encoding="utf-8", newline="\n")


def _sequences(
    path: Path,
    raw_users: Mapping[str, str],
    raw_items: Mapping[str, str],
    unusable: Unusable,
    counts: dict[str, int],
) -> list[tuple[str, str]]:
    """Return the numbers of user and item of every purchase, as text."""
    bought: list[tuple[str, str]] = []
    for key, sequence in _entries(path):
        user = identifier(key)
        if not isinstance(sequence, list):
            unusable.rows += 1
            unusable.add("no list of items", [f"{path}, user {key!r}"])
            continue
        counts["users_without_purchases"] += not sequence
        unusable.rows += len(sequence)
        for position, value in enumerate(sequence, start=1):
            where = f"{path}, user {key!r}, place {position}"
            item = identifier(value)
            if user is None or item is None:
                unusable.add("no user id" if user is None else "no item id", [where])
            elif raw_users and user not in raw_users:
                unusable.add("a user without a raw id", [where])
            elif raw_items and item not in raw_items:
                unusable.add("an item without a raw id", [where])
            else:
                bought.append((user, item))
    return bought


def _reviews(
    path: Path, bought: set[tuple[str, str]], unusable: Unusable
) -> dict[tuple[str, str], str | None]:
    reviews: dict[tuple[str, str], str | None] = {}
    for text, entry in _entries(path) if path.is_file() else []:
        unusable.rows += 1
        where = f"{path}, {text[:60]!r}"
        key = _pair(text)
        if key is None or not isinstance(entry, dict):
            unusable.add("no review of a user and an item", [where])
        elif key not in bought:
            unusable.add("a review of no purchase", [where])
        elif key in reviews:
            unusable.add("a second review of a purchase", [where])
        else:
            parts = (_text(entry.get(name)) for name in ("summary", "review"))
            reviews[key] = ": ".join(part for part in parts if part) or None
    return reviews


def _pair(text: str) -> tuple[str, str] | None:
    """Read a key such as "(3, 17)", which Python printed; None for anything else."""
    if len(text) > _LONGEST_KEY:
        return None
    try:
        pair = ast.literal_eval(text)
    except PARSE_ERRORS:
        return None
    if not isinstance(pair, tuple) or len(pair) != 2:
        return None
    user, item = map(identifier, pair)
    return None if user is None or item is None else (user, item)


def _id_map(path: Path, unusable: Unusable) -> dict[str, str]:
    """Return number to raw id; nothing if there is no such file."""
    raw_ids: dict[str, str] = {}
    taken: set[str] = set()
    for line, fields in read_fields(path, separator="\t").iter_rows() if path.is_file() else []:
        unusable.rows += 1
        where = f"{path}, line {line}"
        if len(fields) != 2 or not all(field.strip() for field in fields):
            unusable.add("no raw id and number", [where])
        elif fields[1] in raw_ids or fields[0] in taken:
            unusable.add("a raw id or number again", [where])
        else:
            raw_ids[fields[1]] = fields[0]
            taken.add(fields[0])
    return raw_ids


def _entries(path: Path) -> list[tuple[str, Any]]:
    """Return keys and values of the one JSON object of a file, repeated keys too."""
    with open_plain(path) as handle:
        raw = handle.read()
    try:
        pairs = json.loads(raw, object_pairs_hook=_Pairs)
    except PARSE_ERRORS as error:
        raise InputError(f"{path} is no complete JSON file ({error}); fetch it again.") from error
    if not isinstance(pairs, _Pairs):
        raise InputError(f"{path} holds no JSON object; it must look like {{...}}.")
    return [(key, dict(value) if isinstance(value, _Pairs) else value) for key, value in pairs]


class _Pairs(list[tuple[str, Any]]):
    """An object of a JSON file with every entry, also those whose key comes again."""


def _text(value: object) -> str:
    texts = value if isinstance(value, list) else [value]
    return " ".join(text for text in (clean_text(part) for part in texts if isinstance(part, str)) if text)


def _names(value: object) -> list[str]:
    parts: Sequence[object] = (
        _COMMA.split(value) if isinstance(value, str) else value if isinstance(value, list) else []
    )
    return [name for name in map(_text, parts) if name]


def _entry(catalogue: Catalogue, item: int) -> dict[str, object]:
    price = np.float32(catalogue.prices[item])
    names = (_COMMA.sub(", ", name).strip(", ") for name in catalogue.categories[item])
    return {
        "title": protected(catalogue.titles[item]),
        "description": protected(catalogue.descriptions[item]),
        "brand": protected(catalogue.brands[item]),
        "categories": ",".join(protected(name) for name in names),
        "price": None if np.isnan(price) else shortest(price),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=4) + "\n", encoding="utf-8", newline="\n")
