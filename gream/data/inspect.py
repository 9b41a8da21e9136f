"""`gream data --inspect FILE`: what a file or folder looks like, and a recipe that reads it.

Only the beginning of a file is read. Values and names in the file are data: they are printed escaped, and
stand quoted in the recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import yaml

from gream.data.frames import json_values
from gream.data.head import Head, read_head
from gream.data.sources import ITEMS_FILE, SEQUENCES_FILE
from gream.data.tables import read_times
from gream.errors import InputError

RECIPE_FILE = "01-data.yaml"

# What columns are called in the wild, in small letters without signs; the first that is there is taken.
_KNOWN_NAMES = {
    "user": "user userid uid customer customerid reviewerid visitorid memberid buyerid accountid session "
    "sessionid who",
    "item": "item itemid iid product productid parentasin asin sku articleid movieid bookid isbn trackid "
    "artistid goodsid",
    "time": "timestamp time ts unixreviewtime datetime date eventtime purchasedate orderdate createdat tdat",
    "title": "title itemtitle producttitle movietitle name itemname productname prodname",
    "description": "description desc itemdescription productdescription detaildesc",
    "brand": "brand brandname manufacturer store vendor",
    "category": "categories category genres genre productcategory maincategory department",
    "price": "price unitprice cost",
    "review": "review reviewtext comment text",
}
_METADATA_OF_OLD = {"imUrl", "salesRank", "also_buy", "main_cat"}
_METADATA_2023 = {"main_category", "details"}
_KINDS = {"json": "JSON lines", "literal": "Python literals", "csv": "CSV", "parquet": "Parquet"}
_SUFFIXES_OF = {"json": (".jsonl", ".ndjson", ".json"), "csv": (".csv", ".tsv"), "parquet": (".parquet",)}
_MOST_UNREADABLE = 0.05  # share of a column's values; above it the column is something else
_NUM_EXAMPLES, _NUM_SHOWN, _WIDTH = 3, 40, 34  # examples of a column; columns; letters of either


@dataclass(frozen=True)
class Look:
    """What a file or folder is, and the settings that read it; none where it is only a part."""

    what: str
    settings: dict[str, object]
    head: Head
    notes: tuple[str, ...] = ()


class _Dumper(yaml.SafeDumper):
    """Quotes `1e5` too, which a recipe would read as a number."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def inspect(path: Path) -> str:
    """Say what a file or folder looks like and how to read it.

    Raises:
        InputError: nothing there, an empty or damaged file, or a folder with nothing that gream knows.
    """
    look = _look_at_folder(path) if path.is_dir() else _look_at_file(path, read_head(path))
    parts = [f"{_safe(str(path))}: {look.what}, {look.head.size}", *_table(look.head), *look.notes]
    if look.settings:
        parts += [f"A recipe for it, to be saved as {RECIPE_FILE}:", "", recipe(look.settings)]
    return "\n".join(parts).rstrip() + "\n"


def recipe(settings: dict[str, object]) -> str:
    """Return the YAML of stage `data` with these settings."""
    for allow_unicode in (True, False):  # PyYAML quotes, but does not escape, some line ends of Unicode
        text: str = yaml.dump(
            settings, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=1000
        )
        if text.replace("\n", "").isprintable():
            break
    return f"# gream data --config {RECIPE_FILE}\n{text}"


