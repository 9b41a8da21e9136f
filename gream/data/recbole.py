"""RecBole's atomic files: `X.inter`, one purchase a row, and `X.item`, one item a row.

Source: recbole.io/docs, "Atomic Files", and RecBole's `data/dataset/dataset.py`, which reads them as CSV with
tabs and a header of `name:type`, where a type is token, token_seq, float or float_seq. Every row of `X.inter`
is a purchase, whatever its rating. Of the items' fields those under the names below are taken and all others
left alone. RecBole's own Amazon files give categories as Python prints a set without its braces, so their
order there means nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from pathlib import Path

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
    read_purchases,
    read_records,
    shortest,
    ticks_per_second,
)
from gream.data.lines import PARSE_ERRORS
from gream.data.sources import Source, clean_text, identifier
from gream.data.store import Catalogue, Interactions
from gream.data.unusable import Unusable
from gream.errors import InputError

# Names that published files give to what we know of an item; the first that is there counts.
_NAMES = {
    "item_id": ("item_id",),
    "title": ("title", "movie_title", "name", "item_name"),
    "description": ("description",),
    "brand": ("brand", "store"),
    "categories": ("categories", "category", "class", "genre", "genres"),
    "price": ("price",),
}
_INTER = ("user_id", "item_id", "timestamp")
_LONGEST_LIST = 10_000  # characters of an item's categories


def read_recbole(path: Path, items_path: Path | None) -> Source:
    """Read a folder with one `X.inter`, or that file, and the `X.item` beside it, if there is one.

    Times beyond the year 5000 are milliseconds. `items_path` replaces `X.item`.

    Raises:
        InputError: no or several sets in the folder, an empty file, a missing field, or nothing to use.
    """
    inter = path if path.is_file() else one_file(path, ".inter")
    unusable = Unusable()
    rows = read_fields(inter, separator="\t")
    header = rows["fields"][0].to_list()
    places = {name: place for place, name in enumerate(_plain_names(header)) if name in _INTER}
    for name in ("user_id", "item_id"):
        if name not in places:
            raise InputError(f"{inter} has no field `{name}:token`; it has {', '.join(header)}; rename one.")
    purchases = read_purchases(rows[1:], inter, places, len(header), unusable)
    items_file = items_path or inter.with_suffix(".item")
    items = _items(items_file, unusable) if items_path or items_file.is_file() else []
    return assemble(
        item_frame(items),
        purchases,
        unusable=unusable,
        counts={},
        per_second=ticks_per_second(purchases["timestamp"]),
    )


def write_recbole(
    folder: Path,
    name: str,
    catalogue: Catalogue,
    interactions: Interactions,
    timestamps: pl.Series | None,
) -> None:
    """Write `name`.inter and `name`.item, which RecBole loads and `read_recbole` gives back.

    RecBole orders purchases by time and knows no other order. So where nothing is known of the times, the
    position in the user's sequence stands for it; a purchase without a time takes that of the one before it,
    and a time that lies before its predecessor's is raised to that. Fields that no item has are left out.
    Categories are separated by blanks, as a token_seq is, where each is one word, and else written as in
    RecBole's own Amazon files.

    Args:
        folder: made if need be.
        name: of the set; a plain name.
        catalogue: the items.
        interactions: the users' purchases.
        timestamps: UNIX seconds of all purchases, user after user; null where unknown.

    Raises:
        InputError: a name that is a path, or an id that a line cannot hold.
    """
    check_names(name, [*interactions.user_ids, *catalogue.item_ids])
    folder.mkdir(parents=True, exist_ok=True)
    times = _rising(interactions, timestamps)
    rows = (
        (user, catalogue.item_ids[item])
        for user, items in zip(interactions.user_ids, interactions.sequences, strict=True)
        for item in items
    )
    header = [("user_id:token", "item_id:token", "timestamp:float")]
    _write(
        folder / f"{name}.inter",
        [*header, *((*row, str(time)) for row, time in zip(rows, times, strict=True))],
    )
    joined = _joined_by(catalogue)
    fields = {
        "item_id:token": catalogue.item_ids,
        "title:token_seq": [_line(text) for text in catalogue.titles],
        "categories:token_seq": [joined(path) for path in catalogue.categories],
        "brand:token": [_line(text) for text in catalogue.brands],
        "price:float": ["" if np.isnan(price) else str(shortest(price)) for price in catalogue.prices],
        "description:token_seq": [_line(text) for text in catalogue.descriptions],
    }
    fields = {field: values for field, values in fields.items() if any(values)}
    _write(folder / f"{name}.item", [tuple(fields), *zip(*fields.values(), strict=True)])


def _plain_names(header: Iterable[str]) -> list[str]:
    return [field.partition(":")[0].strip() for field in header]


def _items(path: Path, unusable: Unusable) -> list[tuple[object, ...]]:
    records = read_records(path, "\t", unusable)
    _, header = next(records)
    names = _plain_names(header)
    places = {
        key: next((names.index(name) for name in known if name in names), None)
        for key, known in _NAMES.items()
    }
    if places["item_id"] is None:
        raise InputError(f"{path} has no field `item_id:token`; it has {', '.join(header)}; rename one.")
    items: dict[str, tuple[object, ...]] = {}
    for where, fields in records:
        values = {key: "" if place is None else fields[place] for key, place in places.items()}
        item = identifier(values["item_id"])
        if item is None:
            unusable.add("no item id", [where])
        elif item in items:
            unusable.add("the same item again", [where])
        else:
            texts = (clean_text(values[key]) for key in ("title", "description", "brand"))
            items[item] = (item, *texts, _categories(values["categories"]), read_price(values["price"]))
    return list(items.values())


def _categories(text: str) -> list[str]:
    """Read `Animation Comedy`, `Action, Comedy` or `'Home & Kitchen', 'Mugs'`."""
    names: list[object] = [*text.split(", ")] if ", " in text else [*text.split()]
    if text.startswith(("'", '"', "[")) and len(text) < _LONGEST_LIST:
        try:
            value = ast.literal_eval(text if text.startswith("[") else f"[{text}]")
            names = value if isinstance(value, list) else names
        except PARSE_ERRORS:
            pass  # it only looked like a list: 'Til Tuesday
    cleaned = [clean_text(name) for name in names if isinstance(name, str)]
    return [name for name in cleaned if name]


def _joined_by(catalogue: Catalogue) -> Callable[[tuple[str, ...]], str]:
    """Return how this catalogue's categories are written, one way for all of its items."""
    names = {_line(name) for path in catalogue.categories for name in path}
    are_words = all(name.split() == [name] and name[0] not in "'\"[" and "," not in name for name in names)
    if are_words:
        return lambda path: " ".join(map(_line, path))
    return lambda path: ", ".join(repr(_line(name)) for name in path)


def _rising(interactions: Interactions, timestamps: pl.Series | None) -> list[int]:
    lengths = [len(items) for items in interactions.sequences]
    users = pl.Series("user", np.repeat(np.arange(len(lengths)), lengths))
    position = pl.int_range(pl.len()).over("user")
    if timestamps is None or timestamps.null_count() == len(timestamps):
        return users.to_frame().select(position).to_series().to_list()
    filled = pl.col("time").forward_fill().backward_fill().over("user").fill_null(pl.col("time").min())
    frame = pl.DataFrame([users, timestamps.cast(pl.Int64).alias("time")]).with_columns(filled)
    return frame.select(pl.col("time").cum_max().over("user")).to_series().to_list()


def _write(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows as CSV with tabs; a field that begins with a quote has to be quoted."""
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        for row in rows:
            handle.write("\t".join(map(_field, row)) + "\n")


def _line(text: str) -> str:
    """Return a text without tabs and line ends, to be read back as it is."""
    return protected(" ".join(text.split()))


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text
