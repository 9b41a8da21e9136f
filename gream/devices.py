"""Where models compute: on a GPU where torch finds one, else on the CPU."""

from __future__ import annotations

import torch


def compute_device() -> torch.device:
    """Return the GPU of this process, which accelerate chooses where there are several, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
