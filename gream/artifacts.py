"""Every stage writes one folder, whole or not at all, with a manifest that says how it came to be.

A folder is written under a hidden sibling name and renamed at the end, when all of it is on the disk, so a
crash never leaves something that looks finished. `manifest.json` holds the stage, its configuration, a
fingerprint of every input and output, the seed, the versions and the counts; the next stage refuses a folder
of another stage, or one whose files are no longer what was written, and `gream run` skips a stage whose
manifest is current and whose files are whole.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gream.errors import InputError
from gream.run_folder import disk_trouble_told

MANIFEST = "manifest.json"
FORMAT = 2  # raised when a folder of an older gream can no longer be read

_VERSIONED = ("gream", "torch", "transformers", "trl", "numpy", "scikit-learn")


@dataclass
class Manifest:
    """What `manifest.json` holds; `counts` is what the stage prints at its end."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True)  # keys of a later gream are let pass

    stage: str
    config: dict[str, Any]
    inputs: dict[str, str]
    seed: int
    counts: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory_mb: int = 0
    device_peak_mb: int = 0  # of a GPU's memory, by torch; 0: the stage did not compute on one
    format: int = FORMAT


_MANIFEST = TypeAdapter(Manifest)


@dataclass
class Draft:
    """A folder being written: put files into `path`, put figures into `counts`."""

    path: Path
    counts: dict[str, Any]


@contextlib.contextmanager
def writing(
    folder: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path], seed: int
) -> Iterator[Draft]:
    """Give a draft folder that becomes `folder` when the block ends, and vanishes when it raises.

    Args:
        folder: where the finished artefact will be; an older one there is replaced.
        stage: name of the stage, checked by whoever reads the folder.
        config: the stage's configuration, JSON-compatible.
        inputs: name to file or folder that the stage read; fingerprinted into the manifest.
        seed: the seed that the stage used.

    Raises:
        InputError: the place cannot be written, or the disk is full.
    """
    started, before = time.monotonic(), _device_peak_mb(forget=True)
    manifest = Manifest(stage, dict(config), {k: fingerprint(p) for k, p in inputs.items()}, seed)
    partial, _ = _leftovers(folder)
    try:
        sweep(folder)
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"Cannot write {folder}: {error.strerror}; free the place or choose another `run_dir`."
        ) from error
    try:
        with disk_trouble_told(folder.parent):  # inside, because what is removed below makes room
            yield Draft(partial, manifest.counts)
            manifest.outputs = file_hashes(partial)
            manifest.versions = _versions()
            manifest.seconds = round(time.monotonic() - started, 2)
            manifest.peak_memory_mb = peak_memory_mb()
            peak = _device_peak_mb()
            manifest.device_peak_mb = peak if peak > before else 0  # what lay there before is not its own
            text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
            (partial / MANIFEST).write_text(text + "\n")
            flush_to_disk(partial)
            _replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what a killed command left beside `folder`: a half-written one, or the one before it."""
    for leftover in _leftovers(folder):
        shutil.rmtree(leftover, ignore_errors=True)


def flush_to_disk(folder: Path) -> None:
    """Wait until all of a folder is on the disk: after a power failure a name could stand for nothing."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_file(path: Path, text: str) -> None:
    """Write a small file, whole or not at all: what was there before stays until the new one is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_manifest(folder: Path, *, stage: str | None = None) -> Manifest:
    """Read the manifest of a finished folder; with `stage`, whose files will be read, check them as well.

    Raises:
        InputError: no folder, no manifest, another stage's folder, another format, or with `stage` a file
            that is missing or is not what was written.
    """
    path = folder / MANIFEST
    wanted = f"the output of `gream {stage}`" if stage else "the output of a finished stage"
    if not path.is_file():
        raise InputError(
            f"{folder} is not {wanted}: it has no {MANIFEST}; run that stage, or correct the path."
        )
    try:
        manifest: Manifest = _MANIFEST.validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} cannot be read ({_first(error)}); run the stage again.") from error
    if manifest.format != FORMAT:
        raise InputError(
            f"{path} has format {manifest.format}, this gream reads {FORMAT}; run the stage again."
        )
    if stage is not None and manifest.stage != stage:
        raise InputError(
            f"{folder} was written by `gream {manifest.stage}`, but {wanted} is needed; correct the path."
        )
    if stage is not None:
        _refuse_damage(folder, manifest)
    return manifest


def check_whole(folder: Path) -> None:
    """Refuse a finished folder whose files are no longer what was written; others are let pass.

    Raises:
        InputError: a file of the manifest is missing or changed, or the manifest cannot be read.
    """
    if (folder / MANIFEST).is_file():
        _refuse_damage(folder, read_manifest(folder))


def is_current(folder: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, Path]) -> bool:
    """Say whether `folder` is what this stage would write now: same config, same inputs, all files there."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        manifest = read_manifest(folder)
    except InputError:  # an unreadable manifest is a folder to be made again
        return False
    return (
        manifest.stage == stage
        and manifest.config == json.loads(json.dumps(dict(config)))
        and manifest.inputs == {name: fingerprint(path) for name, path in inputs.items()}
        and damaged_file(folder, manifest) is None
    )


