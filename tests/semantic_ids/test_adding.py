"""Items that come later: named, searchable, and nothing that was there has changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream import artifacts, pipeline
from gream.data.prepare import DataConfig
from gream.data.prepare import run as run_data
from gream.data.store import Interactions, load_catalogue, load_interactions, save_dataset
from gream.errors import InputError
from gream.evaluation.evaluate import EvaluateConfig
from gream.semantic_ids import adding
from gream.semantic_ids.adding import add_items
from gream.semantic_ids.build import SidsConfig
from gream.semantic_ids.build import run as run_sids
from gream.semantic_ids.embed import EmbedConfig
from gream.semantic_ids.embed import run as run_embed
from gream.semantic_ids.item_text import TextConfig
from gream.semantic_ids.item_text import run as run_text
from gream.semantic_ids.layout import load_names
from gream.semantic_ids.new_items import embed_new_items


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated shop with names."""
    run_dir = tmp_path_factory.mktemp("run")
    run_data(DataConfig(run_dir=str(run_dir), num_items=120, num_customers=200, core=1))
    run_text(TextConfig(run_dir=str(run_dir)))
    run_embed(EmbedConfig(run_dir=str(run_dir), dim=8, collaborative=0.5))
    run_sids(config(run_dir))
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def config(run_dir: Path) -> SidsConfig:
    return SidsConfig(run_dir=str(run_dir), num_codebooks=3, codebook_size=[8, 6, 6])


def items_file(folder: Path, *items: dict[str, Any]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def like(run_dir: Path, item: int, item_id: str) -> dict[str, Any]:
    """A new item with the texts of an old one."""
    catalogue = load_catalogue(run_dir / "data")
    return {
        "item_id": item_id,
        "title": catalogue.titles[item],
        "description": catalogue.descriptions[item],
        "brand": catalogue.brands[item],
        "categories": list(catalogue.categories[item]),
    }


def test_new_items_are_named_beside_those_like_them_and_old_names_stay(run_dir: Path) -> None:
    file = items_file(run_dir, *(like(run_dir, item, f"new-{item}") for item in range(20)))
    report = add_items(config(run_dir), file)
    before, after = load_names(run_dir / "sids"), load_names(run_dir / "sids-added")
    assert after.codes[: len(before)].tolist() == before.codes.tolist()
    assert after.fingerprint() == before.fingerprint()
    assert len(after) == len(before) + 20
    same_first = (after.codes[len(before) :, 0] == before.codes[:20, 0]).mean()
    assert same_first > 0.5  # chance is an eighth
    assert report["names"]["new-3"] == after.spell(len(before) + 3)
    stored, rebuilt = report["rebuild"]["stored"], report["rebuild"]["rebuilt"]
    assert 0 < rebuilt["error"] < 1
    assert stored["error"] < 1.5 * rebuilt["error"]


def test_of_an_item_without_a_known_word_everything_is_left_unsaid(run_dir: Path) -> None:
    report = add_items(config(run_dir), items_file(run_dir, {"item_id": "odd", "title": "Qxzv"}))
    assert [one["error"] for one in report["rebuild"].values()] == [1.0, 1.0]


def test_the_catalogue_grows_and_the_purchases_stay(run_dir: Path) -> None:
    add_items(config(run_dir), items_file(run_dir, {"item_id": "new", "title": "Quiet lamp", "price": 3}))
    before, after = load_catalogue(run_dir / "data"), load_catalogue(run_dir / "data-added")
    assert after.item_ids == [*before.item_ids, "new"]
    assert (after.titles[-1], after.categories[-1], after.prices[-1]) == ("Quiet lamp", (), 3)
    old, new = load_interactions(run_dir / "data"), load_interactions(run_dir / "data-added")
    assert all((a == b).all() for a, b in zip(old.sequences, new.sequences, strict=True))


def test_adding_again_adds_to_what_was_added(run_dir: Path) -> None:
    first = add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    second = add_items(config(run_dir), items_file(run_dir, like(run_dir, 2, "y"), like(run_dir, 3, "z")))
    names = load_names(run_dir / "sids-added")
    count = len(load_names(run_dir / "sids"))
    assert names.spell(count) == first["names"]["x"]
    assert names.spell(count + 2) == second["names"]["z"]
    assert load_catalogue(run_dir / "data-added").item_ids[count:] == ["x", "y", "z"]


def test_after_the_names_were_made_anew_adding_starts_anew(run_dir: Path) -> None:
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    other = config(run_dir)
    other.seed = 5
    run_sids(other)
    add_items(other, items_file(run_dir, like(run_dir, 2, "y")))
    assert load_catalogue(run_dir / "data-added").item_ids[-1] == "y"
    assert len(load_names(run_dir / "sids-added")) == len(load_names(run_dir / "sids")) + 1


def test_a_finished_run_is_served_with_the_new_items(run_dir: Path) -> None:
    settings = {"data": "data", "sids": "sids", "model": "srpo"}
    (run_dir / "run.json").write_text(json.dumps(settings))
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    expected = {"data": "data-added", "sids": "sids-added", "model": "srpo"}
    assert json.loads((run_dir / "run.json").read_text()) == expected
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 2, "y")))
    assert json.loads((run_dir / "run.json").read_text()) == expected


