"""What `gream embed` leaves: one vector for each item, and its two parts.

Legend: N items, D embedding.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gream import artifacts
from gream.errors import InputError

STAGE = "embed"
EMBEDDINGS_FILE = "embeddings.npy"
TEXT_VECTORS_FILE = "text.npy"
COLLABORATIVE_FILE = "collaborative.npy"


def load_embeddings(folder: Path) -> np.ndarray:
    """Read the (N, D) float32 embeddings.

    Raises:
        InputError: the folder is not the output of `gream embed`.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    vectors: np.ndarray = np.load(folder / EMBEDDINGS_FILE, allow_pickle=False)
    return vectors


def load_collaborative(folder: Path) -> np.ndarray | None:
    """Read the (N, D) float32 collaborative vectors, whatever their weight; None if none could be learnt.

    Raises:
        InputError: the folder is not the output of `gream embed`.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    file = folder / COLLABORATIVE_FILE
    return np.load(file, allow_pickle=False) if file.is_file() else None


def load_text_vectors(folder: Path) -> np.ndarray:
    """Read the (N, width) float32 vectors of the items' texts, whatever their weight.

    Raises:
        InputError: the folder is not the output of `gream embed`, or was made without item texts.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    file = folder / TEXT_VECTORS_FILE
    if not file.is_file():
        raise InputError(
            f"{folder} was made without item texts, and there is nothing else to see likeness by; run "
            "`gream embed` again with texts."
        )
    vectors: np.ndarray = np.load(file, allow_pickle=False)
    return vectors
