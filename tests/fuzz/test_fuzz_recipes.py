"""Settings of every stage, the command line and recipes, all hostile: checked, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile import CASES, HOSTILE_NUMBERS, HOSTILE_TEXTS, bounded_memory, clear, damaged, fuzz, values, write
from hypothesis import given
from hypothesis import strategies as st

from gream.arguments import load_config, parse_overrides
from gream.cli import main
from gream.pipeline import STAGES, read_recipe, stage_module

DEMO = sorted((Path(__file__).parents[2] / "recipes" / "demo").glob("*.yaml"))
TRICKS = [
    "&a [*a]",
    "&a {x: *a}",
    "!!python/object/apply:os.system ['true']",
    "!!binary aGk=",
    "2026-01-01",
    "? [1, 2] : 3",
    "{1: 2}",
    "{[1]: 2}",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "0o7",
    "1_000",
    "1:30",
    ".inf",
    ".nan",
    "- 1",
    "|\n  a",
    ">",
    "<<: {a: 1}",
    "*nowhere",
    "%TAG ! x",
    "---\na: 1\n---\nb: 2",
    "@",
    "`",
    "\t",
    "yes",
    "~",
    "'",
    '"\\ud800"',
    "=",
    "[" * 900,
    "{a: " * 400,
    "1e999",
    "9" * 5000,
    "0x" + "f" * 3000,
    "&a [x, &b [*a, *b]]",
]
DOUBLED = (
    "columns: {a0: &a0 [x, x]" + "".join(f", a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)) + "}"
)
spelled = st.one_of(
    st.sampled_from(TRICKS),
    st.sampled_from(HOSTILE_TEXTS),
    values.map(lambda v: json.dumps(v)),
    st.sampled_from(HOSTILE_NUMBERS).map(str),
)


@st.composite
def _yaml(draw: st.DrawFn, known: list[str]) -> bytes:
    """Lines of settings, some known, most with values that are not what is asked for."""
    keys = st.one_of(*[st.sampled_from(known)] * 4, st.sampled_from(HOSTILE_TEXTS), st.text(max_size=5))
    lines = draw(st.lists(st.tuples(keys, spelled), max_size=4))
    text = "".join(f"{key}: {value}\n" for key, value in lines)
    return draw(damaged(text.encode("utf-8", "replace")))


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("stage", STAGES)
def test_settings_are_checked_or_refused_in_words(tmp_path: Path, stage: str, cases: int) -> None:
    cls = stage_module(stage).CONFIG
    known = list(cls.__dataclass_fields__)
    file = tmp_path / "x.yaml"

    @fuzz(cases)
    @given(_yaml(known))
    def check(text: bytes) -> None:
        file.write_bytes(text)
        config = clear(load_config, cls, file)
        if config is not None:
            assert isinstance(config, cls)
            json.dumps(config.recorded())
            config.inputs()

    with bounded_memory():
        check()


def test_aliases_that_double_forty_times_are_refused(tmp_path: Path) -> None:
    """A trillion words in a kilobyte; whoever writes them out fills the memory."""
    (tmp_path / "1-data.yaml").write_text(DOUBLED)
    with bounded_memory():
        assert clear(read_recipe, tmp_path) is None


@pytest.mark.parametrize("cases", CASES)
def test_a_folder_of_files_is_a_recipe_or_refused_in_words(tmp_path: Path, cases: int) -> None:
    names = st.one_of(
        st.sampled_from(["1-data.yaml", "02-text.yaml", "3-synthesize-profiles.yaml", "9-evaluate-x.yaml"]),
        st.sampled_from(
            ["1-.yaml", "-data.yaml", "1-nothing.yaml", "٣-data.yaml", "1-data.yml", "9" * 99 + "-data.yaml"]
        ),
    )
    demo = st.sampled_from(DEMO).map(lambda file: file.read_bytes())

    @fuzz(cases)
    @given(
        st.dictionaries(
            names, st.one_of(_yaml(["run_dir", "output", "seed"]), demo.flatmap(damaged)), max_size=3
        )
    )
    def check(files: dict[str, bytes]) -> None:
        steps = clear(read_recipe, write(tmp_path / "recipe", files))
        assert steps is None or len(steps) <= len(files)

    check()


@pytest.mark.parametrize("cases", CASES)
def test_words_of_the_command_line_are_read_or_refused_in_words(cases: int) -> None:
    cls = stage_module("data").CONFIG
    flags = st.sampled_from([f"--{name}" for name in cls.__dataclass_fields__])
    words = st.one_of(flags, spelled, st.tuples(flags, spelled).map("=".join))

    @fuzz(cases)
    @given(st.lists(words, max_size=5))
    def check(words: list[str]) -> None:
        found = clear(parse_overrides, words, cls)
        if found is not None:
            clear(load_config, cls, None, found)

    check()


SETTINGS: dict[str, st.SearchStrategy[Any]] = {
    "core": st.integers(-2, 9) | st.just(2**63),
    "max_unusable": st.floats(-0.5, 1.5) | st.just(float("nan")),
    "deduplicate": st.booleans(),
    "shuffle_ties": st.booleans(),
    "split": st.sampled_from(["leave_one_out", "temporal", "", "x"]),
    "validation_users": st.integers(-2, 5) | st.just(2**63),
    "seed": st.integers(-1, 3) | st.sampled_from([2**32 - 1, 2**32, 2**70]),
    "columns": st.dictionaries(
        st.sampled_from(["user", "item", "time", "title", "x"]), st.sampled_from("abct"), max_size=4
    ),
    "source": st.sampled_from(["table", "table", "table", "jsonl", "lcrec", "movielens", "recbole", ""]),
    "output": st.sampled_from(["data", "data", "data", "..", "", "a/b", ".x", "\x00", "n" * 300]),
}


@pytest.mark.parametrize("cases", CASES)
def test_a_stage_with_any_settings_ends_well_or_in_one_sentence(
    tmp_path: Path, cases: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"u{n % 7},i{n % 5},{n},t{n % 5}" for n in range(60)]
    (tmp_path / "p.csv").write_text("\n".join(["a,b,c,t", *rows]))

    @fuzz(cases)
    @given(st.fixed_dictionaries({}, optional=SETTINGS))
    def check(settings: dict[str, Any]) -> None:
        given = {"source": "table", "columns": {"user": "a", "item": "b"}, "path": str(tmp_path / "p.csv")}
        settings = given | settings
        settings |= {"run_dir": str(tmp_path / "run" / "one")}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(settings))
        code = main(["data", "--config", str(tmp_path / "x.yaml")])
        told = capsys.readouterr().err
        assert (code, told) == (0, "") or (code == 2 and told.startswith("gream: ") and told.count("\n") == 1)

    check()
