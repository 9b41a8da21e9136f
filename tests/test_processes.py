"""How processes find each other, share work out, and come to a GPU each."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import distributed

from gream.errors import InputError
from gream.processes import ALONE, Team, find_team


def teams(size: int, sent: list[int]) -> list[Team]:
    """Threads that stand for processes; `sent` gets how much each message holds."""
    barrier = threading.Barrier(size, timeout=30)
    given: list[Any] = [None] * size

    def gathering(rank: int) -> Any:
        def gather(value: Any) -> list[Any]:
            given[rank] = value
            sent.append(len(value))
            barrier.wait()
            found = list(given) if rank == 0 else []
            barrier.wait()  # nobody gives the next one before this one is read
            return found

        return gather

    return [Team(rank, size, lambda: None, gathering(rank)) for rank in range(size)]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("units", [0, 1, 2, 5, 200])  # 200: several messages of each process
def test_units_of_work_come_back_in_order_each_done_once(size: int, units: int) -> None:
    done: list[int] = []
    sent: list[int] = []

    def work(unit: int) -> str:
        done.append(unit)
        return f"result {unit}"

    with ThreadPoolExecutor(size) as pool:
        found = [pool.submit(team.share_out, range(units), work) for team in teams(size, sent)]
        first, *others = [one.result() for one in found]
    assert first == [f"result {unit}" for unit in range(units)]
    assert others == [[]] * (size - 1) and sorted(done) == list(range(units))
    assert max(sent, default=0) <= 64  # or they need twice the memory of all results


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert find_team() is ALONE
    assert ALONE.is_main and ALONE.told(7) == 7 and ALONE.gather(7) == [7]


def test_processes_that_were_not_told_of_each_other_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(InputError, match="2 processes were started, but not told where to find each other"):
        find_team()


def test_each_process_takes_a_gpu_of_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth process of a machine with three GPUs shares the first one's.

    They wait for each other for days, and each loads all of a model, whatever a trainer would have them do.
    """
    taken: list[int] = []
    joined: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(distributed, "init_process_group", lambda *how, **told: joined.append((how, told)))
    for name, value in {"is_initialized": False, "get_rank": 0, "get_world_size": 8}.items():
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    for name in ("WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.setenv(name, "8")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    for rank in ("1", "3"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert find_team().size == 8
    assert taken == [1, 0]
    assert [how for how, _ in joined] == [("gloo",)] * 2
    assert all(told["timeout"] > timedelta(days=1) for _, told in joined)
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
