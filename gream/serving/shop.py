"""What is served right now, and how it changes while requests are answered.

A request takes the loaded run when it arrives and keeps it to its end; a change makes a new one and puts it
in the place of the old, so that no answer is ever made of two. Prices and availability live on the shelf,
which is remembered in the run's folder; new items are named by `gream.semantic_ids.adding`, as
`gream sids --add` does; a run whose model was trained anew is loaded beside the old one and takes its place.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gream.errors import InputError
from gream.run_folder import working_in
from gream.serving.filter_names import FilterNames
from gream.serving.item_search import ItemSearch

if TYPE_CHECKING:
    from gream.decoding.backend import Backend
    from gream.decoding.recommender import Recommender

SHELF_FILE = "shelf.json"
Change = Mapping[str, Any]  # `price` and `available`, where they changed


class Loaded:
    """One loaded run; what it holds does not change, but for its recommender's shelf, which is replaced."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        self.since = datetime.now(UTC).isoformat(timespec="seconds")

    @cached_property
    def search(self) -> ItemSearch:
        """Items by words; made when it is first asked for."""
        return ItemSearch(self.recommender.catalogue)

    @cached_property
    def filter_names(self) -> FilterNames:
        """Categories and brands; collected when they are first asked for."""
        return FilterNames(self.recommender.catalogue)


@dataclass(frozen=True)
class Source:
    """Where a run is loaded from again."""

    run: Path
    load: Callable[[Recommender | None], Recommender]  # given the one that is served, whose model may go on


class Shop:
    """The loaded run that answers, and the only one who changes it.

    Changes come from threads and take turns; readers take `current` once and never wait.
    """

    def __init__(self, recommender: Recommender, source: Source | None = None) -> None:
        """Open with a recommender.

        Args:
            recommender: what answers first.
            source: where it came from; without one nothing can be added or loaded, and changes are not kept.

        Raises:
            InputError: what was remembered of the shelf cannot be read.
        """
        self._source = source
        self._turn = threading.Lock()
        self._changes = _remembered(source.run) if source else {}
        self._users: Counter[int] = Counter()  # loaded runs that need a loaded model, by its identity
        self.current = self._opened(recommender)

    def change(self, item_id: str, change: Change) -> None:
        """Change price or availability of an item, from the next request on.

        Raises:
            InputError: an unknown item, or a folder that cannot be written to.
        """
        with self._turn:
            recommender = self.current.recommender
            [item] = recommender.catalogue.lookup([item_id], "the request", suggest=False)
            changes = {**self._changes, item_id: {**self._changes.get(item_id, {}), **change}}
            if self._source:
                _remember(self._source.run, changes)
            self._changes = changes
            recommender.shelf = recommender.shelf.changed(item, **change)

    def reload(self) -> Loaded:
        """Load the run's folder again and serve what it holds now.

        Raises:
            InputError: the folder holds no run that fits together; what is served stays as it is.
        """
        with self._turn:
            return self._load()

    def add(self, items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Name new items and serve them; returns their names by item id.

        Raises:
            InputError: an item that has a name already, no free name, another command that works in the
                run's folder, or what `reload` raises.
        """
        from gream.semantic_ids.adding import ENDING, add_items
        from gream.semantic_ids.build import SidsConfig

        with self._turn:
            run = self._needed().run
            settings = json.loads((run / "run.json").read_text(encoding="utf-8"))
            config = SidsConfig(run_dir=str(run), output=settings["sids"].removesuffix(ENDING))
            with tempfile.TemporaryDirectory(prefix="gream-") as folder:
                file = Path(folder) / "items.jsonl"
                file.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
                with working_in(run, "gream serve, which adds items"):
                    report = add_items(config, file)
            self._load()
        names: dict[str, str] = report["names"]
        return names

    def _load(self) -> Loaded:
        self.current = self._opened(self._needed().load(self.current.recommender))
        return self.current

    def _opened(self, recommender: Recommender) -> Loaded:
        """Make it ready to answer; its model is closed when the last answer that needs it is there."""
        backend = recommender.engine.backend
        self._users[id(backend)] += 1
        weakref.finalize(recommender, self._left, backend)
        return Loaded(self._stocked(recommender))

    def _left(self, backend: Backend) -> None:
        self._users[id(backend)] -= 1
        if not self._users[id(backend)]:
            del self._users[id(backend)]
            backend.close()

    def _needed(self) -> Source:
        if self._source is None:
            raise InputError(
                "This service has no run's folder to load from; start it with `gream serve RUN`."
            )
        return self._source

    def _stocked(self, recommender: Recommender) -> Recommender:
        """Put what changed on the shelf of a newly loaded run; what it no longer has is passed over."""
        prices, available = recommender.shelf.prices.copy(), recommender.shelf.available.copy()
        for item_id, change in self._changes.items():
            item = recommender.catalogue.index.get(item_id)
            if item is not None:
                prices[item] = change.get("price", prices[item])
                available[item] = change.get("available", available[item])
        recommender.shelf = type(recommender.shelf)(prices, np.asarray(available))
        return recommender


def _remembered(run: Path) -> dict[str, Change]:
    file = run / SHELF_FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {item_id: {name: change[name] for name in change} for item_id, change in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{file} cannot be read ({error}); delete it to begin with a full shelf.") from error


def _remember(run: Path, changes: Mapping[str, Change]) -> None:
    """Write the file whole, or not at all.

    Raises:
        InputError: the folder cannot be written to.
    """
    partial = run / f".{SHELF_FILE}.partial"
    try:
        partial.write_text(json.dumps(changes, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, run / SHELF_FILE)
    except OSError as error:
        raise InputError(
            f"The change cannot be kept in the run's folder ({error.strerror}); let the service write there."
        ) from error
