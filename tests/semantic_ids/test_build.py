"""The stage `sids`: what it writes, with every method, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.semantic_ids.build import SidsConfig, codebook_sizes, load_codebooks, run
from gream.semantic_ids.embeddings_file import EMBEDDINGS_FILE
from gream.semantic_ids.layout import SidLayout, load_names


def prepare(run_dir: Path, catalogue: Catalogue, vectors: np.ndarray) -> None:
    """Write the data and embeddings folders of a run."""
    with artifacts.writing(run_dir / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, Interactions([], [], []))
    with artifacts.writing(run_dir / "embeddings", stage="embed", config={}, inputs={}, seed=0) as draft:
        np.save(draft.path / EMBEDDINGS_FILE, vectors)


@pytest.fixture
def vectors(catalogue: Catalogue) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(len(catalogue), 5)).astype(np.float32)


def test_the_stage_writes_names_codebooks_report_and_plots(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray
) -> None:
    prepare(tmp_path, catalogue, vectors)
    run(SidsConfig(run_dir=str(tmp_path), num_codebooks=3, codebook_size=[3, 4, 6]))
    names = load_names(tmp_path / "sids")
    assert names.codes.shape == (24, 3)
    assert names.layout.codebook_sizes == (3, 4, 6)
    assert np.bincount(names.codes[:, 0]).tolist() == [8, 8, 8]
    assert [book.shape for book in load_codebooks(tmp_path / "sids")] == [(3, 5), (4, 5), (6, 5)]
    report = json.loads((tmp_path / "sids" / "sids_report.json").read_text())
    assert report["collisions"]["rate_after"] == 0
    for plot in ("code_usage.png", "levels.png"):
        assert (tmp_path / "sids" / plot).read_bytes().startswith(b"\x89PNG")


def test_codebooks_of_names_with_a_disambiguation_level_are_found(
    tmp_path: Path, catalogue: Catalogue
) -> None:
    prepare(tmp_path, catalogue, np.ones((24, 5), np.float32))
    run(SidsConfig(run_dir=str(tmp_path), num_codebooks=2, codebook_size=2))
    assert load_names(tmp_path / "sids").layout == SidLayout((2, 2, 12), disambiguation=True)
    assert len(load_codebooks(tmp_path / "sids")) == 2


def test_the_same_seed_writes_the_same_bytes(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray
) -> None:
    hashes = []
    for name in ("first", "second"):
        prepare(tmp_path / name, catalogue, vectors)
        run(SidsConfig(run_dir=str(tmp_path / name), num_codebooks=2, codebook_size=5, seed=3))
        hashes.append(artifacts.read_manifest(tmp_path / name / "sids").outputs)
    assert hashes[0] == hashes[1]
    assert sorted(hashes[0]) == [
        "code_usage.png", "codebooks.safetensors", "codes.npy", "constraint.safetensors",
        "layout.json", "levels.png",
        "quantiser.json", "report.md", "sids_report.json",
    ]  # fmt: skip


SMALL = {"hidden": [6], "latent_dim": 4, "epochs": 4, "batch_size": 10}


@pytest.mark.parametrize("method", ["residual_kmeans", "rqvae", "mpq", "opq"])
def test_every_method_names_every_item_once_and_the_same_way_again(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray, method: str
) -> None:
    hashes = []
    for name in ("first", "second"):
        prepare(tmp_path / name, catalogue, vectors)
        run(
            SidsConfig(
                run_dir=str(tmp_path / name), method=method, num_codebooks=2, codebook_size=[5, 4], **SMALL
            )  # type: ignore[arg-type]
        )
        folder = tmp_path / name / "sids"
        hashes.append(artifacts.read_manifest(folder).outputs)
        names = load_names(folder)
        assert len(np.unique(names.codes, axis=0)) == 24
        assert names.layout.ordered == (method in ("residual_kmeans", "rqvae"))
        report = json.loads((folder / "sids_report.json").read_text())
        assert report["method"] == method
        assert report["verdict"]["sentence"] in (folder / "report.md").read_text()
    assert hashes[0] == hashes[1]


def test_alignment_needs_collaborative_vectors(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray
) -> None:
    prepare(tmp_path, catalogue, vectors)
    with pytest.raises(InputError, match="`alignment` is 0.5, but .* holds no collaborative vectors"):
        run(SidsConfig(run_dir=str(tmp_path), method="rqvae", codebook_size=4, alignment=0.5, **SMALL))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "rq"}, "`method` is 'rq', but must be one of residual_kmeans, rqvae, mpq, opq, index"),
        ({"gradient": "none"}, "`gradient` is 'none', but must be one of straight_through, rotation"),
        ({"method": "index"}, "`index` is empty"),
        ({"epochs": 0, "latent_dim": 0}, "`latent_dim` is 0.*; `epochs` is 0"),
    ],
)
def test_settings_out_of_range_are_told_all_at_once(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(SidsConfig(**settings))  # type: ignore[arg-type]


def test_more_codes_than_items_are_refused(tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray) -> None:
    prepare(tmp_path, catalogue, vectors)
    with pytest.raises(InputError, match="`codebook_size` is 25, but there are only 24 items"):
        run(SidsConfig(run_dir=str(tmp_path), codebook_size=25))
    assert not (tmp_path / "sids").exists()


def test_a_broken_embedding_is_refused_by_item(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray
) -> None:
    vectors[7, 2] = np.nan
    prepare(tmp_path, catalogue, vectors)
    with pytest.raises(InputError, match="the embedding of item `item-7` holds NaN"):
        run(SidsConfig(run_dir=str(tmp_path), codebook_size=4))


def test_embeddings_of_another_catalogue_are_refused(
    tmp_path: Path, catalogue: Catalogue, vectors: np.ndarray
) -> None:
    prepare(tmp_path, catalogue, vectors[:20])
    with pytest.raises(InputError, match="has 20 vectors, but .* has 24 items; run `gream embed` again"):
        run(SidsConfig(run_dir=str(tmp_path), codebook_size=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codebooks": 0}, "`num_codebooks` is 0"),
        ({"num_codebooks": 3, "codebook_size": [4, 4]}, "lists 2 sizes, but `num_codebooks` is 3"),
        ({"codebook_size": 1}, "needs at least 2 codes"),
    ],
)
def test_impossible_shapes_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        codebook_sizes(SidsConfig(**settings), 10)  # type: ignore[arg-type]
