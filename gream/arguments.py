"""From a YAML file and the command line to one checked dataclass per stage.

Every stage module owns a dataclass that inherits from `StageConfig`. Keys are checked strictly and all
mistakes are told at once: unknown keys with the nearest known one, wrong types, missing values.

The design names TrlParser for this. It was left out: it imports torch, stops at the first unknown key
and does not check the types that come from YAML; pydantic does all three on plain dataclasses.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gream.errors import InputError


def input_folder(default: str | None = None, *, doc: str) -> Any:
    """Declare a field that names a folder written by an earlier stage, relative to `run_dir`.

    Without a default the field is required; with the default "" it is optional.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    return field(metadata={"input": "artefact", "doc": doc}, **options)


def input_files(default: str | None = None, *, doc: str) -> Any:
    """Declare a field that names a file or folder of the user's own, relative to the working directory."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    return field(metadata={"input": "files", "doc": doc}, **options)


def option(default: Any, *, doc: str, from_environment: bool = False) -> Any:
    """Declare a plain setting with its one line of documentation.

    With `from_environment` a file may hold `${VAR:-default}` in it, so that one recipe serves several models.
    """
    metadata = {"doc": doc, "expanded": from_environment}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class StageConfig:
    """What every stage has: where the run lives, the name of its own folder there, and the seed."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    run_dir: str = option("runs/default", doc="folder that holds all folders of one run")
    output: str = option("", doc="name of the folder that this stage writes inside run_dir")
    seed: int = option(0, doc="seed of everything random in this stage")

    @property
    def output_path(self) -> Path:
        """Folder that this stage writes."""
        return Path(self.run_dir) / self.output

    def locate(self, name: str) -> Path:
        """Folder or file that the input field `name` points to."""
        value = Path(os.path.expanduser(getattr(self, name)))  # leaves `~nobody` as it is
        kind = next(f.metadata["input"] for f in fields(self) if f.name == name)
        return Path(self.run_dir) / value if kind == "artefact" else value

    def inputs(self) -> dict[str, Path]:
        """All inputs that are set, by field name; environment variables in user paths are expanded."""
        return {
            f.name: self.locate(f.name)
            for f in fields(self)
            if "input" in f.metadata and getattr(self, f.name)
        }

    def recorded(self) -> dict[str, Any]:
        """The configuration as the manifest keeps it: everything but the place of the run."""
        return {k: v for k, v in asdict(self).items() if k != "run_dir"}


Config = TypeVar("Config", bound=StageConfig)


