"""The constraint beside the names: written with them, read back without sorting anything again."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.semantic_ids.paths import Constraint
from gream.semantic_ids.postings import PostingConstraint

CONSTRAINT_FILE = "constraint.safetensors"


def constraint_of(names: Names) -> TrieConstraint | PostingConstraint:
    """Build what holds a search to names: a trie for ordered codes, posting lists for unordered ones."""
    return TrieConstraint(names) if names.layout.ordered else PostingConstraint(names)


def save_constraint(folder: Path, names: Names) -> None:
    """Build the constraint of names and write it into their folder."""
    tensors = constraint_of(names).tensors()
    save_file(tensors, folder / CONSTRAINT_FILE, metadata={"names": names.checksum()})


def load_constraint(folder: Path, names: Names) -> Constraint:
    """Read the constraint of a names folder; where the folder has none, it is built.

    Raises:
        InputError: the file was made for other names.
    """
    path = folder / CONSTRAINT_FILE
    if not path.is_file():
        return constraint_of(names)
    with safe_open(path, framework="pt") as stored:
        if (stored.metadata() or {}).get("names") != names.checksum():
            raise InputError(f"{path} was made for other names than those beside it; run `gream sids` again.")
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118, no mapping
    kind = TrieConstraint if names.layout.ordered else PostingConstraint
    return kind(names, stored=tensors)