def _look_at_folder(folder: Path) -> Look:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    names = {file.name for file in files}
    if {ITEMS_FILE, SEQUENCES_FILE} <= names:
        return Look("gream's own JSONL", _settings("jsonl", folder), read_head(folder / SEQUENCES_FILE))
    if "ratings.dat" in names:
        return Look("MovieLens-1M", _settings("movielens", folder), read_head(folder / "ratings.dat"))
    if "u.data" in names:
        return Look("MovieLens-100K", _settings("movielens", folder), read_head(folder / "u.data"))
    for ending, source, what in (
        (".inter.json", "lcrec", "LC-Rec JSON"),
        (".inter", "recbole", "RecBole atomic files"),
    ):
        sets = [file for file in files if file.name.endswith(ending)]
        if len(sets) == 1:
            return Look(what, _settings(source, folder), _head_of_set(sets[0]))
    trains = sorted((folder / "train").glob("*.csv")) or sorted(folder.glob("*train*.csv"))
    if len(trains) == 1 and "MiniOneRec" in (look := _look_at_file(trains[0], read_head(trains[0]))).what:
        return Look(look.what, _settings("minionerec", folder), look.head)
    usable = [found for file in files if (found := _maybe(file)) and found.settings]
    if len({str(found.settings["path"]) for found in usable}) == 1:
        return usable[0]
    listed = ", ".join(_safe(name) for name in sorted(names)[:10]) or "no files"
    raise InputError(f"{folder} is no set that gream knows as a whole; inspect one of its files: {listed}.")


def _head_of_set(path: Path) -> Head:
    """The head of a set's file; that of LC-Rec is one object, whose keys are users and no columns."""
    head = read_head(path)
    size = f"{path.stat().st_size:,} bytes"
    return Head("text", {}, head.lines, size) if path.suffix == ".json" else head


def _maybe(file: Path) -> Look | None:
    try:
        return _look_at_file(file, read_head(file))
    except InputError:
        return None


def _look_at_file(path: Path, head: Head) -> Look:
    if path.name in (SEQUENCES_FILE, ITEMS_FILE) and (path.parent / SEQUENCES_FILE).is_file():
        return Look("gream's own JSONL", _settings("jsonl", path.parent), head)
    if path.name in ("ratings.dat", "movies.dat", "u.data", "u.item"):
        return Look("a file of MovieLens", _settings("movielens", path.parent), head)
    if path.name.endswith(".inter.json"):
        return Look("LC-Rec JSON", _settings("lcrec", path), _head_of_set(path))
    if path.suffix in (".inter", ".item"):
        return Look("a RecBole atomic file", _settings("recbole", path.with_suffix(".inter")), head)
    names = set(head.columns)
    if {"user_id", "item_id", "history_item_id"} <= names:
        return Look("MiniOneRec CSV", _settings("minionerec", _train_file(path)), head)
    if head.kind in ("json", "literal") and (look := _look_at_amazon(path, head)):
        return look
    return _look_at_table(path, head)


def _train_file(path: Path) -> Path:
    """The file that names a set of MiniOneRec, for one of its three."""
    if path.parent.name in ("train", "valid", "test"):
        return path.parent.parent / "train" / path.name
    return path.with_name(re.sub("valid|test", "train", path.name, count=1))


def _look_at_amazon(path: Path, head: Head) -> Look | None:
    names = set(head.columns)
    if {"reviewerID", "asin"} <= names:
        edition = "2018" if "verified" in names else "2014"
    elif {"user_id", "parent_asin"} <= names:
        edition = "2023"
    elif ("asin" in names and names & _METADATA_OF_OLD) or (
        "parent_asin" in names and names & _METADATA_2023
    ):
        note = "It holds items and no purchases: inspect the file of reviews that belongs to it."
        return Look("metadata of Amazon Reviews", {}, head, (note,))
    else:
        return None
    stem = re.sub(r"^reviews_", "", path.name)
    stem = re.sub(r"(_5)?(\.jsonl?)?(\.gz)?$", "", stem)
    pattern = re.compile(rf"meta_{re.escape(stem)}(\.jsonl?)?(\.gz)?")
    metadata = [file for file in sorted(path.parent.iterdir()) if pattern.fullmatch(file.name)]
    notes = () if metadata else ("No metadata file lies beside it: items will have no text.",)
    settings = _settings(f"amazon{edition}", path, metadata[0] if metadata else None)
    return Look(f"reviews of Amazon Reviews {edition}", settings, head, notes)


