"""Where models and data would come from, and how much room there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from gream.doctor.findings import ABSENT, BROKEN, NOTE, WORKS, Finding

AREA = "places"
_GIB = 2**30
_LEAST_DISK = (
    2 * _GIB
)  # a run of the demo takes a few hundred megabytes, a checkpoint of a small model as much
_LEAST_MEMORY = 2 * _GIB  # the demo's largest stage takes about one
_DATA = "../shared/data"  # where the tests look for real data without GREAM_DATA


def places(environment: Mapping[str, str], here: Path) -> list[Finding]:
    """Look at the folders that the environment names, and at the disk and memory here."""
    return [_models(environment), _data(environment, here), _disk(here), _memory()]


def hub_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of downloaded models, as huggingface_hub finds it."""
    home = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(environment.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _models(environment: Mapping[str, str]) -> Finding:
    cache = hub_cache(environment)
    models = sorted(path.name.removeprefix("models--").replace("--", "/") for path in cache.glob("models--*"))
    held = f"{len(models)} models in {cache}" + (f": {', '.join(models[:3])}" if models else "")
    if environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        mend = (
            "" if models else "unset HF_HUB_OFFLINE to download one, or give a model's folder as base_model"
        )
        return Finding(AREA, "models", NOTE, f"{held}; HF_HUB_OFFLINE is set: nothing is downloaded", mend)
    return Finding(AREA, "models", NOTE, f"{held}; others are downloaded by name")


def _data(environment: Mapping[str, str], here: Path) -> Finding:
    given = environment.get("GREAM_DATA")
    folder = Path(given) if given else here / _DATA
    sets = sorted(path.name for path in folder.glob("*") if path.is_dir())
    if sets:
        return Finding(AREA, "data", WORKS, f"{', '.join(sets)} in {folder}")
    if given:
        mend = "correct GREAM_DATA, or unset it"
        return Finding(AREA, "data", BROKEN, f"GREAM_DATA is {folder}, which holds no data set", mend)
    told = f"no real data in {folder}; the simulated shop needs none"
    return Finding(
        AREA, "data", ABSENT, told, "set GREAM_DATA to a folder of sets, or name files in the recipe"
    )


def _disk(here: Path) -> Finding:
    free = shutil.disk_usage(here).free
    told = f"{free / _GIB:.0f} GB free in {here}"
    if not os.access(here, os.W_OK):
        return Finding(AREA, "disk", BROKEN, f"{here} cannot be written", "work in a folder of your own")
    if free < _LEAST_DISK:
        return Finding(
            AREA, "disk", BROKEN, told, f"free {_LEAST_DISK / _GIB:.0f} GB, or choose another run_dir"
        )
    return Finding(AREA, "disk", WORKS, told)


def _memory() -> Finding:
    pages = {name: os.sysconf(name) for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES", "SC_PAGE_SIZE")}
    whole = pages["SC_PHYS_PAGES"] * pages["SC_PAGE_SIZE"]
    unused = pages["SC_AVPHYS_PAGES"] * pages["SC_PAGE_SIZE"]
    told = f"{whole / _GIB:.0f} GB, {unused / _GIB:.0f} GB of it unused"
    if whole < _LEAST_MEMORY:
        return Finding(AREA, "memory", BROKEN, told, f"gream needs {_LEAST_MEMORY / _GIB:.0f} GB")
    return Finding(AREA, "memory", WORKS, f"{told}; {os.cpu_count()} cores")
