"""Tuned baselines on disk: what was chosen for item kNN, and the network of SASRec.

Legend: N items.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from gream.artifacts import check_whole
from gream.devices import compute_device
from gream.errors import InputError
from gream.evaluation.sasrec import SASRec, SASRecSettings

CHOICE_FILE, WEIGHTS_FILE = "baselines.json", "sasrec.safetensors"


@dataclass(frozen=True, eq=False)
class Tuned:
    """Baselines as they were tuned on validation."""

    knn: dict[str, Any]  # arguments of `ItemKNN`
    sasrec: SASRec


def save_tuned(folder: Path, tuned: Tuned, tried: list[dict[str, Any]]) -> None:
    """Write what was chosen, the figures of all that was tried, and SASRec's weights."""
    weights = {name: w.contiguous().cpu() for name, w in tuned.sasrec.state_dict().items()}
    save_file(weights, folder / WEIGHTS_FILE)
    chosen = {
        "items": tuned.sasrec.items.num_embeddings,
        "item_knn": tuned.knn,
        "sasrec": asdict(tuned.sasrec.settings),
        "tried": tried,
    }
    (folder / CHOICE_FILE).write_text(json.dumps(chosen, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def load_tuned(folder: Path, num_items: int) -> Tuned:
    """Read what `gream baselines` wrote.

    Raises:
        InputError: the folder holds no baselines, those of another catalogue, or those of another gream.
    """
    if not (folder / CHOICE_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} holds no baselines; run `gream baselines`, or correct the path.")
    check_whole(folder)
    chosen = json.loads((folder / CHOICE_FILE).read_text(encoding="utf-8"))
    if chosen["items"] != num_items:
        raise InputError(
            f"The baselines in {folder} know {chosen['items']:,} items, but the catalogue has {num_items:,}; "
            "run `gream baselines` again on this data."
        )
    if chosen["sasrec"].keys() != asdict(SASRecSettings()).keys():
        raise InputError(
            f"The baselines in {folder} were written by another gream; run `gream baselines` again."
        )
    sasrec = SASRec(num_items, SASRecSettings(**chosen["sasrec"]))
    sasrec.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return Tuned(chosen["item_knn"], sasrec.to(compute_device()).eval().requires_grad_(False))
