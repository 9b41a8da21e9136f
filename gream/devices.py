"""Where models compute: on a GPU where torch finds one, else on the CPU."""

from __future__ import annotations

import torch


def compute_device() -> torch.device:
    """Return the GPU of this process, which accelerate chooses where there are several, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computed_in() -> str:
    """Return what the trainer that ran last computed in: "bf16", or "no" for the weights' own precision."""
    from accelerate.state import AcceleratorState  # takes a second that others need not wait

    return str(AcceleratorState().mixed_precision)
