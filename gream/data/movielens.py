"""MovieLens-1M and MovieLens-100K, as GroupLens publishes them: grouplens.org/datasets/movielens.

A folder with `ratings.dat` and `movies.dat` (1M; fields end in "::"), or with `u.data` (tabs), `u.item` ("|",
19 flags for the genres) and `u.genre` (their names) (100K). Every rating is a purchase, whatever its score.
A title is as the file has it, year included; the genres stand as categories, although they are no path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from gream.data.assemble import assemble, item_frame, read_fields, read_purchases
from gream.data.sources import Source, clean_text
from gream.data.unusable import Unusable
from gream.errors import InputError

_ENCODING = "latin-1"
_NO_GENRE = ("unknown", "(no genres listed)")
_FLAGS_FROM = 5  # of u.item: id, title, two dates, address, flags
_PLACES = {"user_id": 0, "item_id": 1, "timestamp": 3}


def read_movielens(path: Path, items_path: Path | None) -> Source:
    """Read a folder of MovieLens; `items_path` replaces its `movies.dat` or `u.item`.

    Raises:
        InputError: a folder without the files, an empty file, or no rating that can be used.
    """
    unusable = Unusable()
    if (path / "ratings.dat").is_file():
        ratings, separator, movies = path / "ratings.dat", "::", items_path or path / "movies.dat"
    elif (path / "u.data").is_file():
        ratings, separator, movies = path / "u.data", "\t", items_path or path / "u.item"
    else:
        raise InputError(
            f"{path} has neither `ratings.dat` (MovieLens-1M) nor `u.data` (100K); give the folder of one."
        )
    rows = read_fields(ratings, separator=separator, encoding=_ENCODING)
    purchases = read_purchases(rows, ratings, _PLACES, 4, unusable)
    items = _movies(movies, unusable) if separator == "::" else _flagged_movies(movies, path, unusable)
    return assemble(items, purchases, unusable=unusable, counts={})


def _movies(path: Path, unusable: Unusable) -> pl.DataFrame:
    """Read lines such as `1::Toy Story (1995)::Animation|Children's|Comedy`."""
    rows = read_fields(path, separator="::", encoding=_ENCODING)
    return _catalogue(rows, path, lambda fields: fields[2].split("|"), 3, unusable)


def _flagged_movies(path: Path, folder: Path, unusable: Unusable) -> pl.DataFrame:
    """Read lines such as `1|Toy Story (1995)|01-Jan-1995||http://...|0|0|0|1|1|1|0|...`."""
    genres = [fields[0] for fields in read_fields(folder / "u.genre", separator="|")["fields"].to_list()]
    rows = read_fields(path, separator="|", encoding=_ENCODING)

    def names(fields: list[str]) -> list[str]:
        flags = fields[_FLAGS_FROM:]
        return [genre for genre, flag in zip(genres, flags, strict=True) if flag.strip() == "1"]

    return _catalogue(rows, path, names, _FLAGS_FROM + len(genres), unusable)


def _catalogue(
    rows: pl.DataFrame, path: Path, names: Callable[[list[str]], list[str]], width: int, unusable: Unusable
) -> pl.DataFrame:
    items: dict[str, tuple[object, ...]] = {}
    for line, fields in rows.iter_rows():
        unusable.rows += 1
        where = f"{path}, line {line}"
        item = fields[0]
        if len(fields) != width:
            unusable.add(f"not {width} fields", [where])
        elif not item.strip():
            unusable.add("no item id", [where])
        elif item in items:
            unusable.add("the same item again", [where])
        else:
            genres = [name for name in map(clean_text, names(fields)) if name and name not in _NO_GENRE]
            items[item] = (item, clean_text(fields[1]), "", "", genres, None)
    return item_frame(list(items.values()))
