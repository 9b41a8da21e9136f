"""Lets two processes share a model out by PyTorch's FSDP on CPUs, which accelerate does on GPUs alone.

What is shared out, gathered and saved is FSDP's own work, over gloo. It shows nothing of NCCL or bfloat16.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from accelerate.state import DistributedType, PartialState

from gream.training import sft_trainer, shared_weights, srpo_training


def allow_fsdp_on_cpu() -> None:
    """Let accelerate take its CPUs for GPUs, and gream believe that there are some, if FSDP was asked for."""
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return
    begin = PartialState.__init__

    def begin_as_gpus(self: PartialState, *words: Any, **options: Any) -> None:
        begin(self, *words, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    def check(*settings: Any) -> None:
        with mock.patch("torch.cuda.is_available", return_value=True):
            shared_weights.check_processes(*settings)

    PartialState.__init__ = begin_as_gpus
    for module in (sft_trainer, srpo_training):
        module.check_processes = check  # type: ignore[attr-defined]
