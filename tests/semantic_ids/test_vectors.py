"""Fused vectors: what a dot product of them is made of."""

from __future__ import annotations

import numpy as np

from gream.semantic_ids.vectors import fuse, normalised


def test_fusing_weighs_dot_products() -> None:
    text, bought = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32)
    fused = fuse(text, bought, 0.25)
    # 0.75 * text dot products + 0.25 * 2
    np.testing.assert_allclose(fused @ fused.T, 0.75 * np.eye(3) + 0.5, atol=1e-6)
    assert fused.dtype == np.float32


def test_a_part_without_weight_leaves_no_columns() -> None:
    text, bought = np.eye(3, dtype=np.float32), np.ones((3, 2), np.float32)
    assert fuse(text, bought, 0).tobytes() == fuse(text, None, 0).tobytes() == text.tobytes()
    assert fuse(text, bought, 1).tobytes() == fuse(None, bought, 1).tobytes() == bought.tobytes()


def test_rows_get_length_one_and_zero_stays_zero() -> None:
    # (3, 4) has length 5
    rows = normalised(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], atol=1e-7)
