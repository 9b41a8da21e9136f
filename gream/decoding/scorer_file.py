"""The path scorer on disk: weights, shape, and the names that it was made for.

Legend: N items, L codebooks, D hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from gream.artifacts import check_whole
from gream.decoding.neighbours import copurchased
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_shape import ScorerShape
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names

WEIGHTS_FILE = "scorer.safetensors"
SHAPE_FILE = "scorer.json"


def save_scorer(folder: Path, scorer: PrefixPathScorer, names: Names) -> None:
    """Write the weights, the shape and the fingerprint of the names into `folder`."""
    save_file({k: v.contiguous().cpu() for k, v in scorer.state_dict().items()}, folder / WEIGHTS_FILE)
    data = {"names": names.checksum(), "items": len(names), "shape": asdict(scorer.shape)}
    (folder / SHAPE_FILE).write_text(json.dumps(data, indent=2) + "\n")


def load_scorer(
    folder: Path, names: Names, purchases: Sequence[np.ndarray] | None = None
) -> PrefixPathScorer:
    """Read a scorer for inference; it goes on with items that were named after it was trained.

    Those have no lookalikes until `gream prm` is run again.

    Args:
        folder: what `gream prm` wrote.
        names: the names of the catalogue.
        purchases: what each user bought, oldest first, where co-purchases are counted; a scorer that does not
            look at them needs none.

    Raises:
        InputError: the folder holds no scorer, or one that was made for other names or by an older gream, or
            that needs purchases.
    """
    if not (folder / SHAPE_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} holds no path scorer; run `gream prm`, or correct the path.")
    check_whole(folder)
    data = json.loads((folder / SHAPE_FILE).read_text())
    older = InputError(f"The path scorer in {folder} was written by an older gream; run `gream prm` again.")
    if "items" not in data or not data["shape"].keys() <= asdict(ScorerShape()).keys():
        raise older
    known = Names(names.layout, names.codes[: data["items"]])
    if len(known) != data["items"] or known.checksum() != data["names"]:
        raise InputError(
            f"The path scorer in {folder} was made for the names {data['names']}, but these are "
            f"{names.checksum()}; run `gream prm` again, or pass the names that it was trained with."
        )
    scorer = PrefixPathScorer(TrieConstraint(names), ScorerShape(**data["shape"]))
    weights = load_file(folder / WEIGHTS_FILE)
    if weights.keys() != scorer.state_dict().keys():
        raise older
    if len(known) < len(names):
        weights["rows.weight"] = _rows_of_more_names(weights["rows.weight"], known, scorer.item_nodes)
        for name in weights.keys() & {"evidence.lookalikes.neighbours", "evidence.lookalikes.strengths"}:
            weights[name] = F.pad(weights[name], (0, 0, 0, len(names) - len(known)))
    scorer.load_state_dict(weights)
    if scorer.shape.neighbours:
        if purchases is None:
            raise InputError(f"The path scorer in {folder} counts co-purchases; give it the purchases.")
        scorer.sources["copurchases"].fill(copurchased(purchases, len(names), scorer.shape.neighbours))
    return scorer.eval().requires_grad_(False)


def _rows_of_more_names(rows: Tensor, known: Names, item_nodes: Tensor) -> Tensor:
    """Move the rows of known prefixes to their nodes in the trie of all names.

    A prefix that came later gets a row of zeros, so that it stands for the prefixes above it.
    """
    nodes = TrieConstraint(known).item_nodes  # (known items, L)
    moved = rows.new_zeros(int(item_nodes.max()) + 1, rows.shape[1])
    moved[item_nodes[: len(known)]] = rows[nodes]
    return moved
