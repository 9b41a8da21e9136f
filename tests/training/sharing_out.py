"""Lets two processes on CPUs share a tiny model out for real, which two libraries would quietly not do.

Accelerate takes PyTorch's FSDP on GPUs alone, and DeepSpeed leaves small weights whole. What is shared out,
gathered and saved is their own work, over gloo. It shows nothing of NCCL or bfloat16.
"""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

from accelerate.state import DistributedType, PartialState
from accelerate.utils import DeepSpeedPlugin

from gream.training import sft_trainer, shared_weights, srpo_training


def share_out_for_real() -> None:
    """Let every weight be shared out by what the process was started with; call it before anything else."""
    _share_small_weights()
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        _allow_fsdp_on_cpu()


def _share_small_weights() -> None:
    """By itself ZeRO-3 leaves weights of less than 100,000 numbers, here all, in every process."""
    make = DeepSpeedPlugin.__post_init__

    def make_and_share(self: DeepSpeedPlugin) -> None:
        make(self)
        self.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

    DeepSpeedPlugin.__post_init__ = make_and_share


def _allow_fsdp_on_cpu() -> None:
    """Let accelerate take its CPUs for GPUs, and gream believe that there are some."""
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