def damaged_file(folder: Path, manifest: Manifest) -> str | None:
    """Name the first file that is missing or is not what was written; None where all of them are whole."""
    for name, written in manifest.outputs.items():
        path = folder / name
        if not path.is_file() or _hash_of(path) != written:
            return name
    return None


def fingerprint(path: Path) -> str:
    """Hash an input: an artefact by its manifest's file hashes, anything else by its bytes.

    Raises:
        InputError: nothing is there.
    """
    if (path / MANIFEST).is_file():
        return _digest(json.dumps(read_manifest(path).outputs, sort_keys=True).encode())
    if path.is_file():
        return _hash_file(path)
    if path.is_dir():
        return _digest(json.dumps(file_hashes(path), sort_keys=True).encode())
    raise InputError(f"{path} does not exist; correct the path, or run the stage that writes it.")


def file_hashes(folder: Path, *, but: Sequence[str] = (MANIFEST,)) -> dict[str, str]:
    """Hash every file of a folder, by its name relative to it; files named in `but` are left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in but)
    return {str(p.relative_to(folder)): _hash_file(p) for p in files}


def peak_memory_mb() -> int:
    """Return the largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)


def _device_peak_mb(*, forget: bool = False) -> int:
    """Return the most of a GPU's memory that torch has held, in MiB; to `forget` it, what it holds now."""
    torch: Any = sys.modules.get("torch")  # to import it takes seconds, and who has not used no GPU
    if torch is None or not torch.cuda.is_initialized():
        return 0
    if forget:
        torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.max_memory_allocated()) >> 20


def _leftovers(folder: Path) -> tuple[Path, Path]:
    return folder.parent / f".{folder.name}.partial", folder.parent / f".{folder.name}.old"


def _refuse_damage(folder: Path, manifest: Manifest) -> None:
    damaged = damaged_file(folder, manifest)
    if damaged is not None:
        raise InputError(
            f"{folder / damaged} is missing, damaged or changed since `gream {manifest.stage}` wrote it; run "
            "that stage again."
        )


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return ": ".join([".".join(map(str, problem["loc"])), problem["msg"]]).removeprefix(": ")


def _replace(partial: Path, folder: Path) -> None:
    """Move `partial` to `folder`; the old folder leaves last, so that one of both is always whole."""
    _, old = _leftovers(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def _hash_of(path: Path) -> str:
    """Hash a file, or remember the hash of one that was not touched since."""
    found = path.stat()
    return _remembered_hash(path, found.st_size, found.st_mtime_ns, found.st_ino)


@functools.lru_cache(maxsize=4096)
def _remembered_hash(path: Path, *_: int) -> str:
    return _hash_file(path)


def _hash_file(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
