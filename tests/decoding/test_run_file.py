"""The file that a run is served with: damaged or edited, it is refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gream.decoding.run_file import read_run_settings
from gream.errors import InputError


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "\xff", "[]", "3", '{"data": 3}', '{"scorer": null}', '{"sids": "a\\u0000"}'],
)
def test_what_is_no_run_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="run `gream run RECIPE` again"):
        read_run_settings(tmp_path / "run.json")


def test_settings_are_read(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"data": "data", "k": 3}')
    assert read_run_settings(tmp_path / "run.json") == {"data": "data", "k": 3}
