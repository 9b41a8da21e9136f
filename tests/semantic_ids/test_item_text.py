"""One text for each item, an empty one where nothing is known."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids.item_text import TextConfig, compose, load_item_text, run


def write_data(run_dir: Path, catalogue: Catalogue) -> None:
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, Interactions([], [], []))


def test_all_parts_are_joined_in_order() -> None:
    text = compose(
        "Ink  cartridge.", " Volta", ("Office", " Printing  ink "), "Black.\nDries fast.", max_description=99
    )
    assert text == "Ink cartridge. Volta. Office > Printing ink. Black. Dries fast"


def test_empty_parts_leave_no_trace() -> None:
    assert compose("", "Volta", (), " \n", max_description=99) == "Volta"
    assert compose("", "", ("", "Ink"), "", max_description=99) == "Ink"


@pytest.mark.parametrize(
    ("length", "kept"),
    [(0, ""), (4, "Good"), (5, "Good"), (8, "Good"), (9, "Good lamp"), (99, "Good lamp here")],
)
def test_a_description_is_cut_after_a_whole_word(length: int, kept: str) -> None:
    assert compose("", "", (), "Good lamp here", max_description=length) == kept


def test_a_description_without_spaces_is_cut_at_the_limit() -> None:
    assert compose("", "", (), "abcdefgh", max_description=3) == "abc"


def test_the_stage_writes_the_texts_in_item_order(tmp_path: Path, catalogue: Catalogue) -> None:
    write_data(tmp_path, catalogue)
    run(TextConfig(run_dir=str(tmp_path)))
    texts = load_item_text(tmp_path / "text")
    assert len(texts) == len(catalogue)
    assert texts[4] == "Orrin ink model 4. Orrin. office > ink. Good ink for every day"
    assert artifacts.read_manifest(tmp_path / "text", stage="text").counts["items"] == len(catalogue)


def test_items_without_any_text_get_an_empty_one_and_are_told(
    tmp_path: Path, catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    blank = {1, 4, 5, 8}
    bare = dataclasses.replace(
        catalogue,
        titles=[" " if item in blank else title for item, title in enumerate(catalogue.titles)],
        descriptions=[""] * len(catalogue),
        brands=[""] * len(catalogue),
        categories=[("",)] * len(catalogue),
    )
    write_data(tmp_path, bare)
    with caplog.at_level(logging.INFO):
        run(TextConfig(run_dir=str(tmp_path)))
    texts = load_item_text(tmp_path / "text")
    assert {item for item, text in enumerate(texts) if text == ""} == blank
    assert artifacts.read_manifest(tmp_path / "text").counts["without_text"] == 4
    assert "4 items have no text (item-1, item-4, item-5, ...)" in caplog.text


def test_no_text_at_all_does_not_stop_the_stage(tmp_path: Path) -> None:
    catalogue = Catalogue(["a", "b"], ["", ""], ["", ""], ["", ""], [(), ()], np.ones(2, np.float32))
    write_data(tmp_path, catalogue)
    run(TextConfig(run_dir=str(tmp_path)))
    assert load_item_text(tmp_path / "text") == ["", ""]


def test_a_description_counts_as_no_text_when_it_is_left_out(tmp_path: Path, catalogue: Catalogue) -> None:
    titles = ["", *catalogue.titles[1:]]
    brands, categories = ["", *catalogue.brands[1:]], [(), *catalogue.categories[1:]]
    bare = dataclasses.replace(catalogue, titles=titles, brands=brands, categories=categories)
    write_data(tmp_path, bare)
    run(TextConfig(run_dir=str(tmp_path)))
    assert load_item_text(tmp_path / "text")[0] == "Good printers for every day"
    run(TextConfig(run_dir=str(tmp_path), max_description=0))
    assert load_item_text(tmp_path / "text")[0] == ""


def test_a_negative_length_is_refused(tmp_path: Path, catalogue: Catalogue) -> None:
    write_data(tmp_path, catalogue)
    with pytest.raises(InputError, match="`max_description` is -1"):
        run(TextConfig(run_dir=str(tmp_path), max_description=-1))