def test_an_item_that_has_a_name_is_refused_and_nothing_is_written(run_dir: Path) -> None:
    known = load_catalogue(run_dir / "data").item_ids[4]
    with pytest.raises(InputError, match=f"1 items that are named already \\(`{known}`\\)"):
        add_items(config(run_dir), items_file(run_dir, {"item_id": known, "title": "x"}))
    assert not (run_dir / "sids-added").exists()


def test_a_line_that_cannot_be_used_is_refused(run_dir: Path) -> None:
    file = items_file(run_dir, {"item_id": "new", "title": "x"}, {"title": "no id"})
    with pytest.raises(InputError, match="1 of 2 rows cannot be used"):
        add_items(config(run_dir), file)


def test_a_stage_that_has_not_run_is_named(run_dir: Path) -> None:
    nowhere = config(run_dir)
    nowhere.output = "elsewhere"
    with pytest.raises(InputError, match="elsewhere"):
        add_items(nowhere, items_file(run_dir, {"item_id": "new", "title": "x"}))


def test_the_manifests_name_stage_and_counts(run_dir: Path) -> None:
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    assert artifacts.read_manifest(run_dir / "sids-added", stage="sids").counts["items_added"] == 1
    assert artifacts.read_manifest(run_dir / "data-added", stage="data").counts["items_added"] == 1


def test_the_same_items_give_the_same_bytes(run_dir: Path) -> None:
    file = items_file(run_dir, like(run_dir, 1, "x"))
    add_items(config(run_dir), file)
    first = artifacts.read_manifest(run_dir / "sids-added").outputs
    shutil.rmtree(run_dir / "sids-added")
    add_items(config(run_dir), file)
    assert artifacts.read_manifest(run_dir / "sids-added").outputs == first
    assert np.load(run_dir / "sids-added" / "codes.npy").dtype == np.int32


