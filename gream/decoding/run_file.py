"""What `gream run` notes of a finished run, read with care: the file lies where people edit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gream.errors import InputError

_FOLDERS = ("data", "sids", "model", "scorer")


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
