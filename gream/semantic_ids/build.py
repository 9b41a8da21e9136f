"""Stage `sids`: residual codes for every item, and one name for each item, each name for one item.

GREAM (arXiv 2510.20815) appends a fifth code to the names that collide, so that names differ in length.
Ours: all names have the same length. Items that share all codes but the last are spread over the last
codebook at least cost; only where a group has more items than that codebook has codes, every name gets a
disambiguation code.

Legend: N items, D embedding, L codebooks, K codes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.optimize import linear_sum_assignment

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import load_catalogue
from gream.errors import InputError
from gream.semantic_ids import sids_report
from gream.semantic_ids.embed import load_embeddings, require_finite
from gream.semantic_ids.layout import Names, SidLayout, load_names, save_names
from gream.semantic_ids.residual import (
    balanced_assignment,
    residual_kmeans,
    residuals_after,
    squared_distances,
)

logger = logging.getLogger(__name__)

STAGE = "sids"
CODEBOOKS_FILE = "codebooks.safetensors"
HEADROOM = 2  # disambiguation codes for each one in use, so that new items find a name; ours


@dataclass(kw_only=True)
class SidsConfig(StageConfig):
    """Settings of the stage `sids`."""

    output: str = option("sids", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder written by `gream data`")
    embeddings: str = input_folder("embeddings", doc="folder written by `gream embed`")
    num_codebooks: int = option(3, doc="number of codes in a name, L")
    codebook_size: int | list[int] = option(256, doc="codes of each codebook, K, or a list of L sizes")
    balanced: bool = option(True, doc="give every code of a level the same number of items, to within one")


CONFIG = SidsConfig


def run(config: SidsConfig) -> None:
    """Write names, codebooks, `sids_report.json` and its plots.

    Raises:
        InputError: more codes than items, inputs that do not fit each other, or a vector that is no number.
    """
    catalogue = load_catalogue(config.locate("data"))
    vectors = load_embeddings(config.locate("embeddings"))
    if len(vectors) != len(catalogue):
        raise InputError(
            f"{config.locate('embeddings')} has {len(vectors):,} vectors, but {config.locate('data')} has "
            f"{len(catalogue):,} items; run `gream embed` again."
        )
    require_finite(vectors, catalogue.item_ids, str(config.locate("embeddings")))
    sizes = codebook_sizes(config, len(vectors))
    with artifacts.writing(
        config.output_path,
        stage=STAGE,
        config=config.recorded(),
        inputs=config.inputs(),
        seed=config.seed,
    ) as draft:
        first_codes, codebooks = residual_kmeans(vectors, sizes, balanced=config.balanced, seed=config.seed)
        names = unique_names(vectors, first_codes, codebooks)
        save_names(draft.path, names)
        tensors = {f"level_{level}": centroids for level, centroids in enumerate(codebooks)}
        save_file(tensors, draft.path / CODEBOOKS_FILE)
        figures = sids_report.figures(vectors, first_codes, names, codebooks, catalogue.categories)
        sids_report.write(draft.path, figures, names)
        draft.counts.update(
            items=len(names),
            codebook_sizes=list(names.layout.codebook_sizes),
            items_sharing_a_name_at_first=figures["collisions"]["items_before"],
            items_renamed=figures["collisions"]["items_renamed"],
            disambiguation=names.layout.disambiguation,
        )
    logger.info(
        "%s items named with codebooks of %s; %s shared a name at first, %s got another last code%s; in %s",
        f"{len(names):,}",
        " x ".join(map(str, names.layout.codebook_sizes)),
        f"{figures['collisions']['items_before']:,}",
        f"{figures['collisions']['items_renamed']:,}",
        ", a disambiguation level was added" if names.layout.disambiguation else "",
        config.output_path,
    )


def load_codebooks(folder: Path) -> list[np.ndarray]:
    """Read the centroids (K, D) of every quantised level; a disambiguation level has none.

    Raises:
        InputError: the folder is not the output of `gream sids`, or codebooks and names do not fit.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    layout = load_names(folder).layout
    quantised = layout.codebook_sizes[: layout.num_codebooks - layout.disambiguation]
    tensors = load_file(folder / CODEBOOKS_FILE)
    codebooks = [tensors[f"level_{level}"] for level in range(len(tensors))]
    if tuple(map(len, codebooks)) != quantised:
        raise InputError(f"{folder}: {CODEBOOKS_FILE} does not belong to the names; run `gream sids` again.")
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


