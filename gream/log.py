"""What a command sets up before it works: libraries that are quiet, and gream's own log lines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from gream.processes import is_main


def quiet_libraries() -> None:
    """Set what the libraries read when they are imported; a value of the user's own wins."""
    # Idle OpenMP threads that spin make a busy machine ten times slower; sleeping costs nothing elsewhere.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # DeepSpeed calls what torch has renamed, once or twice a step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


@contextlib.contextmanager
def plain_log() -> Iterator[None]:
    """Print gream's own log lines as they are while a command runs."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    packages = [logging.getLogger(name) for name in ("gream", "data_synthesis")]
    for package in packages:
        package.addHandler(handler)
        package.setLevel(logging.INFO if is_main() else logging.WARNING)  # one of several processes tells
    try:
        yield
    finally:
        for package in packages:
            package.removeHandler(handler)
