"""One measured figure beside its bar."""

from __future__ import annotations

import operator
from typing import Any

_RELATIONS = {">=": operator.ge, "<=": operator.le}


def figure(value: float, unit: str, bar: str) -> dict[str, Any]:
    """Put a value beside a bar such as ">= 10" and say whether it holds."""
    relation, limit = bar.split()
    return {
        "value": value,
        "unit": unit,
        "bar": bar,
        "holds": bool(_RELATIONS[relation](value, float(limit))),
    }
