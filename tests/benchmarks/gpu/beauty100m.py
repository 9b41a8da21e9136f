"""A decoder of 100 million weights, trained from scratch as `recipes/beauty` trains its small one.

14 layers of width 768, 12 heads, 3 x 768 in the feed-forward; rows, tasks and passes are the recipe's. Nobody
has tuned its learning rate or batch: the figures say what the device does, not how far such a model gets.
`GREAM_DATA` names the folder of the data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.results import Figures
from tests.benchmarks.gpu.stages import copy_recipe, run_recipe

LARGER: dict[str, dict[str, Any]] = {
    "05-vocab": {"hidden_size": 768, "num_layers": 14, "num_heads": 12},
    "06-sft": {"batch_size": 256, "learning_rate": 5e-4, "save_steps": 200},
    "09-evaluate": {"scorer": "", "baselines": ""},  # the policy alone
}
SHOP = {
    "source": "simulator",
    "path": "",
    "num_items": 120,
    "num_customers": 60,
    "core": 1,
    "validation_users": 0,
}
DRY: dict[str, dict[str, Any]] = {
    "01-data": SHOP,
    "03-embed": {"dim": 16},
    "04-sids": {"codebook_size": 8},
    "05-vocab": {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "text_tokens": 500},
    "06-sft": {"epochs": 1},
    "09-evaluate": LARGER["09-evaluate"] | {"max_users": 12},
}
LEFT_OUT = ("prm", "baselines")


def measure(keep: Callable[[Figures], None], *, dry: bool, runs: Path) -> None:
    """Run the recipe without scorer and baselines."""
    changes = DRY if dry else LARGER
    recipe = copy_recipe("beauty", runs / "beauty100m-recipe", changes, LEFT_OUT)
    run_recipe(recipe, runs / "beauty100m", keep, dry=dry)
