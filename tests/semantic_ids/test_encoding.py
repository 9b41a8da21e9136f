"""Long encoding runs: the same bytes from any number of processes, and nothing is encoded twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from gream import artifacts
from gream.data.store import Catalogue, Interactions
from gream.processes import Team
from gream.semantic_ids import encoding
from gream.semantic_ids.embed import EmbedConfig, run
from gream.semantic_ids.embeddings_file import EMBEDDINGS_FILE
from gream.semantic_ids.encoding import encode_resumable, encode_texts

ROOT = Path(__file__).parents[2]
SaveModel = Callable[[Path, str], Path]
Prepare = Callable[[Path, Catalogue, Interactions], None]
TEXTS = ["word " * (number * 7 % 23) for number in range(45)]  # two of them are empty
ALONE = Team(0, 1, lambda: None)


class Counting:
    """Encodes a text by its length and the size of its batch; says what it was asked for."""

    def __init__(self, fail_at: int = 10**9) -> None:
        self.asked: list[str] = []
        self.batches = 0
        self.fail_at = fail_at

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.batches += 1
        if self.batches == self.fail_at:
            raise RuntimeError("killed")
        self.asked += texts
        return np.array([[len(text), 1 / len(texts)] for text in texts], dtype=np.float32)


def resumable(folder: Path, encoder: Counting, *, key: str = "k", team: Team = ALONE) -> np.ndarray | None:
    return encode_resumable(TEXTS, lambda: encoder, batch_size=2, folder=folder, key=key, team=team)


def test_batches_hold_texts_of_like_length_and_every_text_gets_its_own_vector() -> None:
    encoder = Counting()
    vectors = encode_texts(TEXTS, encoder, batch_size=4)
    assert vectors[:, 0].tolist() == [len(text) for text in TEXTS]
    assert [len(text) for text in encoder.asked] == sorted((len(t) for t in TEXTS if t), reverse=True)


def test_empty_texts_are_not_encoded_and_zero() -> None:
    encoder = Counting()
    vectors = encode_texts(["", "a", ""], encoder, batch_size=2)
    assert encoder.asked == ["a"]
    assert vectors.tolist() == [[0, 0], [1, 1], [0, 0]]
    assert encode_texts(["", ""], encoder, batch_size=2).shape == (2, 0)


def test_a_run_that_fails_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    whole = encode_texts(TEXTS, Counting(), batch_size=2)
    first, second = Counting(fail_at=20), Counting()
    with pytest.raises(RuntimeError, match="killed"):
        resumable(tmp_path / "resume", first)
    vectors = resumable(tmp_path / "resume", second)
    assert vectors is not None and vectors.tobytes() == whole.tobytes()
    # Two shards of 8 batches were finished, 3 batches of the third were lost.
    assert len(first.asked) == 19 * 2
    assert len(second.asked) == len([t for t in TEXTS if t]) - 16 * 2


def test_a_finished_run_loads_no_encoder(tmp_path: Path) -> None:
    resumable(tmp_path / "resume", Counting())
    again = Counting()
    resumable(tmp_path / "resume", again)
    assert again.asked == []


def test_another_key_throws_away_what_is_there(tmp_path: Path) -> None:
    resumable(tmp_path / "resume", Counting())
    again = Counting()
    resumable(tmp_path / "resume", again, key="other")
    assert len(again.asked) == len([t for t in TEXTS if t])


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_missing_shards(tmp_path: Path, size: int) -> None:
    """Threads stand for processes: they meet at the same barriers and see the same folder."""
    whole = encode_texts(TEXTS, Counting(), batch_size=2)
    encoders = [Counting() for _ in range(size)]
    barrier = threading.Barrier(size, timeout=30)  # one that fails must not leave the others waiting
    with ThreadPoolExecutor(size) as pool:
        teams = [Team(rank, size, barrier.wait) for rank in range(size)]
        runs = [
            pool.submit(resumable, tmp_path / "resume", encoder, team=team)
            for encoder, team in zip(encoders, teams, strict=True)
        ]
        vectors, *others = [done.result() for done in runs]
    assert vectors is not None and vectors.tobytes() == whole.tobytes()
    assert others == [None] * (size - 1)
    # 43 texts that are not empty: 22 batches, in shards of 8, 8 and 6.
    assert [encoder.batches for encoder in encoders] == {2: [14, 8], 3: [8, 8, 6]}[size]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from gream.processes import Team
from gream.semantic_ids.encoding import encode_resumable

class Dying:
    batches = 0
    def encode(self, texts):
        self.batches += 1
        if self.batches == 14:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[len(text), 1 / len(texts)] for text in texts], dtype=np.float32)

texts = ["word " * (number * 7 % 23) for number in range(45)]
encode_resumable(texts, Dying, batch_size=2, folder=Path(sys.argv[1]), key="k", team=Team(0, 1, lambda: None))
"""


