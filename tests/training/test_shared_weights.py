"""What training refuses, and sets, before it knows how many processes hold the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl import SFTConfig

from gream.errors import InputError
from gream.training.shared_weights import check_processes


def arguments(folder: Path) -> SFTConfig:
    return SFTConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none")


def test_one_process_takes_one_gpu_of_several(tmp_path: Path) -> None:
    """Transformers would copy the model to all four, and make batches four times as large."""
    told = arguments(tmp_path)
    vars(told)["_n_gpu"] = 4
    check_processes(told, [])
    assert told.n_gpu == 1
    assert told.train_batch_size == told.per_device_train_batch_size


def test_each_process_calls_its_cpu_as_it_was_called_when_a_state_was_saved(tmp_path: Path) -> None:
    """Of several processes each would call it `cpu:0`, where `torch.load` puts nothing."""
    told = arguments(tmp_path)
    vars(told)["_setup_devices"] = torch.device("cpu", 0)
    check_processes(told, [])
    assert told.device == torch.device("cpu")


def test_fsdp_without_a_gpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate would run plain DDP and say nothing."""
    told = arguments(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="FSDP needs GPUs"):
        check_processes(told, [])


def test_a_search_needs_all_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which FSDP, on GPUs, shares out."""
    told = arguments(tmp_path)
    check_processes(told, ["validation_users", "rollouts: beam"])
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InputError, match="`?validation_users and rollouts: beam"):
        check_processes(told, ["validation_users", "rollouts: beam"])
    check_processes(told, [])


def test_fsdp_cannot_share_out_token_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's rows of an embedding that the head shares; ZeRO-3 shares them out, and all weights FSDP does."""
    told = arguments(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    check_processes(told, [], "trainable: lora")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_processes(told, [])
    with pytest.raises(InputError, match="trainable: lora trains rows of the embedding"):
        check_processes(told, [], "trainable: lora")
