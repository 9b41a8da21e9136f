"""Stage `sids`: codes for every item by one of four quantisers, one name for each item, and the verdict.

`gream sids --config FILE` names a catalogue, `gream sids --add FILE` names items that came later (adding.py),
`gream sids --compare A B` puts two sets of names side by side (comparison.py).

Legend: N items, D embedding, L codebooks, K codes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gream import artifacts
from gream.arguments import StageConfig, input_files, input_folder, option
from gream.data.store import Catalogue, load_catalogue, load_interactions
from gream.errors import InputError
from gream.semantic_ids import sids_report
from gream.semantic_ids.collisions import unique_names
from gream.semantic_ids.constraint_file import save_constraint
from gream.semantic_ids.embed import require_finite
from gream.semantic_ids.embeddings_file import load_collaborative, load_embeddings
from gream.semantic_ids.index_file import means_of_codes, read_index
from gream.semantic_ids.layout import Names, load_names, save_names
from gream.semantic_ids.quantiser import Quantiser, SumQuantiser, encode, load_quantiser, save_quantiser
from gream.semantic_ids.residual import residual_kmeans

logger = logging.getLogger(__name__)

STAGE = "sids"
METHODS = ("residual_kmeans", "rqvae", "mpq", "opq", "index")
GRADIENTS = ("straight_through", "rotation")


@dataclass(kw_only=True)
class SidsConfig(StageConfig):
    """Settings of the stage `sids`."""

    output: str = option("sids", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder written by `gream data`")
    embeddings: str = input_folder("embeddings", doc="folder written by `gream embed`")
    method: str = option("residual_kmeans", doc=f"how items get their codes: {', '.join(METHODS)}")
    num_codebooks: int = option(3, doc="number of codes in a name, L")
    codebook_size: int | list[int] = option(256, doc="codes of each codebook, K, or a list of L sizes")
    balanced: bool = option(True, doc="residual_kmeans: every code of a level gets the same number of items")
    index: str = input_files("", doc="index: JSON file with the codes of every item, in the form of LC-Rec")
    hidden: list[int] = option([512], doc="rqvae, mpq: widths of the hidden layers; [] for a linear map")
    latent_dim: int = option(128, doc="rqvae, mpq: width of the latent and of its codewords")
    epochs: int = option(100, doc="rqvae, mpq: passes over all items")
    batch_size: int = option(512, doc="rqvae, mpq: items at once")
    learning_rate: float = option(3e-3, doc="rqvae, mpq: learning rate at the start")
    gradient: str = option("straight_through", doc=f"rqvae, mpq: through a code: {' or '.join(GRADIENTS)}")
    alignment: float = option(0.0, doc="rqvae: weight of the loss that draws codes to collaborative vectors")
    orthogonality: float = option(3.0, doc="mpq: weight of the loss that keeps codebooks apart")


CONFIG = SidsConfig


def run(config: SidsConfig) -> None:
    """Write names, quantiser, `sids_report.json`, `report.md` and plots.

    Raises:
        InputError: settings out of range, more codes than items, inputs that do not fit each other, or a
            vector that is no number.
    """
    check(config)
    catalogue = load_catalogue(config.locate("data"))
    vectors = load_embeddings(config.locate("embeddings"))
    if len(vectors) != len(catalogue):
        raise InputError(
            f"{config.locate('embeddings')} has {len(vectors):,} vectors, but {config.locate('data')} has "
            f"{len(catalogue):,} items; run `gream embed` again."
        )
    require_finite(vectors, catalogue.item_ids, str(config.locate("embeddings")))
    with artifacts.writing(
        config.output_path,
        stage=STAGE,
        config=config.recorded(),
        inputs=config.inputs(),
        seed=config.seed,
    ) as draft:
        first_codes, quantiser, names = name_items(vectors, catalogue, config)
        save_names(draft.path, names)
        save_constraint(draft.path, names)
        save_quantiser(draft.path, quantiser)
        interactions = load_interactions(config.locate("data"))
        report = sids_report.measure(vectors, first_codes, names, quantiser, catalogue, interactions)
        sids_report.write(draft.path, report, names)
        draft.counts.update(counts_of(report))
    logger.info("%s\nin %s", sids_report.format_report(report), config.output_path)


def name_items(
    vectors: np.ndarray, catalogue: Catalogue, config: SidsConfig
) -> tuple[np.ndarray, Quantiser, Names]:
    """Fit the quantiser of a configuration, or read an index, and give every item a name of its own.

    Returns:
        Codes (N, L) before collisions were resolved, the quantiser, and the names.
    """
    if config.method == "index":
        names, first_codes = read_index(config.locate("index"), catalogue)
        quantiser: Quantiser = SumQuantiser("index", means_of_codes(vectors, first_codes, names.layout))
        return first_codes, quantiser, names
    codes, quantiser = fit(vectors, codebook_sizes(config, len(vectors)), config)
    return codes, quantiser, unique_names(vectors, codes, quantiser)


def fit(vectors: np.ndarray, sizes: tuple[int, ...], config: SidsConfig) -> tuple[np.ndarray, Quantiser]:
    """Fit the quantiser that `config.method` names; returns the codes (N, L), which may collide, and it."""
    if config.method == "residual_kmeans":
        codes, codebooks = residual_kmeans(vectors, sizes, balanced=config.balanced, seed=config.seed)
        return codes, SumQuantiser("residual_kmeans", codebooks)  # balanced codes are not the nearest ones
    # Imported here: torch and faiss take seconds that residual k-means does not need.
    if config.method == "opq":
        from gream.semantic_ids.opq import fit_opq

        quantiser: Quantiser = fit_opq(vectors, sizes, seed=config.seed)
    elif config.method == "mpq":
        from gream.semantic_ids.mpq import fit_mpq

        quantiser = fit_mpq(vectors, sizes, _training(config), orthogonality=config.orthogonality)
    else:
        from gream.semantic_ids.rqvae import fit_rqvae

        quantiser = fit_rqvae(
            vectors,
            sizes,
            _training(config),
            collaborative=_aligned_to(config, len(vectors)),
            alignment=config.alignment,
        )
    return encode(quantiser, vectors), quantiser


def load_codebooks(folder: Path) -> list[np.ndarray]:
    """Read the codewords (K, d) of every quantised level; a disambiguation level has none.

    Raises:
        InputError: the folder is not the output of `gream sids`, or codebooks and names do not fit.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    layout = load_names(folder).layout
    quantised = layout.codebook_sizes[: layout.num_codebooks - layout.disambiguation]
    codebooks = load_quantiser(folder).codebooks
    if tuple(map(len, codebooks)) != quantised:
        raise InputError(f"{folder}: the codebooks do not belong to the names; run `gream sids` again.")
    return codebooks


