"""Settings: strict, typed, all mistakes at once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from gream.arguments import (
    StageConfig,
    describe,
    input_files,
    input_folder,
    load_config,
    option,
    parse_overrides,
    read_yaml,
)
from gream.errors import InputError


@dataclass(kw_only=True)
class _Config(StageConfig):
    data: str = input_folder("data", doc="data")
    scorer: str = input_folder("", doc="optional")
    source: str = input_files("", doc="own files")
    name: str = option("x", doc="a text")
    rate: float = option(0.1, doc="a number")
    sizes: list[int] = option([1, 2], doc="a list")


def _write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    return file


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    file = _write(tmp_path, "rate: 0.5\nname: file\nseed: 3\n")
    config = load_config(_Config, file, parse_overrides(["--rate", "1e-3", "--sizes=[7]"], _Config))
    assert (config.rate, config.name, config.seed, config.sizes) == (0.001, "file", 3, [7])


def test_a_text_setting_is_taken_as_it_stands() -> None:
    assert parse_overrides(["--name", "12"], _Config) == {"name": "12"}


def test_all_unknown_keys_are_told_at_once_with_the_nearest_known(tmp_path: Path) -> None:
    file = _write(tmp_path, "rat: 1\nwhat: 2\n")
    with pytest.raises(
        InputError, match=r"s\.yaml: unknown key `rat` \(did you mean `rate`\?\); unknown key `what`"
    ):
        load_config(_Config, file)


def test_settings_that_do_not_fit_each_other_are_told_in_their_own_words() -> None:
    """A dataclass that refuses them in `__post_init__` is not hidden behind all that was given."""

    @dataclass(kw_only=True)
    class Choosy(StageConfig):
        rate: float = option(0.1, doc="a number")

        def __post_init__(self) -> None:
            if self.rate > 1:
                raise InputError(f"`rate` is {self.rate}; give at most 1.")

    with pytest.raises(InputError) as told:
        load_config(Choosy, None, {"rate": 2.0, "seed": 3})
    assert str(told.value) == "the command line: `rate` is 2.0; give at most 1."


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_told(seed: int) -> None:
    with pytest.raises(InputError, match=f"`seed` is {seed}; give a number from 0 to 4294967295"):
        load_config(_Config, None, {"seed": seed})


def test_wrong_types_are_told_at_once(tmp_path: Path) -> None:
    file = _write(tmp_path, "rate: fast\nsizes: 3\n")
    with pytest.raises(InputError, match="`rate` = 'fast'.*`sizes` = 3"):
        load_config(_Config, file)


@pytest.mark.parametrize(
    ("text", "message"), [("- a\n", "key: value"), ("a: [", "not valid YAML"), ("1: 2\n", "key: value")]
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config(_Config, _write(tmp_path, text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.yaml does not exist"):
        load_config(_Config, tmp_path / "no.yaml")


@pytest.mark.parametrize("words", [["rate", "3"], ["--rate"]])
def test_half_a_setting_is_refused(words: list[str]) -> None:
    with pytest.raises(InputError, match="--key value|has no value"):
        parse_overrides(words, _Config)


def test_inputs_lie_in_the_run_and_own_files_do_not() -> None:
    config = load_config(_Config, None, {"run_dir": "runs/x", "source": "mine.csv"})
    assert {k: str(v) for k, v in config.inputs().items()} == {"data": "runs/x/data", "source": "mine.csv"}


def test_environment_variables_are_expanded_in_own_paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "/there")
    config = load_config(_Config, None, {"source": "${HERE}/a-${NOT_SET:-b}", "name": "${HERE}"})
    assert (config.source, config.name) == ("/there/a-b", "${HERE}")


def test_environment_variables_are_expanded_in_a_setting_that_allows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @dataclass(kw_only=True)
    class Modelled(_Config):
        model: str = option("", doc="a model", from_environment=True)

    monkeypatch.setenv("HERE", "big")
    config = load_config(Modelled, None, {"model": "${HERE}-${NOT_SET:-one}", "name": "${HERE}"})
    assert (config.model, config.name) == ("big-one", "${HERE}")
    assert config.recorded()["model"] == "big-one"  # another model is another configuration


def test_help_lists_every_setting() -> None:
    assert all(f"--{name}" in describe(_Config) for name in ("run_dir", "seed", "rate", "scorer"))


def test_a_yes_or_no_setting_needs_no_value() -> None:
    @dataclass(kw_only=True)
    class Switched(_Config):
        scaling: bool = option(False, doc="a switch")

    assert parse_overrides(["--scaling"], Switched) == {"scaling": True}
    assert parse_overrides(["--scaling", "--rate", "2"], Switched) == {"scaling": True, "rate": 2}
    assert parse_overrides(["--scaling", "false"], Switched) == {"scaling": False}
    with pytest.raises(InputError, match="`--rate` has no value"):
        parse_overrides(["--scaling", "--rate"], Switched)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 2026-13-01\n", "not valid YAML"),  # a date that is none, not a YAML error to PyYAML
        ("seed: " + "[" * 3000 + "\n", "not valid YAML"),
        ("seed: &a [*a]\n", "more than 100,000 values, or an alias"),
        ("x: {a: &a [1, 1], b: &b [*a, *a]" + "".join(
            f", {chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]" for n in range(1, 24)
        ) + "}\n", "more than 100,000 values, or an alias"),
        ("seed: {[1]: 2, ? [a] : b}\n", "not valid YAML"),
        ("output: " + json.dumps(["x" * 9000]) + "\n", "..."),
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused_in_a_few_words(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_config(StageConfig, file)
    assert said in str(error.value) and len(str(error.value)) < 1000


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)
