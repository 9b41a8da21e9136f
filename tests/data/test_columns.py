"""Whole columns at once: equal to the obvious way on random small ones."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.columns import cut, encode, order_by, places_among, text_lists

TEXTS = st.lists(st.sampled_from(["a", "b", "", "caf\u00e9", "007", "a\x00b"]))


def _column(texts: list[str]) -> pl.Series:
    return pl.Series("x", texts, dtype=pl.String)


@settings(deadline=None)
@given(TEXTS)
def test_codes_follow_the_first_appearance(texts: list[str]) -> None:
    distinct, codes = encode(_column(texts))
    assert distinct.to_list() == list(dict.fromkeys(texts))
    assert distinct.gather(codes).to_list() == texts


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_places_are_those_of_the_list_or_minus_one(texts: list[str], others: list[str]) -> None:
    known = list(dict.fromkeys(others))
    expected = [known.index(text) if text in known else -1 for text in texts]
    assert places_among(_column(texts), _column(known)).tolist() == expected


VALUES = st.integers(-3, 3) | st.sampled_from(
    [-(2**62), 2**62, 2**40]
)  # the large ones leave no room for a key


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), VALUES)))
def test_order_is_stable_by_code_then_value(rows: list[tuple[int, int]]) -> None:
    order = order_by(*(np.array([row[i] for row in rows], dtype=np.int64) for i in (0, 1)))
    assert order.tolist() == sorted(range(len(rows)), key=lambda row: rows[row])


@settings(deadline=None)
@given(st.lists(st.lists(st.text(max_size=3).filter(str.isprintable), max_size=3)))
def test_lists_of_texts_are_what_polars_makes(values: list[list[str]]) -> None:
    assert text_lists(values).to_list() == values
    assert text_lists(values).dtype == pl.List(pl.String)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4)))
def test_pieces_have_their_lengths_and_join_to_the_whole(lengths: list[int]) -> None:
    values = np.arange(sum(lengths))
    pieces = cut(values, np.array(lengths, dtype=np.int64))
    assert [len(piece) for piece in pieces] == lengths
    assert [value for piece in pieces for value in piece.tolist()] == values.tolist()