def test_a_process_that_is_killed_leaves_whole_shards_only(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "resume")], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    again = Counting()
    vectors = resumable(tmp_path / "resume", again)
    whole = encode_texts(TEXTS, Counting(), batch_size=2)
    assert vectors is not None and vectors.tobytes() == whole.tobytes()
    assert len(again.asked) == len([t for t in TEXTS if t]) - 8 * 2


def test_the_stage_goes_on_and_leaves_nothing_behind(
    tmp_path: Path,
    save_model: SaveModel,
    prepare: Prepare,
    catalogue: Catalogue,
    interactions: Interactions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "SHARD_BATCHES", 2)
    folder = save_model(tmp_path / "model", "encoder")
    prepare(tmp_path, catalogue, interactions)
    config = EmbedConfig(run_dir=str(tmp_path), encoder=str(folder), batch_size=4, dim=4)
    run(config)
    whole = (tmp_path / "embeddings" / EMBEDDINGS_FILE).read_bytes()

    from gream.semantic_ids.encoder import SentenceEncoder

    encode, asked = SentenceEncoder.encode, []

    def failing(self: SentenceEncoder, texts: Sequence[str]) -> np.ndarray:
        asked.append(len(texts))
        if len(asked) == 4:
            raise RuntimeError("killed")
        return encode(self, texts)

    monkeypatch.setattr(SentenceEncoder, "encode", failing)
    again = EmbedConfig(run_dir=str(tmp_path), output="again", encoder=str(folder), batch_size=4, dim=4)
    with pytest.raises(RuntimeError, match="killed"):
        run(again)
    assert (tmp_path / ".again.resume").is_dir() and not (tmp_path / "again").exists()
    run(again)
    assert sum(asked) == 3 * 4 + 4 + 16  # the last batch of the failing run was asked for, not encoded
    assert (tmp_path / "again" / EMBEDDINGS_FILE).read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.slow  # two processes import torch
def test_two_processes_write_the_bytes_of_one(
    tmp_path: Path,
    save_model: SaveModel,
    prepare: Prepare,
    catalogue: Catalogue,
    interactions: Interactions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    folder = save_model(tmp_path / "model", "encoder")
    prepare(tmp_path, catalogue, interactions)
    settings = {"encoder": str(folder), "batch_size": 1, "dim": 4, "collaborative": 0.5}
    run(EmbedConfig(run_dir=str(tmp_path), output="one", **settings))
    recipe = tmp_path / "3-embed.yaml"
    lines = [f"{key}: {value}" for key, value in {"run_dir": tmp_path, "output": "two", **settings}.items()]
    recipe.write_text("\n".join(lines))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = subprocess.run(
        [sys.executable, *launch, "-m", "gream.semantic_ids.embed", "--config", str(recipe)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    counts = artifacts.read_manifest(tmp_path / "two", stage="embed").counts
    assert counts["processes"] == 2
    for name in artifacts.read_manifest(tmp_path / "one").outputs:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
