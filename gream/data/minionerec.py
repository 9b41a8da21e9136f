"""The CSV files that MiniOneRec trains on: one purchase a row, with what the user bought before it.

Source: github.com/AkaliKong/MiniOneRec, `convert_dataset.py` and `data.py`. A folder has `train/X.csv`,
`valid/X.csv` and `test/X.csv`, or three files `*train*.csv`, `*valid*.csv` and `*test*.csv`. Columns:
`user_id`, `item_id` (the purchase of this row), `item_title`, `history_item_id` and `history_item_title`
(lists as Python prints them), and names of the items, which are not read here; sets of its forerunners also
have `timestamp` and `history_timestamp`. A history is cut to its last 50 items or fewer; the training rows
may run backwards or be a selection. So a user's sequence is put together from all rows, each where it begins
as the ones before it end, and each purchase stands in it once. Every row is a purchase, whatever its rating.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from gream.data.assemble import (
    LARGEST_TIME,
    assemble,
    item_frame,
    read_records,
    ticks_per_second,
)
from gream.data.lcrec import read_items
from gream.data.lines import PARSE_ERRORS
from gream.data.sources import PURCHASE_SCHEMA, Source, clean_text, identifier
from gream.data.unusable import Unusable
from gream.errors import InputError

SPLITS = ("train", "valid", "test")
_NEEDED = ("user_id", "item_id", "history_item_id")
_LONGEST_LIST = 100_000  # characters of a list; the published ones have at most 50 entries

Times = tuple[int | None, ...]


@dataclass(frozen=True)
class Row:
    """The items of a history and, last, the one bought then, with their times."""

    items: tuple[str, ...]
    times: Times


@dataclass
class _Found:
    """What the files hold: each user's rows in the order of the files, and titles of items."""

    rows: dict[str, dict[tuple[str, ...], Row]] = field(default_factory=lambda: defaultdict(dict))
    titles: dict[str, str] = field(default_factory=dict)  # also of items whose title is empty


def read_minionerec(path: Path, items_path: Path | None) -> Source:
    """Read a folder of MiniOneRec, or the set of one `train` file where a folder has several.

    Titles come from the CSV files, which have one for every item; `items_path` may name an `X.item.json` in
    LC-Rec's form, which MiniOneRec writes too, for descriptions, brands and categories.

    Raises:
        InputError: a split that is missing or there twice, a missing column, or nothing to use.
    """
    unusable, found = Unusable(), _Found()
    for file in _files(path):
        _read_rows(file, found, unusable)
    bought: list[tuple[str, str, int | None, None]] = []
    gaps = 0
    for user, rows in found.rows.items():
        items, times, is_whole = rebuilt(list(rows.values()))
        gaps += not is_whole
        bought += ((user, item, time, None) for item, time in zip(items, times, strict=True))
    purchases = pl.DataFrame(bought, schema=PURCHASE_SCHEMA, orient="row")
    return assemble(
        item_frame(_items(items_path, found.titles, unusable)),
        purchases,
        unusable=unusable,
        counts={"sequences_with_gaps": gaps},
        per_second=ticks_per_second(purchases["timestamp"]),
    )


def rebuilt(rows: Sequence[Row]) -> tuple[list[str], list[int | None], bool]:
    """Put a user's sequence together from rows that each show a part of it, in any order.

    A row that is shorter than the longest began with the user's first purchase. Of the others, the one goes
    on whose history is what the sequence ends with, or, where such a row is missing, the one that overlaps
    with the end most.

    Returns:
        Items, their times, and whether every row overlapped with the ones before it.
    """
    left = {row: None for row in sorted(rows, key=lambda row: len(row.items))}
    size = max(len(row.items) for row in rows) - 1  # of the longest history
    after: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in left:
        after[row.items[:-1]].append(row)
    items, times, is_whole = list[str](), list[int | None](), True
    row, shared = _earliest(list(left)), 0
    while True:
        items += row.items[shared:]
        times += row.times[shared:]
        del left[row]
        after[row.items[:-1]].remove(row)
        if not left:
            return items, times, is_whole
        following = after.get(tuple(items[max(0, len(items) - size) :]))
        if following:
            row = following[0]
            shared = len(row.items) - 1
        else:
            shared, row = _most_shared(items, list(left))
            is_whole = is_whole and shared > 0


