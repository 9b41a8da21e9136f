"""Profiles: what is asked about an item, what is kept of the answer, and how item texts use it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from data_synthesis.asking import Unusable
from data_synthesis.profiles import ProfilesConfig, questions_about, read_profile
from gream.artifacts import read_manifest
from gream.cli import main
from gream.data.store import TRAIN, Catalogue, Interactions, load_training_reviews
from tests.data_synthesis.conftest import synthesize, write_data
from tests.data_synthesis.scripted_server import Planned, ScriptedServer


def test_reviews_of_the_training_part_alone_are_read(run_dir: Path, interactions: Interactions) -> None:
    found = load_training_reviews(run_dir / "data")
    expected: dict[int, list[str]] = {}
    for user, (items, marks) in enumerate(zip(interactions.sequences, interactions.splits, strict=True)):
        for item in items[marks == TRAIN]:
            text = f"In the train part user {user} says of thing {item} that it is good."
            expected.setdefault(int(item), []).append(text)
    assert found == expected


def test_the_prompt_merges_title_description_and_reviews(catalogue: Catalogue) -> None:
    reviews = {2: ["Never jams, and I print a lot.", "good", "  It is loud at night, sadly.  "]}
    items, questions = questions_about(catalogue, reviews, ProfilesConfig(max_review=24))
    assert items == list(range(24))
    prompt = questions[2].messages[0]["content"]
    assert "Title: Kesk printers model 2\nBrand: Kesk\nCategory: printers\nDescription: Good" in prompt
    assert prompt.endswith("Review 1: Never jams, and I print\nReview 2: It is loud at night, sad")
    assert "Review" not in questions[3].messages[0]["content"]


def test_so_many_reviews_are_drawn_by_seed(catalogue: Catalogue) -> None:
    reviews = {0: [f"Review number {n:02d} of this thing." for n in range(30)]}

    def drawn(seed: int) -> list[str]:
        _, questions = questions_about(catalogue, reviews, ProfilesConfig(max_reviews=4, seed=seed))
        return [line for line in questions[0].messages[0]["content"].splitlines() if "number" in line]

    assert len(drawn(0)) == 4 and drawn(0) == drawn(0) != drawn(1)


def test_nothing_is_asked_about_an_item_of_which_nothing_is_known(catalogue: Catalogue) -> None:
    titles, descriptions = (["", *known[1:]] for known in (catalogue.titles, catalogue.descriptions))
    blank = replace(catalogue, titles=titles, descriptions=descriptions)
    assert questions_about(blank, {}, ProfilesConfig())[0] == list(range(1, 24))
    assert questions_about(blank, {0: ["What is this, anyway?"]}, ProfilesConfig())[0][0] == 0


def test_a_profile_is_one_line_without_thoughts() -> None:
    text = "<think>What is it?</think>\n A printer  for\nlarge sheets, quiet and quick."
    assert read_profile(text) == "A printer for large sheets, quiet and quick."
    with pytest.raises(Unusable, match="less than 40 characters"):
        read_profile("<think>A long thought about what this could be.</think>A printer.")


def test_profiles_take_the_place_of_descriptions_in_the_item_texts(run_dir: Path) -> None:
    def plan(prompt: str, number: int) -> Planned:
        known = "model 3" not in prompt
        return Planned(text="What people need who  like\nthings done well." if known else "A thing.")

    with ScriptedServer(plan) as server:
        assert synthesize(run_dir, server, "--repairs", "0", stage="profiles") == 0
    assert main(["text", "--run_dir", str(run_dir), "--profiles", "profiles"]) == 0
    texts = pl.read_parquet(run_dir / "text" / "item_text.parquet")["text"].to_list()
    assert (
        texts[2]
        == "Kesk printers model 2. Kesk. office > printers. What people need who like things done well"
    )
    assert texts[3] == "Volta printers model 3. Volta. office > printers. Good printers for every day"
    assert read_manifest(run_dir / "text").counts["with_profile"] == 23
    counts = read_manifest(run_dir / "profiles", stage="synthesize profiles").counts
    assert (counts["items"], counts["profiles"]) == (24, 23)
    assert counts["not used: the text has less than 40 characters"] == 1


def test_profiles_of_another_catalogue_are_refused(
    tmp_path: Path,
    run_dir: Path,
    catalogue: Catalogue,
    interactions: Interactions,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ScriptedServer(lambda prompt, number: Planned(text="What people need every day. " * 2)) as server:
        assert synthesize(run_dir, server, stage="profiles") == 0
    other = replace(catalogue, item_ids=[f"other-{i}" for i in range(len(catalogue))])
    place = write_data(tmp_path / "other", other, interactions)
    (run_dir / "profiles").rename(place / "profiles")
    assert main(["text", "--run_dir", str(place), "--profiles", "profiles"]) == 2
    assert "holds a profile of `item-0` as item 0" in capsys.readouterr().err


def test_profiles_need_a_model(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "profiles", "--run_dir", str(run_dir)]) == 2
    assert "`teacher` must be the base URL" in capsys.readouterr().err
