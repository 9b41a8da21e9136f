"""Stage `embed`: one vector for each item, from its text and, if wanted, from who bought what with it.

The text part is TF-IDF with a truncated SVD, which needs no download, or any Hugging Face encoder or causal
language model with mask-weighted mean pooling of the last hidden layer (GREAM, arXiv 2510.20815; there
without the L2 norm). The collaborative part factorises the shifted positive pointwise mutual information of
training purchases (Levy and Goldberg 2014, for words); fusing it in is ours.

Legend: N items, D embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import load_catalogue, load_interactions
from gream.errors import InputError
from gream.semantic_ids.item_text import load_item_text

logger = logging.getLogger(__name__)

STAGE = "embed"
EMBEDDINGS_FILE = "embeddings.npy"
TFIDF = "tfidf"
MAX_TERMS = 100_000  # most frequent words and word pairs that TF-IDF keeps; ours
SVD_ITERATIONS = 7  # power iterations of the randomised SVD; ours


@dataclass(kw_only=True)
class EmbedConfig(StageConfig):
    """Settings of the stage `embed`."""

    output: str = option("embeddings", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder written by `gream data`")
    text: str = input_folder("text", doc="folder written by `gream text`")
    encoder: str = option(TFIDF, doc="`tfidf`, or the name or folder of a Hugging Face encoder or causal LM")
    dim: int = option(128, doc="width of the TF-IDF part and of the collaborative part, at most")
    max_tokens: int = option(512, doc="tokens of a text that a Hugging Face encoder reads")
    batch_size: int = option(32, doc="texts at once in a Hugging Face encoder")
    collaborative: float = option(0.0, doc="weight of the collaborative part, 0 (text only) to 1")
    window: int = option(5, doc="purchases of one user at most this far apart count as bought together")
    shift: float = option(1.0, doc="k of the shifted PPMI: log k is subtracted from the mutual information")

    def inputs(self) -> dict[str, Path]:
        """Inputs of the stage; an encoder in a folder is one too."""
        local = self.encoder != TFIDF and Path(self.encoder).is_dir()
        return super().inputs() | ({"encoder": Path(self.encoder)} if local else {})


CONFIG = EmbedConfig


def run(config: EmbedConfig) -> None:
    """Write `embeddings.npy`, (N, D) float32.

    Raises:
        InputError: settings out of range, inputs that do not fit each other, or a vector that is no number.
    """
    _check(config)
    catalogue = load_catalogue(config.locate("data"))
    texts = load_item_text(config.locate("text"))
    if len(texts) != len(catalogue):
        raise InputError(
            f"{config.locate('text')} has {len(texts):,} texts, but {config.locate('data')} has "
            f"{len(catalogue):,} items; run `gream text` again."
        )
    with artifacts.writing(
        config.output_path,
        stage=STAGE,
        config=config.recorded(),
        inputs=config.inputs(),
        seed=config.seed,
    ) as draft:
        vectors = _text_part(texts, config)
        require_finite(vectors, catalogue.item_ids, f"encoder `{config.encoder}`")
        draft.counts.update(items=len(texts), text_dim=vectors.shape[1], collaborative_dim=0)
        draft.counts["items_without_known_words"] = int((~vectors.any(axis=1)).sum())
        if config.collaborative > 0:
            sequences = load_interactions(config.locate("data")).training_sequences()
            bought = collaborative_vectors(
                sequences,
                len(texts),
                dim=config.dim,
                window=config.window,
                shift=config.shift,
                seed=config.seed,
            )
            draft.counts["collaborative_dim"] = bought.shape[1]
            draft.counts["items_without_collaborative_part"] = int((~bought.any(axis=1)).sum())
            vectors = fuse(vectors, bought, config.collaborative)
        np.save(draft.path / EMBEDDINGS_FILE, vectors)
    logger.info("%s; in %s", ", ".join(f"{k} {v:,}" for k, v in draft.counts.items()), config.output_path)


def load_embeddings(folder: Path) -> np.ndarray:
    """Read the (N, D) float32 embeddings.

    Raises:
        InputError: the folder is not the output of `gream embed`.
    """
    artifacts.read_manifest(folder, stage=STAGE)
    vectors: np.ndarray = np.load(folder / EMBEDDINGS_FILE, allow_pickle=False)
    return vectors


def require_finite(vectors: np.ndarray, item_ids: Sequence[str], where: str) -> None:
    """Refuse vectors (N, D) that hold NaN or infinity.

    Raises:
        InputError: names the first such item and what its vector came from.
    """
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        raise InputError(
            f"{where}: the embedding of item `{item_ids[broken[0]]}`{more} holds NaN or infinity, but every "
            "number must be finite; check its text, or choose another `encoder`, and run `gream embed` again."
        )


def tfidf_vectors(texts: Sequence[str], *, dim: int, seed: int) -> np.ndarray:
    """Embed texts by words and word pairs: TF-IDF, truncated SVD, L2 norm.

    A text of which no word is known gets a zero vector.

    Returns:
        (N, D) float32; D is `dim`, or less where the texts or their words are fewer.

    Raises:
        InputError: texts without a single word.
    """
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_TERMS, dtype=np.float32
    )
    try:
        terms = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise InputError(
            f"The item texts hold no word to embed ({error}); give the items titles, or choose a "
            "Hugging Face model as `encoder`."
        ) from error
    scores, _ = _factorise(terms, dim, seed)
    return normalised(scores)


def collaborative_vectors(
    sequences: Sequence[np.ndarray], num_items: int, *, dim: int, window: int, shift: float, seed: int
) -> np.ndarray:
    """Embed items by what was bought near them: shifted PPMI, truncated SVD, L2 norm.

    Args:
        sequences: purchases of each user that may be learnt from, oldest first.
        num_items: N.
        dim: number of singular vectors kept, at most.
        window: largest distance in a sequence that counts as together.
        shift: k >= 1; log k is subtracted from the mutual information.
        seed: seed of the randomised SVD.

    Returns:
        (N, D) float32; zero for items that share no window with another.

    Raises:
        InputError: no two items are ever bought together.
    """
    information = shifted_ppmi(cooccurrence(sequences, num_items, window), shift)
    if information.nnz == 0:
        raise InputError(
            "No two items stand out as bought together in the training purchases, but `collaborative` is "
            "above 0; set it to 0, widen `window`, or lower `shift`."
        )
    scores, strengths = _factorise(information, dim, seed)
    # U S^(1/2): half of each singular value belongs to the item, half to its context.
    return normalised(scores / np.sqrt(np.maximum(strengths, np.finfo(np.float32).tiny)))


def cooccurrence(sequences: Sequence[np.ndarray], num_items: int, window: int) -> sp.csr_array:
    """Count how often two different items are at most `window` apart in one sequence: symmetric (N, N)."""
    lefts, rights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for sequence in sequences:
        for distance in range(1, min(window, len(sequence) - 1) + 1):
            lefts.append(sequence[:-distance])
            rights.append(sequence[distance:])
    left, right = np.concatenate(lefts), np.concatenate(rights)
    left, right = left[left != right], right[left != right]
    ones = np.ones(2 * len(left), dtype=np.float32)
    rows, columns = np.concatenate([left, right]), np.concatenate([right, left])
    return sp.coo_array((ones, (rows, columns)), shape=(num_items, num_items)).tocsr()


def shifted_ppmi(counts: sp.csr_array, shift: float) -> sp.csr_array:
    """Turn symmetric counts into max(0, log(n_ij n / (n_i n_j)) - log k) with k = `shift`."""
    table = counts.tocoo()
    totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    rows, columns = table.coords
    # n_i and n_j are at least n_ij, which is positive in a stored cell, so nothing divides by 0.
    ratio = table.data * totals.sum() / (totals[rows] * totals[columns])
    values = np.maximum(np.log(ratio) - np.log(shift), 0).astype(np.float32)
    information = sp.coo_array((values, (rows, columns)), shape=counts.shape).tocsr()
    information.eliminate_zeros()
    return information


def fuse(text: np.ndarray, collaborative: np.ndarray, weight: float) -> np.ndarray:
    """Join both parts: a dot product is then (1 - weight) times the texts' plus weight times the others'."""
    fused: np.ndarray = np.concatenate([np.sqrt(1 - weight) * text, np.sqrt(weight) * collaborative], axis=1)
    return fused.astype(np.float32)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; rows of zeros stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: np.ndarray = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return scaled


def _text_part(texts: Sequence[str], config: EmbedConfig) -> np.ndarray:
    if config.encoder == TFIDF:
        return tfidf_vectors(texts, dim=config.dim, seed=config.seed)
    # Imported here: torch and transformers take seconds that TF-IDF does not need.
    from gream.semantic_ids.pooling import encode_texts

    vectors = encode_texts(texts, config.encoder, max_tokens=config.max_tokens, batch_size=config.batch_size)
    return normalised(vectors)


def _factorise(matrix: sp.csr_array, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Truncated SVD: U S (N, D) and the singular values (D,); scikit-learn fixes the signs."""
    svd = TruncatedSVD(min(dim, *matrix.shape), n_iter=SVD_ITERATIONS, random_state=seed)
    scores = svd.fit_transform(matrix)
    return np.asarray(scores, dtype=np.float32), np.asarray(svd.singular_values_, dtype=np.float32)


def _check(config: EmbedConfig) -> None:
    """Refuse settings out of range, all at once."""
    problems = [
        f"`{name}` is {value}, but must be {wanted}"
        for name, value, fine, wanted in (
            ("dim", config.dim, config.dim >= 1, "at least 1"),
            ("max_tokens", config.max_tokens, config.max_tokens >= 1, "at least 1"),
            ("batch_size", config.batch_size, config.batch_size >= 1, "at least 1"),
            ("collaborative", config.collaborative, 0 <= config.collaborative <= 1, "from 0 to 1"),
            ("window", config.window, config.window >= 1, "at least 1"),
            ("shift", config.shift, config.shift >= 1, "at least 1"),
        )
        if not fine
    ]
    if problems:
        raise InputError(f"{'; '.join(problems)}; correct the recipe of `gream embed`.")
