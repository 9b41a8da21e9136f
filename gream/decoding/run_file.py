"""What `gream run` notes of a finished run, read with care: the file lies where people edit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import Field, ValidationError, create_model

from gream.decoding.beam import check_levels
from gream.decoding.consistency import check_pruning
from gream.decoding.recommend import Search
from gream.errors import InputError
from gream.semantic_ids.layout import Names

SERVED = (
    "num_beams", "rule", "scorer_weight", "scorer_levels", "prune_threshold", "prune_level",
    "num_chains", "max_chain_tokens", "temperature", "choose", "agree",
)  # fmt: skip
_FOLDERS = ("data", "sids", "model", "scorer")
_HINTS = get_type_hints(Search)
_TYPES: dict[str, Any] = {name: (_HINTS[name], ...) for name in SERVED}
_Served = create_model("_Served", max_history=(Annotated[int, Field(ge=1)], ...), **_TYPES)


def read_run_settings(path: Path) -> dict[str, Any]:
    """Read the settings that a run is served with, and the names of its folders.

    Raises:
        InputError: the file holds no such settings.
    """
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); run `gream run RECIPE` again.") from error
    names = settings if isinstance(settings, dict) else {"data": None}
    if not all(isinstance(name := names.get(key, ""), str) and "\0" not in name for key in _FOLDERS):
        raise InputError(f"{path} does not name the folders of a run; run `gream run RECIPE` again.")
    return names


def read_search(settings: Mapping[str, Any], path: Path) -> tuple[Search, int]:
    """Return the search that a run is served with, and how much of a history its prompts show.

    Args:
        settings: of `read_run_settings`.
        path: where they stand, for mistakes.

    Raises:
        InputError: one is missing, of another type, or out of its range.
    """
    needed = (*_FOLDERS, "max_history", *SERVED)
    missing = [name for name in needed if name not in settings]
    if missing:
        raise InputError(
            f"{path} was written by an older gream and lacks {', '.join(missing)}; "
            "run `gream run RECIPE` again."
        )
    # JSON has no tuples.
    given = {n: tuple(v) if isinstance(v := settings[n], list) else v for n in ("max_history", *SERVED)}
    try:
        read = _Served.model_validate(given, strict=True).model_dump()
    except ValidationError as error:
        wrong = ", ".join(dict.fromkeys(str(problem["loc"][0]) for problem in error.errors()))
        raise InputError(f"{path} has no proper value for {wrong}; run `gream run RECIPE` again.") from error
    max_history = read.pop("max_history")
    return Search(**read), max_history


def check_fit(search: Search, names: Names, has_scorer: bool, path: Path) -> None:
    """Refuse levels that the names of a run do not have, before its model is loaded.

    Args:
        search: of `read_search`.
        names: of the run.
        has_scorer: whether the run has one; without, nothing is kept by its levels.
        path: where the search stands, for mistakes.

    Raises:
        InputError: such a level, or a threshold of pruning that is no consistency.
    """
    depth = names.layout.num_codebooks
    try:
        if search.prune_threshold is not None:
            check_pruning(search.prune_threshold, search.prune_level, depth)
        if has_scorer:
            check_levels(search.scorer_levels or (), depth)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
