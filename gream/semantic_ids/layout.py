"""The shape of item names: how many codebooks, how large, and how each code is spelled as a token.

Legend: L codebooks (the disambiguation level included), N items.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gream.artifacts import check_whole
from gream.errors import InputError

LAYOUT_FILE = "layout.json"
CODES_FILE = "codes.npy"


@dataclass(frozen=True)
class SidLayout:
    """Shape and spelling of semantic IDs; every item of a catalogue has exactly L codes.

    `codebook_sizes` has one entry for each level. With `disambiguation` the last level is no quantiser:
    it numbers the items that share all other codes. `ordered` is true for residual codes, whose meaning
    depends on the levels before them, and false for parallel codes.
    """

    codebook_sizes: tuple[int, ...]
    ordered: bool = True
    disambiguation: bool = False

    @property
    def num_codebooks(self) -> int:
        """Number of codes in a name, L."""
        return len(self.codebook_sizes)

    @property
    def num_tokens(self) -> int:
        """Size of the item block in the vocabulary: the sum of all codebook sizes."""
        return sum(self.codebook_sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Position of each codebook's code 0 inside the item block."""
        starts = np.concatenate([[0], np.cumsum(self.codebook_sizes)[:-1]])
        return tuple(int(s) for s in starts)

    def token(self, level: int, code: int) -> str:
        """Spell one code, for example `<a_17>`."""
        return f"<{_letter(level)}_{code}>"

    def tokens(self) -> list[str]:
        """Spell the whole item block in the order of its token ids."""
        return [self.token(l, c) for l, size in enumerate(self.codebook_sizes) for c in range(size)]

    def name(self, codes: np.ndarray | tuple[int, ...]) -> str:
        """Spell one item: (L,) codes to `<a_1><b_2><c_3>`."""
        return "".join(self.token(level, int(code)) for level, code in enumerate(codes))

    def fingerprint(self) -> str:
        """Short hash that models and scorers keep, so that a layout they were not made for is refused."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Names:
    """All names of a catalogue: a layout and the (N, L) codes, each row unique.

    Items that were named later stand behind the first `num_trained`, the names that models are made for;
    None means that no item came later.
    """

    layout: SidLayout
    codes: np.ndarray  # (N, L) int32
    num_trained: int | None = None

    def __post_init__(self) -> None:
        if self.codes.ndim != 2 or self.codes.shape[1] != self.layout.num_codebooks:
            raise InputError(
                f"Codes have shape {self.codes.shape}, but the layout has {self.layout.num_codebooks} "
                "codebooks; run `gream sids` again."
            )
        sizes = np.asarray(self.layout.codebook_sizes)
        if len(self.codes) and ((self.codes < 0) | (self.codes >= sizes)).any():
            raise InputError("A code lies outside its codebook; run `gream sids` again.")
        in_order = self.codes[sort_by_codes(self.codes, self.layout.codebook_sizes)]
        if (in_order[1:] == in_order[:-1]).all(axis=1).any():
            raise InputError("Two items share one name; run `gream sids` again.")

    def __len__(self) -> int:
        return len(self.codes)

    def spell(self, item: int) -> str:
        """Spell the name of one item."""
        return self.layout.name(self.codes[item])

    def fingerprint(self) -> str:
        """Short hash of layout and trained codes: what a model folder remembers.

        Items that are named later do not change it, so a model goes on with them.
        """
        return self._hash(self.codes[: self.num_trained])

    def checksum(self) -> str:
        """Short hash of layout and all codes: that the two files of a names folder belong together."""
        return self._hash(self.codes)

    def _hash(self, codes: np.ndarray) -> str:
        digest = hashlib.sha256(self.layout.fingerprint().encode())
        digest.update(np.ascontiguousarray(codes, dtype=np.int32).tobytes())
        return digest.hexdigest()[:12]


def sort_by_codes(codes: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Sort codes (N, L) by the first level, then the second, and so on: (N,) places."""
    if math.prod(sizes) < 2**63:  # one number a name sorts much faster
        order: np.ndarray = np.argsort(np.ravel_multi_index(codes.T.astype(np.int64), tuple(sizes)))
        return order
    lexical: np.ndarray = np.lexsort(codes.T[::-1])  # level 0 is the first key
    return lexical


def save_names(folder: Path, names: Names) -> None:
    """Write `layout.json` and `codes.npy` into `folder`."""
    data = {**asdict(names.layout), "num_trained": names.num_trained, "checksum": names.checksum()}
    (folder / LAYOUT_FILE).write_text(json.dumps(data, indent=2) + "\n")
    np.save(folder / CODES_FILE, names.codes.astype(np.int32))


def load_names(folder: Path) -> Names:
    """Read the names that `gream sids` wrote.

    Raises:
        InputError: the folder holds no names, or layout and codes are damaged or do not belong together.
    """
    if not (folder / LAYOUT_FILE).is_file() or not (folder / CODES_FILE).is_file():
        raise InputError(f"{folder} holds no item names; run `gream sids`, or correct the path.")
    check_whole(folder)
    data = json.loads((folder / LAYOUT_FILE).read_text())
    if not {"checksum", "num_trained"} <= data.keys():
        raise InputError(f"{folder} was written by an older gream; run `gream sids` again.")
    expected, num_trained = data.pop("checksum"), data.pop("num_trained")
    layout = SidLayout(tuple(data.pop("codebook_sizes")), **data)
    names = Names(layout, np.load(folder / CODES_FILE, allow_pickle=False), num_trained)
    if names.checksum() != expected:
        raise InputError(f"{folder}: {CODES_FILE} does not belong to {LAYOUT_FILE}; run `gream sids` again.")
    return names


def _letter(level: int) -> str:
    """a, b, ..., z, aa, ab, ... so that any number of codebooks can be spelled."""
    text = ""
    level += 1
    while level:
        level, rest = divmod(level - 1, 26)
        text = chr(ord("a") + rest) + text
    return text
