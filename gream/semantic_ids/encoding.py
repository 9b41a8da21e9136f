"""Long encoding runs: batches by length, on several processes, and a run that was stopped goes on.

Texts are sorted by length and cut into batches, batches into shards. Both depend on the texts and the batch
size only, so any number of processes gives the same vectors (byte for byte where each has the same number of
threads). Every finished shard is a file of a folder that all processes share; a stopped run is started again
and encodes what is missing.

Legend: N texts, B texts of a batch, D width.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from gream.artifacts import write_file
from gream.processes import Team, no_bar

if TYPE_CHECKING:
    from gream.semantic_ids.encoder import Encoder

SHARD_BATCHES = 8  # batches of one file: what a kill costs at most, for each process; ours
KEY_FILE = "key"


def encode_texts(texts: Sequence[str], encoder: Encoder, *, batch_size: int) -> np.ndarray:
    """Embed texts in batches by length: (N, D) float32, zero for an empty text; (N, 0) if all are."""
    groups = _batches(texts, batch_size)
    return _in_order(len(texts), groups, [encoder.encode([texts[i] for i in group]) for group in groups])


def encode_resumable(
    texts: Sequence[str],
    load: Callable[[], Encoder],
    *,
    batch_size: int,
    folder: Path,
    key: str,
    team: Team,
) -> np.ndarray | None:
    """Embed texts as `encode_texts` does, with all processes of the team, keeping what is done.

    Args:
        texts: N texts, the same in every process.
        load: gives the encoder; called only where something is missing.
        batch_size: B.
        folder: where finished shards are; every process must see it. The caller deletes it in the end.
        key: says what the shards are of; those of another key are thrown away.
        team: the processes.

    Returns:
        (N, D) float32 in the main process, None in the others.
    """
    groups = _batches(texts, batch_size)
    shards = [groups[start : start + SHARD_BATCHES] for start in range(0, len(groups), SHARD_BATCHES)]
    if team.is_main:
        _prepare(folder, key)
    team.wait()
    missing = [number for number in range(len(shards)) if not _shard_file(folder, number).is_file()]
    team.wait()  # nobody writes before everybody has looked, or the shares would not fit
    mine = team.share(missing)
    if mine:
        encoder = load()
        rounds = [(number, group) for number in mine for group in shards[number]]
        bar = tqdm(total=len(rounds), desc="embed", unit="batch", disable=no_bar())
        with bar:
            for number in mine:
                _encode_shard(texts, shards[number], encoder, _shard_file(folder, number), bar)
    team.wait()
    if not team.is_main:
        return None
    stored = [np.load(_shard_file(folder, number), allow_pickle=False) for number in range(len(shards))]
    return _in_order(len(texts), [np.concatenate(shard) for shard in shards], stored)


def _batches(texts: Sequence[str], batch_size: int) -> list[np.ndarray]:
    """Cut the texts that are not empty into batches, longest first so that a batch has little padding.

    Characters stand for tokens: counting those would need the whole catalogue tokenised by every process.
    """
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _encode_shard(
    texts: Sequence[str], groups: Sequence[np.ndarray], encoder: Encoder, file: Path, bar: tqdm[None]
) -> None:
    """Write the vectors of a shard, whole or not at all."""
    vectors = []
    for group in groups:
        vectors.append(encoder.encode([texts[item] for item in group]))
        bar.update()
    partial = file.with_suffix(".partial")
    with partial.open("wb") as handle:
        np.save(handle, np.concatenate(vectors))
        handle.flush()
        os.fsync(handle.fileno())  # or a power failure could leave the name without the bytes
    os.replace(partial, file)


def _prepare(folder: Path, key: str) -> None:
    """Leave in `folder` the shards of this key, or none."""
    note = folder / KEY_FILE
    if note.is_file() and note.read_text() == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_file(note, key)


def _shard_file(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.npy"


def _in_order(num_texts: int, groups: Sequence[np.ndarray], parts: Sequence[np.ndarray]) -> np.ndarray:
    """Put the vectors of groups of texts to the places of their texts."""
    vectors = np.zeros((num_texts, parts[0].shape[1] if parts else 0), dtype=np.float32)
    for group, part in zip(groups, parts, strict=True):
        vectors[group] = part
    return vectors
