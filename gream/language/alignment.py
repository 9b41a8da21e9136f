"""Every task that a recipe can name, and what makes its rows.

The alignment tasks are GREAM's (arXiv 2510.20815, collaborative-semantic alignment) in its three families,
without the one that maps names to tags, for which there is no tag that the description lacks, and with
`sequence`, which is ours. Each task has several phrasings, our own, drawn for every row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from gream.language.history_tasks import (
    names_to_next_description_rows,
    names_to_next_title_rows,
    names_to_titles_rows,
    next_item_rows,
    repeat_history_rows,
    sequence_rows,
    titles_to_names_rows,
    titles_to_next_name_rows,
)
from gream.language.item_tasks import (
    description_to_name_rows,
    item_to_name_rows,
    name_to_description_rows,
    name_to_item_rows,
    name_to_title_rows,
    title_to_name_rows,
)
from gream.language.reasoning import STEPS
from gream.language.rows import Row, Source
from gream.language.trace_tasks import (
    denoise_history_rows,
    item_search_rows,
    preference_summary_rows,
    reasoning_rows,
)

Task = Callable[[Source, np.random.Generator], list[Row]]

REASONING: dict[str, Task] = {
    f"reasoning_{steps}": partial(reasoning_rows, steps=steps) for steps in range(1, len(STEPS) + 1)
}
_OF_TRACES: dict[str, Task] = {  # preference understanding, and reasoning
    "item_search": item_search_rows,
    "preference_summary": preference_summary_rows,
    "denoise_history": denoise_history_rows,
    **REASONING,
}
_OF_USERS: dict[str, Task] = {
    # sequential recommendation
    "next_item": next_item_rows,
    "names_to_next_title": names_to_next_title_rows,
    "names_to_next_description": names_to_next_description_rows,
    "titles_to_next_name": titles_to_next_name_rows,
    # history reconstruction
    "repeat_history": repeat_history_rows,
    "titles_to_names": titles_to_names_rows,
    "names_to_titles": names_to_titles_rows,
}
_OF_ITEMS: dict[str, Task] = {  # semantic reconstruction
    "title_to_name": title_to_name_rows,
    "description_to_name": description_to_name_rows,
    "item_to_name": item_to_name_rows,
    "name_to_title": name_to_title_rows,
    "name_to_description": name_to_description_rows,
    "name_to_item": name_to_item_rows,
}
TASKS: dict[str, Task] = {"sequence": sequence_rows, **_OF_USERS, **_OF_ITEMS, **_OF_TRACES}
NEED_TRACES = frozenset(_OF_TRACES)
ONE_A_USER = frozenset(_OF_USERS)  # each user gives one row, or none
