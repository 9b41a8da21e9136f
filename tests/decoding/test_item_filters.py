"""What may be recommended: every filter against a loop, and every mistake in one sentence."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.decoding.filters import Aisles, Filters, Shelf
from gream.errors import InputError

CATALOGUE = Catalogue(
    item_ids=[f"i{n}" for n in range(6)],
    titles=["pen", "ink", "tent", "stove", "rope", "gift"],
    descriptions=[""] * 6,
    brands=["Nib", "NIB", "", "Peak", "Peak", ""],
    categories=[
        ("Office", "Pens"),
        ("Office", "Ink"),
        ("Camping",),
        ("Camping", "Kitchen"),
        ("Camping",),
        (),
    ],
    prices=np.array([2.0, 5.0, 90.0, 40.0, math.nan, 5.0]),
)
SHELF = Shelf.of(CATALOGUE)


def allowed(shelf: Shelf = SHELF, **filters: Any) -> list[int]:
    return np.flatnonzero(Aisles(CATALOGUE).mask(Filters(**filters), shelf)).tolist()


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"categories": ["office"]}, [0, 1]),
        ({"categories": ["KITCHEN", "Pens"]}, [0, 3]),
        ({"brands": ["nib"]}, [0, 1]),
        ({"min_price": 5}, [1, 2, 3, 5]),  # both bounds are within; an unknown price is not
        ({"max_price": 5}, [0, 1, 5]),
        ({"min_price": 3, "max_price": 40}, [1, 3, 5]),
        ({"allow": ["i5", "i2"]}, [2, 5]),
        ({"deny": ["i0", "i5"]}, [1, 2, 3, 4]),
        ({"categories": ["Camping"], "brands": ["Peak"], "max_price": 60, "deny": ["i2"]}, [3]),
    ],
)
def test_every_filter_narrows(filters: dict[str, Any], left: list[int]) -> None:
    assert allowed(**filters) == left


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"categories": ["Offices"]}, "No item has the category 'Offices'"),
        ({"brands": [""]}, "No item has the brand ''"),
        ({"allow": ["i9"]}, "`allow` names `i9`"),
        ({"deny": ["<a_1>"]}, "`deny` names `<a_1>`"),
        ({"allow": []}, "leave no item"),
        ({"brands": ["Nib"], "categories": ["Camping"]}, "leave no item"),
        ({"min_price": -1}, "min_price is -1"),
        ({"max_price": math.inf}, "max_price is inf"),
        ({"min_price": 2, "max_price": 1}, "give the lower one first"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(filters: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        allowed(**filters)


def test_a_changed_shelf_is_another_one() -> None:
    cheaper = SHELF.changed(2, price=4.0)
    gone = cheaper.changed(0, available=False)
    assert allowed(gone, max_price=4) == [2]
    assert allowed(cheaper, max_price=4) == [0, 2]
    assert allowed(SHELF, max_price=4) == [0]
    assert allowed(gone.changed(0, available=True), max_price=4) == [0, 2]
    assert gone.changed(1) is not gone and np.array_equal(gone.changed(1).available, gone.available)
    with pytest.raises(InputError, match="leave no item"):
        allowed(replace(SHELF, available=np.zeros(6, dtype=bool)))
