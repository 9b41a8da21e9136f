"""The file that a run is served with: damaged or edited, it is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gream.decoding.recommend import Search
from gream.decoding.run_file import SERVED, read_run_settings, read_search
from gream.errors import InputError


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "\xff",
        "[]",
        "3",
        '{"data": 3}',
        '{"scorer": null}',
        '{"model": 3}',
        '{"sids": "a\\u0000"}',
    ],
)
def test_what_is_no_run_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="run `gream run RECIPE` again"):
        read_run_settings(tmp_path / "run.json")


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"data": "data", "k": 3}')
    assert read_run_settings(tmp_path / "run.json") == {"data": "data", "k": 3}


SEARCH: dict[str, Any] = {
    "num_beams": 7, "rule": "sum", "scorer_weight": 2, "scorer_levels": (0, 2), "prune_threshold": 0.1,
    "prune_level": 1, "num_chains": 2, "max_chain_tokens": 8, "temperature": 0.5, "choose": "best",
    "agree": 1,
}  # fmt: skip
FOLDERS = {"data": "data", "sids": "sids", "model": "srpo", "scorer": ""}
GOOD: dict[str, Any] = FOLDERS | {"max_history": 9} | SEARCH | {"scorer_levels": [0, 2]}


def test_the_search_of_a_run_is_read() -> None:
    """Every setting of it, none left at its default."""
    search, max_history = read_search(GOOD, Path("run.json"))
    assert {name: getattr(search, name) for name in SERVED} == SEARCH and max_history == 9
    default = Search()
    assert not [name for name in SERVED if getattr(default, name) == SEARCH[name]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_beams": "7"}, "no proper value for num_beams"),
        (
            {"scorer_levels": ["0", "2"], "temperature": None},
            "no proper value for scorer_levels, temperature;",
        ),
        ({"max_history": 0}, "no proper value for max_history"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"rule": "best"}, "rule is 'best'"),
    ],
)
def test_a_search_with_a_wrong_value_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        read_search(GOOD | change, Path("run.json"))


def test_a_run_of_an_older_gream_is_told(tmp_path: Path) -> None:
    older = {name: value for name, value in GOOD.items() if name not in ("agree", "max_history", "scorer")}
    with pytest.raises(InputError, match="older gream and lacks scorer, max_history, agree; run"):
        read_search(older, Path("run.json"))
