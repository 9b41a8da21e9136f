"""The names that the filters of a request take: categories and brands, those of most items first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from gream.data.store import Catalogue

Named = list[tuple[str, int]]  # a name as it is spelled first, and the number of its items


class FilterNames:
    """Categories of any level and brands of a catalogue; names that differ in case alone are one."""

    def __init__(self, catalogue: Catalogue) -> None:
        """Count every item once."""
        self.categories: Named = _counted(catalogue.categories)
        self.brands: Named = _counted((brand,) for brand in catalogue.brands)


def _counted(names_of_items: Iterable[Sequence[str]]) -> Named:
    spelled: dict[str, str] = {}
    items: Counter[str] = Counter()
    for names in names_of_items:
        for name in filter(None, names):
            spelled.setdefault(name.casefold(), name)
        items.update({name.casefold() for name in filter(None, names)})
    return [(spelled[name], items[name]) for name in sorted(items, key=lambda name: (-items[name], name))]