def load_config(
    cls: type[Config], file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration of one stage from a YAML file and overrides, which win.

    Raises:
        InputError: no such file, broken YAML, unknown or missing keys, wrong types; all of them at once. A
            seed out of range.
    """
    values = {**(read_yaml(file) if file else {}), **(overrides or {})}
    where = str(file) if file else "the command line"
    known = [f.name for f in fields(cls)]
    problems = [_unknown(key, known) for key in values if key not in known]
    problems += [
        f"`{f.name}` is missing ({f.metadata.get('doc', 'required')})"
        for f in fields(cls)
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING
    ]
    if problems:
        raise InputError(f"{where}: {'; '.join(problems)}.")
    try:
        # As JSON, because strict validation of Python objects takes no mapping for a dataclass.
        text = json.dumps(_expand(cls, values), default=str)
        config = TypeAdapter(cls).validate_json(text, strict=True)
    except (TypeError, RecursionError) as error:  # a key that is a list, brackets by the thousand
        raise InputError(f"{where}: settings are nested too deep, or a key in them is no text.") from error
    except ValidationError as error:
        told = [_told(problem) for problem in error.errors()]
        raise InputError(f"{where}: {'; '.join(told)}.") from error
    if not 0 <= config.seed < 2**32:  # what numpy, torch and transformers all take
        raise InputError(f"{where}: `seed` is {config.seed}; give a number from 0 to {2**32 - 1}.")
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-3` is a number, as everybody who writes a learning rate expects."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


# What YAML answers to broken text; a date in month 13 makes a ValueError, many brackets a RecursionError.
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)
_MOST_VALUES = 100_000  # in a file; forty lines of aliases that double spell a trillion
_SHOWN = 200  # characters of a wrong value that a message repeats


def _parsed(text: str) -> Any:
    """Read YAML.

    Raises:
        One of _YAML_ERRORS: it is none, or holds itself, or more values than any recipe.
    """
    values = yaml.load(text, _Loader)
    waiting, seen = [values], 0
    while waiting:
        value, seen = waiting.pop(), seen + 1
        if seen > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES:,} values, or an alias of what it stands in")
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(inner, (list, tuple, set)):
            waiting.extend(inner)
    return values


def parse_overrides(arguments: Sequence[str], cls: type[StageConfig] = StageConfig) -> dict[str, Any]:
    """Turn `--key value` pairs into a mapping.

    The value of a text setting of `cls` is taken as it stands; every other one is read as YAML, so `3`,
    `true` and `[1, 2]` work. A yes-or-no setting without a value is a yes.

    Raises:
        InputError: something that is not a `--key value` pair.
    """
    texts, switches = ({f.name for f in fields(cls) if f.type == kind} for kind in ("str", "bool"))
    values: dict[str, Any] = {}
    queue = list(arguments)
    while queue:
        flag = queue.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise InputError(f"`{flag}` is not understood here; settings are given as `--key value`.")
        key, has_value, text = flag[2:].partition("=")
        key = key.replace("-", "_")
        if not has_value and key in switches and (not queue or queue[0].startswith("--")):
            text = "true"
        elif not has_value:
            if not queue:
                raise InputError(f"`{flag}` has no value; give it as `{flag} VALUE`.")
            text = queue.pop(0)
        try:
            values[key] = text if key in texts else _parsed(text)
        except _YAML_ERRORS as error:
            raise InputError(f"`{flag} {text}` cannot be read as a value; quote it.") from error
    return values


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: no such file, or not a mapping.
    """
    try:
        values = _parsed(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{file} does not exist; give the path of a recipe's YAML file.") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; give a recipe's YAML file.") from error
    except _YAML_ERRORS as error:
        raise InputError(f"{file} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
        raise InputError(f"{file} must hold `key: value` lines, one for each setting.")
    return values


def describe(cls: type[StageConfig]) -> str:
    """Return the table of settings that `gream STAGE --help` prints."""
    rows = []
    for f in fields(cls):
        rows.append(f"  --{f.name:<22} {f.metadata.get('doc', '')} [{_default(f)}]")
    return "\n".join(rows)


def _default(f: Field[Any]) -> str:
    if f.default is not MISSING:
        return repr(f.default)
    return "required" if f.default_factory is MISSING else repr(f.default_factory())


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key `{key}` ({hint})"


def _told(problem: Mapping[str, Any]) -> str:
    """Turn one of pydantic's problems into words; one of the settings together has no place of its own."""
    message = str(problem["msg"])
    if not problem["loc"]:
        return message.removeprefix("Value error, ").rstrip(".")
    given = repr(problem["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    return f"`{'.'.join(map(str, problem['loc']))}` = {shown}: {message}"


def _expand(cls: type[StageConfig], values: dict[str, Any]) -> dict[str, Any]:
    """Expand `${VAR:-default}` in names of the user's files, and where a field allows it."""
    external = {
        f.name for f in fields(cls) if f.metadata.get("input") == "files" or f.metadata.get("expanded")
    }
    return {k: _variables(v) if k in external and isinstance(v, str) else v for k, v in values.items()}


def _variables(text: str) -> str:
    start = text.find("${")
    if start < 0 or "}" not in text[start:]:
        return text
    end = text.index("}", start)
    name, _, default = text[start + 2 : end].partition(":-")
    return text[:start] + os.environ.get(name, default) + _variables(text[end + 1 :])
