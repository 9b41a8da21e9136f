"""Every stage of `recipes/demo` as it is, on the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.gpu.results import Figures
from tests.benchmarks.gpu.stages import copy_recipe, run_recipe
from tests.small_recipe import SMALLER


def measure(keep: Callable[[Figures], None], *, dry: bool, runs: Path) -> None:
    """Run the recipe; in a dry run with settings that take a second each."""
    run_recipe(
        copy_recipe("demo", runs / "demo-recipe", SMALLER if dry else {}), runs / "demo", keep, dry=dry
    )
