"""Names in the form of LC-Rec: `X.index.json`, item to its tokens, {"0": ["<a_12>", "<b_3>"], ...}.

The keys are LC-Rec's item numbers; `X.item2id` beside the file, if there, says which raw id each of them is,
and otherwise they are taken for the raw ids themselves. GREAM's code (arXiv 2510.20815) writes one token
more for names that collide: the shorter names then get code 0 there, and the longer ones 1 and up.

Legend: N items, L codebooks, K codes, D embedding.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np

from gream.data.store import Catalogue
from gream.errors import InputError
from gream.semantic_ids.layout import Names, SidLayout

INDEX_SUFFIX = ".index.json"
_TOKEN = re.compile(r"<[A-Za-z]+_(\d{1,9})>")
_NAMED = 3  # items that an error message spells out


def write_index(path: Path, names: Names) -> None:
    """Write the tokens of every item under its dense number."""
    layout = names.layout
    rows = {
        str(item): [layout.token(level, int(code)) for level, code in enumerate(codes)]
        for item, codes in enumerate(names.codes)
    }
    path.write_text(json.dumps(rows) + "\n", encoding="utf-8")


def read_index(path: Path, catalogue: Catalogue) -> tuple[Names, np.ndarray]:
    """Read the names of a catalogue; names that items share are told apart by a last code.

    Returns:
        The names, and the codes (N, quantised levels) as the file has them.

    Raises:
        InputError: no such file, broken JSON, a token that is none, names of very different lengths, or an
            item of the catalogue without a name.
    """
    rows = _load(path)
    places = _raw_ids(path)
    by_item = {places.get(key, key): tokens for key, tokens in rows.items()}
    missing = [raw for raw in catalogue.item_ids if raw not in by_item]
    if missing:
        raise InputError(
            f"{path} has no name for {len(missing):,} of {len(catalogue):,} items (such as "
            f"{', '.join(f'`{raw}`' for raw in missing[:_NAMED])}); give an index of this catalogue, with "
            f"its {path.name.removesuffix(INDEX_SUFFIX)}.item2id beside it if its keys are numbers."
        )
    codes = [_codes(by_item[raw], raw, path) for raw in catalogue.item_ids]
    lengths = {len(row) for row in codes}
    shortest, longest = min(lengths), max(lengths)
    if longest - shortest > 1 or shortest == 0:
        raise InputError(
            f"{path} has names of {shortest} to {longest} tokens, but all names must have the same number, "
            "or one more where they would collide; write the index again."
        )
    table = np.array([row[:shortest] for row in codes], dtype=np.int32)
    extra = np.array([row[shortest] + 1 if len(row) > shortest else 0 for row in codes], dtype=np.int32)
    return _named(table, extra), table


def means_of_codes(vectors: np.ndarray, codes: np.ndarray, layout: SidLayout) -> list[np.ndarray]:
    """Codewords for imported codes: the mean, level by level, of what the levels before left over.

    Args:
        vectors: (N, D) embeddings of the named items.
        codes: (N, quantised levels).
        layout: of the names; a code that no item has gets zeros.

    Returns:
        One (K, D) float32 codebook for each quantised level.
    """
    residuals = np.array(vectors, dtype=np.float32)
    codebooks = []
    for level in range(codes.shape[1]):
        codebook = np.zeros((layout.codebook_sizes[level], vectors.shape[1]), dtype=np.float32)
        np.add.at(codebook, codes[:, level], residuals)
        counts = np.bincount(codes[:, level], minlength=len(codebook))
        codebook /= np.maximum(counts, 1)[:, None].astype(np.float32)
        residuals -= codebook[codes[:, level]]
        codebooks.append(codebook)
    return codebooks


def _named(table: np.ndarray, extra: np.ndarray) -> Names:
    """Names with a disambiguation level where the file has one, or where codes are shared without it."""
    sizes = tuple(int(top) + 1 for top in table.max(axis=0))
    keys = np.concatenate([table, extra[:, None]], axis=1)
    ranks = np.zeros(len(keys), dtype=np.int32)
    seen: dict[tuple[int, ...], int] = {}
    for item, key in enumerate(map(tuple, keys.tolist())):
        ranks[item] = seen.get(key, 0)
        seen[key] = int(ranks[item]) + 1
    if not ranks.any() and not extra.any():
        return Names(SidLayout(sizes), table)
    if ranks.any():  # items share a name even so: number all that share the first codes anew
        seen = {}
        for item, key in enumerate(map(tuple, table.tolist())):
            extra[item] = seen.get(key, 0)
            seen[key] = int(extra[item]) + 1
    layout = SidLayout((*sizes, int(extra.max()) + 1), disambiguation=True)
    return Names(layout, np.concatenate([table, extra[:, None]], axis=1))


def _load(path: Path) -> dict[str, list[str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); correct `index`.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON ({error}); give an index such as X{INDEX_SUFFIX}.") from error
    if not isinstance(rows, dict):
        raise InputError(f'{path} must hold one object such as {{"0": ["<a_12>", "<b_3>"]}}.')
    return rows


def _raw_ids(path: Path) -> dict[str, str]:
    """Item number to raw id, from `X.item2id` beside the index; empty without it."""
    table = path.with_name(path.name.removesuffix(INDEX_SUFFIX) + ".item2id")
    if not table.is_file():
        return {}
    try:
        pairs = [line.split("\t") for line in table.read_text(encoding="utf-8").splitlines() if line]
    except UnicodeDecodeError as error:
        raise InputError(f"{table} is no UTF-8 ({error}); write it again.") from error
    broken = next((number for number, pair in enumerate(pairs, start=1) if len(pair) != 2), None)
    if broken:
        raise InputError(f"{table}, line {broken} must be a raw id, a tab and a number; correct the line.")
    return {number: raw for raw, number in pairs}


def _codes(tokens: object, raw: str, path: Path) -> list[int]:
    texts = tokens if isinstance(tokens, list) else []
    found = [_TOKEN.fullmatch(text) if isinstance(text, str) else None for text in texts]
    if not found or not all(found):
        raise InputError(
            f"{path}: the name of item `{raw}` is {json.dumps(tokens)[:80]}, but must be a list of tokens "
            'such as ["<a_12>", "<b_3>"]; correct it.'
        )
    return [int(match[1]) for match in found if match]