def test_after_an_interruption_catalogue_and_names_belong_together_again(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    file = items_file(run_dir, like(run_dir, 2, "y"))
    replace = artifacts._replace

    def interrupted(partial: Path, folder: Path) -> None:
        if folder.name == "sids-added":  # the longer catalogue is in its place already
            raise KeyboardInterrupt
        replace(partial, folder)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(artifacts, "_replace", interrupted)
        add_items(config(run_dir), file)
    add_items(config(run_dir), file)
    catalogue = load_catalogue(run_dir / "data-added")
    assert catalogue.item_ids[-2:] == ["x", "y"]
    assert len(load_names(run_dir / "sids-added")) == len(catalogue)


def test_a_run_that_an_interruption_left_behind_is_pointed_to_the_items_by_the_next_command(
    run_dir: Path,
) -> None:
    file = items_file(run_dir, like(run_dir, 1, "x"))
    add_items(config(run_dir), file)
    (run_dir / "run.json").write_text(json.dumps({"data": "data", "sids": "sids"}))
    with pytest.raises(InputError, match="named already"):
        add_items(config(run_dir), file)
    assert json.loads((run_dir / "run.json").read_text()) == {"data": "data-added", "sids": "sids-added"}


def test_purchases_are_always_those_of_the_stage(run_dir: Path) -> None:
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    catalogue, interactions = load_catalogue(run_dir / "data"), load_interactions(run_dir / "data")
    few = Interactions(interactions.user_ids[:9], interactions.sequences[:9], interactions.splits[:9])
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, few)
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 2, "y")))
    assert len(load_interactions(run_dir / "data-added").user_ids) == 9
    assert load_catalogue(run_dir / "data-added").item_ids[-2:] == ["x", "y"]


def test_the_settings_are_those_that_made_the_names(run_dir: Path) -> None:
    file = items_file(run_dir, like(run_dir, 1, "x"))
    edited = SidsConfig(run_dir=str(run_dir), num_codebooks=2, codebook_size=4)
    report = add_items(edited, file)
    first = report["rebuild"]
    shutil.rmtree(run_dir / "sids-added")
    assert add_items(config(run_dir), file)["rebuild"] == first


def test_aligned_names_take_new_items_too(run_dir: Path) -> None:
    aligned = SidsConfig(
        run_dir=str(run_dir), method="rqvae", num_codebooks=2, codebook_size=8, alignment=0.5,
        hidden=[], latent_dim=6, epochs=3,
    )  # fmt: skip
    run_sids(aligned)
    assert add_items(aligned, items_file(run_dir, like(run_dir, 1, "x")))["rebuild"]


def test_a_large_catalogue_is_not_rebuilt(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adding, "LARGEST_REBUILD", 100)
    assert add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))["rebuild"] is None


def test_new_texts_are_cut_as_the_others_were(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def embed(folder: Path, texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return embed_new_items(folder, texts)

    monkeypatch.setattr(adding, "embed_new_items", embed)
    add_items(
        config(run_dir),
        items_file(run_dir, {"item_id": "new", "title": "Lamp", "description": "It shines. " * 5 + "Bright"}),
    )
    assert seen == ["Lamp. " + "It shines. " * 5 + "Bright"]


def test_a_run_that_is_served_with_other_names_is_left_alone(run_dir: Path) -> None:
    settings = {"data": "data", "sids": "sids-parallel", "model": "srpo"}
    (run_dir / "run.json").write_text(json.dumps(settings))
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    assert json.loads((run_dir / "run.json").read_text()) == settings


def test_items_added_before_do_not_change_what_is_said_of_the_next(run_dir: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run_dir, tmp_path / "other"))
    alone = add_items(config(other), items_file(other, like(other, 50, "y")))
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    second = add_items(config(run_dir), items_file(run_dir, like(run_dir, 50, "y")))
    assert second["names"] == alone["names"]
    assert second["rebuild"] == alone["rebuild"]


def test_another_gream_run_keeps_the_added_items(run_dir: Path) -> None:
    evaluate = EvaluateConfig(run_dir=str(run_dir), model="srpo")
    steps = [pipeline.Step(Path("11-evaluate.yaml"), "evaluate", evaluate)]
    pipeline._write_run_file(run_dir, steps)
    assert json.loads((run_dir / "run.json").read_text())["sids"] == "sids"
    add_items(config(run_dir), items_file(run_dir, like(run_dir, 1, "x")))
    pipeline._write_run_file(run_dir, steps)
    settings = json.loads((run_dir / "run.json").read_text())
    assert (settings["data"], settings["sids"]) == ("data-added", "sids-added")