def codebook_sizes(config: SidsConfig, num_items: int) -> tuple[int, ...]:
    """Return the size of every codebook.

    Raises:
        InputError: no codebook, a list of another length, a size below 2 or above the number of items.
    """
    if config.num_codebooks < 1:
        raise InputError(f"`num_codebooks` is {config.num_codebooks}, but a name needs at least 1; raise it.")
    given = config.codebook_size
    sizes = given if isinstance(given, list) else [given] * config.num_codebooks
    if len(sizes) != config.num_codebooks:
        raise InputError(
            f"`codebook_size` lists {len(sizes)} sizes, but `num_codebooks` is {config.num_codebooks}; give "
            "one size for each codebook, or a single number."
        )
    for size in sizes:
        if size < 2:
            raise InputError(f"`codebook_size` is {size}, but a codebook needs at least 2 codes; raise it.")
        if size > num_items:
            raise InputError(
                f"`codebook_size` is {size}, but there are only {num_items} items; choose a size of at most "
                "the number of items, far fewer if names are to say something."
            )
    return tuple(sizes)


def check(config: SidsConfig) -> None:
    """Refuse settings that cannot work, all at once, before anything is read.

    Raises:
        InputError: an unknown method or gradient, a number out of range, or an index that is missing.
    """
    problems = [
        f"`{name}` is {value!r}, but must be {wanted}"
        for name, value, fine, wanted in (
            ("method", config.method, config.method in METHODS, f"one of {', '.join(METHODS)}"),
            ("gradient", config.gradient, config.gradient in GRADIENTS, f"one of {', '.join(GRADIENTS)}"),
            ("hidden", config.hidden, all(width >= 1 for width in config.hidden), "widths of at least 1"),
            ("latent_dim", config.latent_dim, config.latent_dim >= 1, "at least 1"),
            ("epochs", config.epochs, config.epochs >= 2, "at least 2"),
            ("batch_size", config.batch_size, config.batch_size >= 1, "at least 1"),
            ("learning_rate", config.learning_rate, config.learning_rate > 0, "above 0"),
            ("alignment", config.alignment, config.alignment >= 0, "at least 0"),
            ("orthogonality", config.orthogonality, config.orthogonality >= 0, "at least 0"),
        )
        if not fine
    ]
    if config.method == "index" and not config.index:
        problems.append("`index` is empty, but `method: index` reads a file, so say where it is")
    if problems:
        raise InputError(f"{'; '.join(problems)}; correct the recipe of `gream sids`.")


def counts_of(report: dict[str, Any]) -> dict[str, Any]:
    """The few figures of a report that the manifest keeps."""
    collisions = report["collisions"]
    return {
        "items": report["items"],
        "codebook_sizes": report["codebook_sizes"],
        "items_sharing_a_name_at_first": collisions["items_before"],
        "items_renamed": collisions["items_renamed"],
        "disambiguation": report["disambiguation"],
        "verdict": report["verdict"]["sentence"],
    }


def _training(config: SidsConfig) -> Any:
    from gream.semantic_ids.codebook_training import Training

    return Training(
        hidden=config.hidden,
        latent_dim=config.latent_dim,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        gradient=config.gradient,
        seed=config.seed,
    )


def _aligned_to(config: SidsConfig, num_items: int) -> np.ndarray | None:
    """Collaborative vectors (N, C), if the alignment loss needs them; zeros for items that came later."""
    if config.alignment == 0:
        return None
    vectors = load_collaborative(config.locate("embeddings"))
    if vectors is None:
        raise InputError(
            f"`alignment` is {config.alignment}, but {config.locate('embeddings')} holds no collaborative "
            "vectors, because no two items are bought together in training; set `alignment` to 0."
        )
    return np.pad(vectors, ((0, num_items - len(vectors)), (0, 0)))
