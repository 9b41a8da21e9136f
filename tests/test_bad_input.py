"""A user's mistakes, through the command line: one sentence, exit code 2, nothing left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gream.artifacts import writing
from gream.cli import main
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.language.vocab import save_model
from gream.semantic_ids.layout import Names, save_names

Mistake = Callable[..., str]


@pytest.fixture
def mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Mistake:
    """Run a stage in `tmp_path` that must fail; check its manners and give its sentence."""

    def run(stage: str, *words: str, output: str) -> str:
        assert main([stage, "--run_dir", str(tmp_path), *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("gream: ") and error.count("\n") == 1 and "Traceback" not in error
        assert not (tmp_path / output).exists()
        assert not list(tmp_path.glob(".*")), "something half-written is left"
        return error

    return run


def _csv(folder: Path, text: str) -> str:
    file = folder / "purchases.csv"
    file.write_text(text)
    return str(file)


def _table(path: str, columns: str) -> list[str]:
    return ["--source", "table", "--path", path, "--columns", columns]


def test_missing_column(tmp_path: Path, mistake: Mistake) -> None:
    path = _csv(tmp_path, "who,what\na,b\n")
    error = mistake("data", *_table(path, "{user: who, item: sku}"), output="data")
    assert "purchases.csv" in error and "sku" in error


def test_users_with_too_few_purchases(tmp_path: Path, mistake: Mistake) -> None:
    path = _csv(tmp_path, "who,what,name\n" + "".join(f"u{i},i{i},thing {i}\n" for i in range(9)))
    error = mistake("data", *_table(path, "{user: who, item: what, title: name}"), output="data")
    assert "core" in error and "5" in error


def test_file_of_which_much_is_broken(tmp_path: Path, mistake: Mistake) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "items.jsonl").write_text('{"item_id": "a", "title": "A"}\n{"item_id": "b", "ti')
    (folder / "sequences.jsonl").write_text('{"user_id": "u", "item_ids": ["a"]}\n')
    error = mistake("data", "--source", "jsonl", "--path", str(folder), output="data")
    assert "items.jsonl" in error and "line 2" in error and "1 of 4 rows" in error and "max_unusable" in error


def _data(folder: Path, catalogue: Catalogue, interactions: Interactions) -> None:
    with writing(folder / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions)


def test_catalogue_without_any_text(
    tmp_path: Path, mistake: Mistake, catalogue: Catalogue, interactions: Interactions
) -> None:
    empty = [""] * len(catalogue)
    blank = Catalogue(catalogue.item_ids, empty, empty, empty, [()] * len(catalogue), catalogue.prices)
    _data(tmp_path, blank, interactions)
    assert main(["text", "--run_dir", str(tmp_path)]) == 0
    assert "collaborative" in mistake("embed", output="embeddings")


def test_embedding_that_is_no_number(
    tmp_path: Path, mistake: Mistake, catalogue: Catalogue, interactions: Interactions
) -> None:
    _data(tmp_path, catalogue, interactions)
    vectors = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)
    vectors[5, 2] = np.nan
    with writing(tmp_path / "embeddings", stage="embed", config={}, inputs={}, seed=0) as draft:
        np.save(draft.path / "embeddings.npy", vectors)
    assert "item-5" in mistake("sids", "--codebook_size", "4", output="sids")


def test_model_made_for_other_names(
    tmp_path: Path,
    mistake: Mistake,
    catalogue: Catalogue,
    interactions: Interactions,
    names: Names,
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    _data(tmp_path, catalogue, interactions)
    (tmp_path / "sids").mkdir()
    save_names(tmp_path / "sids", Names(names.layout, names.codes[::-1].copy()))
    save_model(tmp_path / "base", *model_and_tokenizer, names)
    for stage in ("sft", "srpo"):
        error = mistake(stage, "--model", "base", output=stage)
        assert "base was made for other names" in error


def test_unknown_key_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "4-sids.yaml"
    file.write_text("codebook_sise: 16\n")
    assert main(["run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "4-sids.yaml" in error and "codebook_sise" in error and "codebook_size" in error


def test_report_of_another_stage_as_input(
    tmp_path: Path, mistake: Mistake, catalogue: Catalogue, interactions: Interactions
) -> None:
    _data(tmp_path, catalogue, interactions)
    error = mistake("embed", "--text", "data", output="embeddings")
    assert "was written by `gream data`" in error and "gream text" in error
    assert json.loads((tmp_path / "data" / "manifest.json").read_text())["stage"] == "data"
