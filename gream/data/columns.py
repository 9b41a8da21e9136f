"""What is done to whole columns of ten million values, where the obvious way takes minutes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa


def encode(values: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """Return the distinct texts in the order of first appearance, and (n,) the place of each value there.

    Arrow's dictionary encoding needs one pass, a third of the time that `unique` and a join on text take.
    """
    encoded = values.to_arrow().cast(pa.large_string()).dictionary_encode()
    distinct = pl.Series(values.name, pl.from_arrow(encoded.dictionary), dtype=pl.String)
    return distinct, encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def places_among(values: pl.Series, known: pl.Series) -> np.ndarray:
    """Return (n,) the place of each text among distinct known ones, -1 for one that is not there."""
    distinct, codes = encode(values)
    table = pl.DataFrame({"value": known}).with_row_index("place")
    asked = pl.DataFrame({"value": distinct})
    joined = asked.join(table, on="value", how="left", maintain_order="left")
    places = joined["place"].cast(pl.Int64).fill_null(-1).to_numpy()
    found: np.ndarray = places[codes]
    return found


def order_by(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the stable order of rows by code, then by value.

    Args:
        codes: (n,) int64, not negative.
        values: (n,) int64.
    """
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    lowest, highest, most = int(values.min()), int(values.max()), int(codes.max())
    span = highest - lowest + 1
    if (most + 1) * span < 2**63:  # one key, sorted in half the time of two
        return np.argsort(codes * span + (values - lowest), kind="stable")
    by_both: np.ndarray = np.lexsort((values, codes))
    return by_both


def text_lists(values: Sequence[Sequence[str]]) -> pl.Series:
    """Return a column of lists of texts; polars itself looks at every list in Python."""
    return pl.Series(pl.from_arrow(pa.array(values, type=pa.list_(pa.large_string()))))


def cut(values: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Return the pieces of given lengths, one after the other."""
    ends = np.cumsum(lengths)
    return [values[start:end] for start, end in zip((ends - lengths).tolist(), ends.tolist(), strict=True)]
