"""The words of a command line: a place, settings after it, and the request for help."""

from __future__ import annotations

from pathlib import Path

from gream.arguments import StageConfig, describe, parse_overrides
from gream.errors import InputError


def values(words: list[str]) -> list[str]:
    """Return the words after the first, and what stands behind its `=`."""
    _, has_value, value = words[0].partition("=")
    return [*([value] if has_value else []), *words[1:]]


def place(words: list[str], what: str, usage: str, cls: type[StageConfig]) -> tuple[str | None, list[str]]:
    """Take the folder that a command needs; None after printing the help.

    Raises:
        InputError: there is none.
    """
    if asks_for_help(words, cls, usage):
        return None, []
    if not words or words[0].startswith("--"):
        raise InputError(f"`{usage}` needs {what}.")
    return words[0], words[1:]


def asks_for_help(words: list[str], cls: type[StageConfig], usage: str) -> bool:
    """Print the settings where the words ask for help; returns whether they do."""
    if not {"-h", "--help"} & set(words):
        return False
    print(f"usage: {usage} [--key value ...]\n\nsettings:\n{describe(cls)}")
    return True


def file_and_overrides(words: list[str], cls: type[StageConfig]) -> tuple[Path | None, dict[str, object]]:
    """Return the file that `--config` names, and the other settings."""
    given = parse_overrides(words, cls)
    file = given.pop("config", None)
    return (Path(str(file)) if file is not None else None), given
