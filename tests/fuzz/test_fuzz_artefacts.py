"""Folders of stages that were harmed, histories and indexes from elsewhere: read, or refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hostile import CASES, bounded_memory, clear, damaged, fuzz, ids, spell, texts, values
from hypothesis import given
from hypothesis import strategies as st

from gream.artifacts import MANIFEST, is_current, read_manifest, writing
from gream.data.store import Catalogue, load_catalogue, load_interactions, load_training_reviews
from gream.decoding import recommender
from gream.decoding.history_file import Counts, file_requests
from gream.decoding.recommender import RUN_FILE, Recommender
from gream.errors import InputError
from gream.language.reasoning import load_traces, save_traces
from gream.semantic_ids.constraint_file import load_constraint, save_constraint
from gream.semantic_ids.index_file import read_index
from gream.semantic_ids.layout import Names, load_names, save_names


@pytest.fixture
def folders(run_folder: Path, names: Names) -> Path:
    """The run of the toy shop, with a constraint and traces."""
    with writing(run_folder / "sids", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, names)
        save_constraint(draft.path, names)
    with writing(run_folder / "traces", stage="synthesize", config={}, inputs={}, seed=0) as draft:
        save_traces(draft.path, [])
    return run_folder


def _load_data(folder: Path) -> Any:
    load_training_reviews(folder)
    return load_catalogue(folder).titles, [list(items) for items in load_interactions(folder).sequences]


def _load_sids(folder: Path) -> Any:
    names = load_names(folder)
    load_constraint(folder, names)
    return names.codes.tolist()


LOADERS: dict[str, Callable[[Path], Any]] = {"data": _load_data, "sids": _load_sids, "traces": load_traces}


@pytest.mark.parametrize("cases", CASES)
@pytest.mark.parametrize("stage", LOADERS)
def test_a_harmed_folder_is_refused_or_gives_what_it_gave(folders: Path, stage: str, cases: int) -> None:
    """A changed byte of any file is found, a changed manifest may be another good one."""
    folder, harmed = folders / stage, folders / "harmed"
    files = sorted(path.name for path in folder.iterdir())
    wanted = LOADERS[stage](folder)

    @fuzz(cases)
    @given(st.sampled_from(files), st.data(), st.booleans())
    def check(name: str, data: st.DataObject, gone: bool) -> None:
        shutil.rmtree(harmed, ignore_errors=True)
        shutil.copytree(folder, harmed)
        before = (folder / name).read_bytes()
        after = data.draw(damaged(before))
        (harmed / name).write_bytes(after)
        if gone:
            (harmed / name).unlink()
        found = clear(LOADERS[stage], harmed)
        assert found is None or found == wanted
        if name != MANIFEST and (gone or before != after):
            assert found is None
            config = read_manifest(folder).config
            assert not is_current(harmed, stage=read_manifest(folder).stage, config=config, inputs={})

    with bounded_memory():
        check()


@pytest.mark.parametrize("cases", CASES)
def test_any_manifest_is_read_or_refused_in_words(folders: Path, cases: int) -> None:
    file = folders / "data" / MANIFEST
    good = json.loads(file.read_text())

    @fuzz(cases)
    @given(
        st.dictionaries(st.sampled_from([*good, "x"]), values, max_size=3), st.sets(st.sampled_from([*good]))
    )
    def check(changed: dict[str, Any], left_out: set[str]) -> None:
        file.write_bytes(spell({k: v for k, v in (good | changed).items() if k not in left_out}))
        clear(read_manifest, file.parent)
        clear(load_catalogue, file.parent)
        is_current(file.parent, stage="data", config={}, inputs={})

    check()


@pytest.mark.parametrize("cases", CASES)
def test_any_run_file_is_loaded_or_refused_in_words(
    folders: Path, cases: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_engine(*_: Any, **__: Any) -> None:
        raise InputError("The engine is not part of this test, which looks at settings.")

    monkeypatch.setattr(recommender, "load_engine", load_engine)
    file = folders / RUN_FILE
    good = json.loads(file.read_text())
    changes = st.dictionaries(st.sampled_from([*good, "x"]), values, min_size=1, max_size=2)

    @fuzz(cases)
    @given(st.one_of(damaged(spell(good)), changes.map(lambda c: spell(good | c)), values.map(spell)))
    def check(text: bytes) -> None:
        file.write_bytes(text)
        clear(Recommender.load, folders)

    check()


@st.composite
def _histories(draw: st.DrawFn) -> bytes:
    row = {
        "user_id": ids,
        "history": st.lists(st.one_of(ids, st.sampled_from(["item-1", "item-2"])), max_size=5),
    }
    rows = draw(
        st.lists(st.one_of(st.fixed_dictionaries(row), st.fixed_dictionaries(row), values), max_size=6)
    )
    return draw(damaged(b"".join(spell(entry) + b"\n" for entry in rows)))


@pytest.mark.parametrize("cases", CASES)
def test_histories_reconcile_or_are_refused_in_words(
    tmp_path: Path, catalogue: Catalogue, cases: int
) -> None:
    file = tmp_path / "histories"

    @fuzz(cases)
    @given(_histories(), st.booleans())
    def check(text: bytes, drop: bool) -> None:
        file.write_bytes(text)
        counts = Counts()
        found = clear(lambda: list(file_requests(file, catalogue.index, drop_unknown=drop)(counts)))
        if found is None:
            return
        asked = [request for request in found if request]
        assert len(found) == counts.left_out.rows == len(asked) + counts.left_out.total
        assert counts.answered == len(asked)
        assert all(request.items and max(request.items) < len(catalogue) for request in asked)

    check()


@pytest.mark.parametrize("cases", CASES)
def test_histories_in_parquet_reconcile_or_are_refused_in_words(
    tmp_path: Path, catalogue: Catalogue, cases: int
) -> None:
    file = tmp_path / "histories.parquet"
    word = st.sampled_from(["item-1", "item-2", "", "x", None])

    @fuzz(cases)
    @given(st.lists(st.tuples(word, st.lists(word, max_size=3) | st.none()), max_size=5), st.data())
    def check(rows: list[Any], data: st.DataObject) -> None:
        schema = {"user_id": pl.String, "history": pl.List(pl.String)}
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(file)
        file.write_bytes(data.draw(damaged(file.read_bytes())))
        counts = Counts()
        found = clear(lambda: list(file_requests(file, catalogue.index, drop_unknown=False)(counts)))
        assert found is None or len(found) == counts.answered + counts.left_out.total

    check()


@st.composite
def _index(draw: st.DrawFn) -> tuple[bytes, bytes | None]:
    token = st.one_of(st.sampled_from(["<a_0>", "<a_1>", "<b_2>", "<a_99999999>", "<a_0"]), texts)
    rows = {str(item): draw(st.lists(token, min_size=1, max_size=3) | values) for item in range(24)}
    if draw(st.booleans()):
        rows = {str(item): [f"<a_{item % 5}>", f"<b_{item % 3}>"] for item in range(24)}
    pairs = "".join(f"item-{item}\t{item}\n" for item in range(24)).encode()
    return draw(damaged(spell(rows))), draw(st.one_of(st.none(), damaged(pairs), damaged(pairs)))


@pytest.mark.parametrize("cases", CASES)
def test_an_index_names_every_item_once_or_is_refused_in_words(
    tmp_path: Path, catalogue: Catalogue, cases: int
) -> None:
    file, table = tmp_path / "x.index.json", tmp_path / "x.item2id"

    @fuzz(cases)
    @given(_index())
    def check(index: tuple[bytes, bytes | None]) -> None:
        file.write_bytes(index[0])
        table.unlink(missing_ok=True)
        if index[1] is not None:
            table.write_bytes(index[1])
        found = clear(read_index, file, catalogue)
        if found is not None:
            assert len(np.unique(found[0].codes, axis=0)) == len(found[0]) == len(catalogue)

    with bounded_memory():
        check()