def unique_names(vectors: np.ndarray, codes: np.ndarray, codebooks: Sequence[np.ndarray]) -> Names:
    """Resolve collisions so that every item has a name of its own.

    Where items share a whole name, all items with the same first L - 1 codes are assigned to different
    last codes, at the least sum of squared distances to the centroids. A group with more items than last
    codes is spread over them evenly, and a disambiguation level numbers the items that share all codes, by
    item id.

    Args:
        vectors: (N, D) what was quantised.
        codes: (N, L) codes that may collide.
        codebooks: L arrays (K, D).
    """
    codes = codes.copy()
    residuals = residuals_after(vectors, codes, codebooks[:-1])
    for group in _groups(codes[:, :-1]):
        if len(np.unique(codes[group, -1])) == len(group):
            continue
        costs = squared_distances(residuals[group], codebooks[-1])
        if len(group) <= len(codebooks[-1]):
            codes[group, -1] = linear_sum_assignment(costs)[1]  # rows come back in order
        else:
            codes[group, -1] = balanced_assignment(costs)[0]
    sizes = tuple(map(len, codebooks))
    ranks = np.zeros(len(codes), dtype=codes.dtype)
    for group in _groups(codes):
        ranks[group] = np.arange(len(group))
    if not ranks.any():
        return Names(SidLayout(sizes), codes)
    layout = SidLayout((*sizes, HEADROOM * (int(ranks.max()) + 1)), disambiguation=True)
    return Names(layout, np.concatenate([codes, ranks[:, None]], axis=1))


def name_new_items(vectors: np.ndarray, codebooks: Sequence[np.ndarray], names: Names) -> Names:
    """Name items that came later with the stored codebooks; the names of all others stay.

    Level by level, each item takes the nearest code under which a name is still free; at a disambiguation
    level the lowest free one. Items are named in order, so an earlier one goes first.

    Args:
        vectors: (M, D) embeddings of the new items, made as those of the others were.
        codebooks: L arrays (K, D) of the quantised levels.
        names: of the N items so far.

    Returns:
        Names of all N + M items, the new ones last, in the same layout.

    Raises:
        InputError: every name is taken, or a vector holds NaN or infinity.
    """
    require_finite(vectors, [str(item) for item in range(len(vectors))], "new items")
    sizes = names.layout.codebook_sizes
    room = [math.prod(sizes[level + 1 :]) for level in range(len(sizes))]
    if len(names) + len(vectors) > room[0] * sizes[0]:
        raise InputError(
            f"{len(vectors):,} new items were given, but only {room[0] * sizes[0] - len(names):,} names are "
            "free; run `gream sids` again with larger codebooks."
        )
    taken = Counter(tuple(row[: end + 1]) for row in names.codes.tolist() for end in range(len(sizes)))
    added = []
    for vector in np.asarray(vectors, dtype=np.float32):
        path: tuple[int, ...] = ()
        residual = vector
        for level in range(len(sizes)):
            order = _by_distance(residual, codebooks, level, sizes[level])
            # Fewer names taken than there is room: one below is free, so the walk never has to turn back.
            code = next(code for code in order if taken[(*path, code)] < room[level])
            if level < len(codebooks):
                residual = residual - codebooks[level][code]
            path = (*path, code)
            taken[path] += 1
        added.append(path)
    new = np.array(added, dtype=names.codes.dtype).reshape(len(added), len(sizes))
    return Names(names.layout, np.concatenate([names.codes, new]))


def _by_distance(residual: np.ndarray, codebooks: Sequence[np.ndarray], level: int, size: int) -> list[int]:
    """Codes of a level, nearest centroid first; in numerical order where there are no centroids."""
    if level >= len(codebooks):
        return list(range(size))
    distances = squared_distances(residual[None, :], codebooks[level])[0]
    nearest: list[int] = np.argsort(distances, kind="stable").tolist()
    return nearest


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Group the items whose rows (N, any width, even 0) are equal; items of a group in rising order."""
    keys = np.concatenate([np.zeros((len(codes), 1), dtype=codes.dtype), codes], axis=1)
    order = np.lexsort(keys.T[::-1])  # stable
    new = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    return np.split(order, np.flatnonzero(new) + 1)
