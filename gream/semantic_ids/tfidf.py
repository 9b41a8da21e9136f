"""Text vectors without a download: TF-IDF of words and word pairs, truncated SVD, L2 norm.

The fitted space is kept as JSON and safetensors, so that the text of an item that comes later gets its place
among the vectors that are already there.

Legend: N texts, T terms, D embedding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer

from gream.errors import InputError
from gream.semantic_ids.vectors import factorise, normalised

MAX_TERMS = 100_000  # most frequent words and word pairs that are kept; ours
TERMS_FILE = "tfidf_terms.json"
WEIGHTS_FILE = "tfidf.safetensors"


@dataclass(frozen=True, eq=False)
class TextSpace:
    """A fitted TF-IDF and its singular directions."""

    terms: list[str]
    idf: np.ndarray  # (T,) float32
    components: np.ndarray  # (D, T) float32

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: (N, D) float32 of length 1, zero for a text of which no word is known."""
        vectorizer = _vectorizer({term: column for column, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf
        return normalised(np.asarray(vectorizer.transform(texts) @ self.components.T, dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write the space into an existing folder."""
        (folder / TERMS_FILE).write_text(json.dumps(self.terms, ensure_ascii=False) + "\n", encoding="utf-8")
        tensors = {"idf": self.idf, "components": np.ascontiguousarray(self.components)}
        save_file(tensors, folder / WEIGHTS_FILE)


def fit_text_space(texts: Sequence[str], *, dim: int, seed: int) -> tuple[TextSpace, np.ndarray]:
    """Learn a space from texts.

    Returns:
        The space and the texts' own vectors (N, D) float32; D is `dim`, or less where the texts or their
        words are fewer. A text of which no word is known gets a zero vector.

    Raises:
        InputError: texts without a single word.
    """
    vectorizer = _vectorizer(None)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise InputError(
            f"The item texts hold no word to embed ({error}); give the items titles, or choose a "
            "Hugging Face model as `encoder`."
        ) from error
    scores, _, components = factorise(weights, dim, seed)
    terms = [str(term) for term in vectorizer.get_feature_names_out()]
    space = TextSpace(terms, np.asarray(vectorizer.idf_, dtype=np.float32), components)
    return space, normalised(scores)


def load_text_space(folder: Path) -> TextSpace:
    """Read what `TextSpace.save` wrote.

    Raises:
        InputError: a file is missing or does not fit the other.
    """
    try:
        terms = json.loads((folder / TERMS_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise InputError(f"{folder} holds no usable TF-IDF ({error}); run `gream embed` again.") from error
    space = TextSpace(terms, tensors["idf"], tensors["components"])
    if not len(terms) == len(space.idf) == space.components.shape[1]:
        raise InputError(
            f"{folder / TERMS_FILE} lists {len(terms):,} terms, but {WEIGHTS_FILE} has weights of "
            f"{len(space.idf):,}; run `gream embed` again."
        )
    return space


def _vectorizer(vocabulary: dict[str, int] | None) -> TfidfVectorizer:
    return TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        max_features=MAX_TERMS,
        dtype=np.float32,
        vocabulary=vocabulary,
    )
