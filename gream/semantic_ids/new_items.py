"""Vectors of items that came later, in the space of those that are there; nothing is learnt again.

Legend: M new items, N known items, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gream import artifacts
from gream.errors import InputError
from gream.semantic_ids.collaborative import vectors_of_neighbours
from gream.semantic_ids.embed import TFIDF
from gream.semantic_ids.embeddings_file import STAGE, TEXT_VECTORS_FILE, load_collaborative
from gream.semantic_ids.encoding import encode_texts
from gream.semantic_ids.tfidf import load_text_space
from gream.semantic_ids.vectors import fuse, normalised


def embed_new_items(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Embed the texts of new items exactly as those of the artefact were.

    Nobody could buy a new item yet, so its collaborative part, where that has a weight, is estimated from
    the items with the nearest texts (`vectors_of_neighbours`).

    Args:
        folder: output of `gream embed`.
        texts: M texts, made as `gream text` made the others (`item_text.compose`); may be empty.

    Returns:
        (M, D) float32, D as in the artefact.

    Raises:
        InputError: another stage's folder, one made without texts, or an encoder that is gone or changed.
    """
    manifest = artifacts.read_manifest(folder, stage=STAGE)
    file = folder / TEXT_VECTORS_FILE
    if not file.is_file():
        raise InputError(
            f"{folder} was made without item texts, so new items have no place in it; run `gream embed` "
            "again with texts, or with purchases of the new items."
        )
    known: np.ndarray = np.load(file, allow_pickle=False)
    text = _text_vectors(folder, texts, manifest)
    text = text if text.shape[1] else np.zeros((len(texts), known.shape[1]), dtype=np.float32)
    weight = float(manifest.config["collaborative"])
    bought = load_collaborative(folder) if weight > 0 else None
    if bought is not None:
        bought = vectors_of_neighbours(text, known, bought)
    return fuse(text, bought, weight)


def _text_vectors(folder: Path, texts: Sequence[str], manifest: artifacts.Manifest) -> np.ndarray:
    config: dict[str, Any] = manifest.config
    if config["encoder"] == TFIDF:
        return load_text_space(folder).embed(texts)
    path = Path(config["encoder"])
    if "encoder" in manifest.inputs and artifacts.fingerprint(path) != manifest.inputs["encoder"]:
        raise InputError(
            f"Encoder {path} is no longer what {folder} was made with; put the old files back, or run "
            "`gream embed` again."
        )
    # Imported here: torch and transformers take seconds that TF-IDF does not need.
    from gream.semantic_ids.encoder import load_encoder

    encoder = load_encoder(config["encoder"], max_tokens=config["max_tokens"])
    return normalised(encode_texts(texts, encoder, batch_size=config["batch_size"]))