def _look_at_table(path: Path, head: Head) -> Look:
    what = _KINDS.get(head.kind, "text without columns")
    if head.kind not in _SUFFIXES_OF:
        note = "gream has no reader for it: bring it into CSV, Parquet or JSON lines."
        return Look(what, {}, head, (note,))
    if not path.name.lower().removesuffix(".gz").endswith(_SUFFIXES_OF[head.kind]):
        note = f"Its name does not say so: let it end in {' or '.join(_SUFFIXES_OF[head.kind])}."
        return Look(what, {}, head, (note,))
    columns = guess_columns(head)
    if "user" not in columns or "item" not in columns:
        note = "It has no columns that could be users and items: is it a file of purchases?"
        return Look(what, {}, head, (note,))
    known = [key for key in ("user", "item") if _plain_name(columns[key]) not in _KNOWN_NAMES[key].split()]
    notes = tuple(f"The column of the {key} is a guess from the order of columns." for key in known)
    return Look(what, {**_settings("table", path), "columns": columns}, head, notes)


def guess_columns(head: Head) -> dict[str, str]:
    """Return our name to the file's column, for every column that its name and its values give away.

    Users and items that no name gives away are the first columns left whose values can be ids.
    """
    columns: dict[str, str] = {}
    for key, known in _KNOWN_NAMES.items():
        by_name = {_plain_name(name): name for name in reversed(head.columns)}
        fitting = [by_name[word] for word in known.split() if word in by_name]
        fitting = [name for name in fitting if name not in columns.values() and _fits(key, name, head)]
        if fitting:
            columns[key] = fitting[0]
    for key in ("user", "item"):
        left = (name for name in head.columns if name.strip() and name not in columns.values())
        if key not in columns and (name := next((n for n in left if _fits(key, n, head)), None)):
            columns[key] = name
    return {key: columns[key] for key in _KNOWN_NAMES if key in columns}


def _plain_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _fits(key: str, name: str, head: Head) -> bool:
    """Say whether the values of a column can be what `key` stands for, nearly all of them."""
    values = [value for value in head.columns[name] if value is not None and value != ""]
    if not values:
        return key not in ("user", "item")
    if key == "time":
        given = pl.Series([str(value) for value in values] if head.kind == "json" else values)
        return read_times(given).null_count() <= _MOST_UNREADABLE * len(values)
    if head.kind == "json":
        faults = sum(isinstance(json_values({name: value}, {key: name}), str) for value in values)
        return faults <= _MOST_UNREADABLE * len(values)
    is_list = isinstance(values[0], list) and key == "category"
    return is_list or not isinstance(values[0], list | dict | bytes)


def _settings(source: str, path: Path, items_path: Path | None = None) -> dict[str, object]:
    settings: dict[str, object] = {"source": source, "path": _in_recipe(path)}
    if items_path:
        settings["items_path"] = _in_recipe(items_path)
    return settings


def _in_recipe(path: Path) -> str:
    """Spell a path so that a recipe expands nothing in it."""
    text = str(path.absolute() if str(path).startswith("~") else path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"The name of {_safe(text)} is no UTF-8, so no recipe can name it; rename it."
        ) from error
    return text.replace("${", "${GREAM_DOLLAR:-$}{")


def _table(head: Head) -> Iterator[str]:
    """Yield a line for each column: its name, what is missing, examples; or the first lines of a text."""
    if not head.columns:
        yield from (f"  {_short(line)}" for line in head.lines)
        return
    names = {name: _short(name, quoted=False) for name in head.columns}
    width = max(map(len, ["column", *names.values()]))
    yield f"  {'column':<{width}}  missing  examples, of the first {head.num_rows:,} rows"
    for name, values in list(head.columns.items())[:_NUM_SHOWN]:
        found = [value for value in values if value is not None and value != ""]
        missing = 1 - len(found) / len(values) if values else 0
        examples = ", ".join(_short(value) for value in found[:_NUM_EXAMPLES])
        yield f"  {names[name]:<{width}}  {missing:7.0%}  {examples}"
    if len(names) > _NUM_SHOWN:
        yield f"  and {len(names) - _NUM_SHOWN:,} more columns"


def _short(value: object, *, quoted: bool = True) -> str:
    text = repr(value) if quoted else _safe(str(value))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def _safe(text: str) -> str:
    return text if text.isprintable() and text else repr(text)
