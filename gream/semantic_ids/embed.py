"""Stage `embed`: one vector for each item, from its text and, if wanted, from who bought what with it.

The text part is TF-IDF with a truncated SVD (`tfidf`), which needs no download, or any Hugging Face model
(`encoder`; GREAM, arXiv 2510.20815, takes a language model, and no L2 norm). The collaborative part
(`collaborative`) is learnt from training purchases alone; fusing it in is ours, and `evidence` says on the
validation split at which weight it predicts best.

With a Hugging Face model it also runs on several processes: `torchrun --nproc_per_node 2 -m
gream.semantic_ids.embed --config FILE`, or `accelerate launch` in its place. A run that was stopped goes on.

Legend: N items, D embedding.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gream import artifacts
from gream.arguments import StageConfig, input_folder, option
from gream.data.store import Catalogue, Interactions, load_catalogue, load_interactions
from gream.errors import InputError
from gream.processes import Team, find_team, writing_once
from gream.semantic_ids import evidence
from gream.semantic_ids.collaborative import METHODS, als_vectors, ppmi_vectors
from gream.semantic_ids.embeddings_file import COLLABORATIVE_FILE, EMBEDDINGS_FILE, STAGE, TEXT_VECTORS_FILE
from gream.semantic_ids.encoding import encode_resumable
from gream.semantic_ids.evidence_plot import plot
from gream.semantic_ids.item_text import load_item_text
from gream.semantic_ids.tfidf import fit_text_space
from gream.semantic_ids.vectors import fuse, normalised

if TYPE_CHECKING:
    from gream.semantic_ids.encoder import Encoder

logger = logging.getLogger(__name__)

REPORT_FILE = "embeddings_report.json"
PLOT_FILE = "evidence.png"
TFIDF = "tfidf"


@dataclass(kw_only=True)
class EmbedConfig(StageConfig):
    """Settings of the stage `embed`."""

    output: str = option("embeddings", doc="name of the folder that this stage writes inside run_dir")
    data: str = input_folder("data", doc="folder written by `gream data`")
    text: str = input_folder("text", doc="folder written by `gream text`")
    encoder: str = option(TFIDF, doc="`tfidf`, or an encoder or causal LM by name", from_environment=True)
    dim: int = option(256, doc="width of the TF-IDF part and of the collaborative part, at most")
    max_tokens: int = option(512, doc="tokens of a text that a Hugging Face encoder reads, at most")
    batch_size: int = option(32, doc="texts at once in a Hugging Face encoder")
    collaborative: float = option(0.0, doc="weight of the collaborative part, 0 (text only) to 1")
    collaborative_method: str = option("ppmi", doc="ppmi (what is bought near an item) or als (by whom)")
    window: int = option(3, doc="ppmi: purchases of one user at most this far apart count as bought together")
    shift: float = option(5.0, doc="ppmi: k of the shift; log k is subtracted from the mutual information")
    iterations: int = option(15, doc="als: how often users and items are solved for in turn")
    regularization: float = option(10.0, doc="als: weight of the squared factors in the loss")
    alpha: float = option(40.0, doc="als: confidence of one purchase; what was not bought has 1")

    def inputs(self) -> dict[str, Path]:
        """Inputs of the stage; an encoder in a folder is one too."""
        local = self.encoder != TFIDF and Path(self.encoder).is_dir()
        return super().inputs() | ({"encoder": Path(self.encoder)} if local else {})


CONFIG = EmbedConfig


def run(config: EmbedConfig) -> None:
    """Write `embeddings.npy`, (N, D) float32, its two parts, and how well each predicts the next item.

    Raises:
        InputError: settings out of range, inputs that do not fit each other, no text and no weight for
            purchases, or a vector that is no number.
    """
    _check(config)
    catalogue = load_catalogue(config.locate("data"))
    texts = _texts(config, len(catalogue))
    team = find_team()
    resume = config.output_path.parent / f".{config.output}.resume"
    with writing_once(
        config.output_path, stage=STAGE, config=config.recorded(), inputs=config.inputs(), seed=config.seed
    ) as draft:
        text = _text_part(texts, config, draft, team, resume)
        if draft is not None:
            draft.counts.update(items=len(texts), items_without_text=texts.count(""), processes=team.size)
            _finish(draft, text, catalogue, load_interactions(config.locate("data")), config)
    if team.is_main:
        shutil.rmtree(resume, ignore_errors=True)
    team.wait()  # nobody reads the folder before it is there


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


def _texts(config: EmbedConfig, num_items: int) -> list[str]:
    """Read the texts; refuse those of another catalogue, and none at all where they have a weight."""
    texts = load_item_text(config.locate("text"))
    if len(texts) != num_items:
        raise InputError(
            f"{config.locate('text')} has {len(texts):,} texts, but {config.locate('data')} has "
            f"{num_items:,} items; run `gream text` again."
        )
    if not any(texts) and config.collaborative < 1:
        raise InputError(
            f"{config.locate('text')}: no item has a text, but `collaborative` is {config.collaborative:g}, "
            "which leaves weight for texts; set it to 1, or give the items titles."
        )
    return texts


def _text_part(
    texts: list[str], config: EmbedConfig, draft: artifacts.Draft | None, team: Team, resume: Path
) -> np.ndarray | None:
    """Vectors of the texts (N, width) in the main process, None without any text and in other processes."""
    if not any(texts):
        return None
    if config.encoder != TFIDF:
        vectors = encode_resumable(
            texts,
            lambda: _load_encoder(config),
            batch_size=config.batch_size,
            folder=resume,
            key=_key(texts, config),
            team=team,
        )
        return None if vectors is None else normalised(vectors)
    if draft is None:
        return None
    space, vectors = fit_text_space(texts, dim=config.dim, seed=config.seed)
    space.save(draft.path)
    return vectors


def _load_encoder(config: EmbedConfig) -> Encoder:
    # Imported here: torch and transformers take seconds that TF-IDF does not need.
    from gream.semantic_ids.encoder import load_encoder

    return load_encoder(config.encoder, max_tokens=config.max_tokens)


def _key(texts: list[str], config: EmbedConfig) -> str:
    """Fingerprint of everything that the text vectors depend on."""
    folder = config.inputs().get("encoder")
    encoder = artifacts.fingerprint(folder) if folder else config.encoder
    told = json.dumps([texts, encoder, config.max_tokens, config.batch_size])
    return hashlib.sha256(told.encode()).hexdigest()


def _finish(
    draft: artifacts.Draft,
    text: np.ndarray | None,
    catalogue: Catalogue,
    interactions: Interactions,
    config: EmbedConfig,
) -> None:
    """Write everything that follows from the text vectors."""
    bought = _collaborative_part(interactions.training_sequences(), len(catalogue), config)
    for part, source, file in (
        (text, f"encoder `{config.encoder}`", TEXT_VECTORS_FILE),
        (bought, f"collaborative_method `{config.collaborative_method}`", COLLABORATIVE_FILE),
    ):
        if part is not None:
            require_finite(part, catalogue.item_ids, source)
            np.save(draft.path / file, part)
    vectors = fuse(text, bought, config.collaborative)
    np.save(draft.path / EMBEDDINGS_FILE, vectors)
    draft.counts.update(
        dim=vectors.shape[1],
        text_dim=0 if text is None else text.shape[1],
        collaborative_dim=0 if bought is None else bought.shape[1],
        items_without_known_words=_zeros(text, len(catalogue)),
        items_without_collaborative_part=_zeros(bought, len(catalogue)),
    )
    if text is not None or bought is not None:
        sample = evidence.draw_cases(interactions, len(catalogue), seed=config.seed)
        report = evidence.measure(text, bought, sample, weight=config.collaborative)
        (draft.path / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n")
        plot(draft.path / PLOT_FILE, report)
        logger.info("%s", evidence.table(report))
    logger.info("%s; in %s", ", ".join(f"{k} {v:,}" for k, v in draft.counts.items()), config.output_path)


def _collaborative_part(
    sequences: list[np.ndarray], num_items: int, config: EmbedConfig
) -> np.ndarray | None:
    """Collaborative vectors, also where their weight is 0: the evidence compares them.

    Raises:
        InputError: they have a weight, but nothing can be learnt.
    """
    size = {"dim": config.dim, "seed": config.seed}
    if config.collaborative_method == "ppmi":
        bought = ppmi_vectors(sequences, num_items, window=config.window, shift=config.shift, **size)
    else:
        bought = als_vectors(
            sequences,
            num_items,
            iterations=config.iterations,
            regularization=config.regularization,
            alpha=config.alpha,
            **size,
        )
    if bought is None and config.collaborative > 0:
        raise InputError(
            "No two items stand out as bought together in the training purchases, but `collaborative` is "
            "above 0; set it to 0, widen `window`, or lower `shift`."
        )
    if bought is None:
        logger.info("No two items stand out as bought together, so there are no collaborative vectors.")
    return bought


def _zeros(vectors: np.ndarray | None, num_items: int) -> int:
    return num_items if vectors is None else int((~vectors.any(axis=1)).sum())


def _check(config: EmbedConfig) -> None:
    """Refuse settings out of range, all at once."""
    method = config.collaborative_method
    problems = [
        f"`{name}` is {value}, but must be {wanted}"
        for name, value, fine, wanted in (
            ("dim", config.dim, config.dim >= 1, "at least 1"),
            ("max_tokens", config.max_tokens, config.max_tokens >= 1, "at least 1"),
            ("batch_size", config.batch_size, config.batch_size >= 1, "at least 1"),
            ("collaborative", config.collaborative, 0 <= config.collaborative <= 1, "from 0 to 1"),
            ("collaborative_method", method, method in METHODS, " or ".join(METHODS)),
            ("window", config.window, config.window >= 1, "at least 1"),
            ("shift", config.shift, config.shift >= 1, "at least 1"),
            ("iterations", config.iterations, config.iterations >= 1, "at least 1"),
            ("regularization", config.regularization, config.regularization >= 0, "at least 0"),
            ("alpha", config.alpha, config.alpha > 0, "above 0"),
        )
        if not fine
    ]
    if problems:
        raise InputError(f"{'; '.join(problems)}; correct the recipe of `gream embed`.")


if __name__ == "__main__":
    from gream.cli import run_module

    run_module(STAGE)