def _earliest(rows: Sequence[Row]) -> Row:
    """Return, of the shortest rows, which come first, the first one that goes on from no other of them."""
    shortest = [row for row in rows if len(row.items) == len(rows[0].items)]
    ends = {row.items[1:] for row in shortest}
    return next((row for row in shortest if row.items[:-1] not in ends), rows[0])


def _most_shared(items: Sequence[str], rows: Sequence[Row]) -> tuple[int, Row]:
    """Return how much of the end of `items` a row begins with, and the first row that has the most of it."""
    best, chosen = 0, _earliest(rows)
    for row in rows:
        for length in range(min(len(items), len(row.items)), best, -1):
            if tuple(items[len(items) - length :]) == row.items[:length]:
                best, chosen = length, row
                break
    return best, chosen


def _files(path: Path) -> list[Path]:
    """Return the files of the three splits."""
    if path.is_file():
        if path.parent.name == SPLITS[0]:
            return [path.parent.parent / split / path.name for split in SPLITS]
        if SPLITS[0] in path.name:
            return [path.with_name(path.name.replace(SPLITS[0], split)) for split in SPLITS]
        raise InputError(f"{path} is no file of `train` rows; give that one, or its folder.")
    files: list[Path] = []
    for split in SPLITS:
        found = sorted((path / split).glob("*.csv")) or sorted(path.glob(f"*{split}*.csv"))
        if len(found) != 1:
            names = ", ".join(f"`{file.name}`" for file in found) or "none"
            raise InputError(
                f"{path} must hold one CSV file of `{split}` rows, but has {names}; correct the path, or "
                "give that of one `train` file."
            )
        files += found
    return files


def _read_rows(path: Path, found: _Found, unusable: Unusable) -> None:
    records = read_records(path, ",", unusable)
    _, header = next(records)
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise InputError(
            f"{path} has no column `{missing[0]}`; it has {', '.join(header)}; give MiniOneRec's CSV files."
        )
    for where, fields in records:
        values = dict(zip(header, fields, strict=True))
        user, item = identifier(values["user_id"]), identifier(values["item_id"])
        history = _listed(values["history_item_id"])
        earlier = [identifier(value) for value in history or []]
        if user is None:
            unusable.add("no user id", [where])
        elif item is None:
            unusable.add("no item id", [where])
        elif history is None or None in earlier:
            unusable.add("no list of earlier items", [where])
        else:
            items = tuple(sys.intern(value) for value in (*earlier, item) if value is not None)
            times = _times(values, len(items))
            if times is None:
                unusable.add("no time", [where])
            elif items in found.rows[user]:
                unusable.add("the same row again", [where])
            else:
                found.rows[user][items] = Row(items, times)
                _note_titles(items, values, found.titles)


def _times(values: Mapping[str, str], size: int) -> Times | None:
    """Return the times of a row, None each where the file has none; None if they are no times."""
    last = values.get("timestamp", "").strip()
    earlier = _listed(values["history_timestamp"]) if "history_timestamp" in values else [None] * (size - 1)
    if earlier is None or len(earlier) != size - 1:
        return None
    times: list[int | None] = []
    for value in (*earlier, _number(last) if last else None):
        if value is None:
            times.append(None)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_TIME:
            return None
        else:
            times.append(int(value // 1))
    return tuple(times)


def _number(text: str) -> float | int:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _note_titles(items: Sequence[str], values: Mapping[str, str], titles: dict[str, str]) -> None:
    title = clean_text(values.get("item_title", ""))
    if not titles.get(items[-1]):
        titles[items[-1]] = title
    if all(item in titles for item in items):
        return  # parsing the titles of every history would take most of the time
    earlier = _listed(values.get("history_item_title", "")) or []
    same_size = len(earlier) == len(items) - 1
    for place, item in enumerate(items[:-1]):
        value = earlier[place] if same_size else None
        if not titles.get(item):
            titles[item] = clean_text(value) if isinstance(value, str) else ""


def _listed(text: str) -> list[object] | None:
    """Read a list as Python prints it; None for anything else."""
    if len(text) > _LONGEST_LIST:
        return None
    try:
        value = ast.literal_eval(text.strip())
    except PARSE_ERRORS:
        return None
    return value if isinstance(value, list) else None


def _items(path: Path | None, titles: Mapping[str, str], unusable: Unusable) -> list[tuple[object, ...]]:
    known = {row[0]: row for row in read_items(path, unusable, {})} if path else {}
    rows = [(item, title or titles.get(str(item), ""), *rest) for item, title, *rest in known.values()]
    return rows + [(item, title, "", "", [], None) for item, title in titles.items() if item not in known]
