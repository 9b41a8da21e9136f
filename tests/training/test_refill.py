"""Dead groups are replaced, and no live group is lost, on one device and on several."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.training.groups import OLD_LOGPS, Batch, live_groups, num_loss_tokens, split
from gream.training.refill import GroupBuffer, Refilled, metrics, moves
from tests.training.processes import two_processes
from tests.training.scripted_groups import (
    Device,
    G,
    P,
    identities,
    identity,
    live_ids,
    make_batch,
    random_live,
)


def scripted(*rounds: list[bool]) -> Device:
    script = iter(rounds)
    return Device(0, 1, lambda: next(script))


def test_dead_groups_are_replaced_by_new_prompts_and_the_surplus_waits() -> None:
    """By hand: groups 0 1 2, only 1 lives; 3 4 5 all live; 3 and 4 go in, 5 waits and replaces the next."""
    device = scripted([False, True, False], [True, True, True], [True, False, True])
    batch, took = device.train(rounds=2)
    assert identities(batch, G) == [3, 1, 4]
    assert took == Refilled(6, 4, 3, 1, 1)
    assert device.waiting() == [5]
    assert OLD_LOGPS not in batch  # all of it was written by today's policy
    batch, took = device.train(rounds=2)
    assert identities(batch, G) == [6, 5, 8]
    assert took == Refilled(3, 2, 3, 0, 0)
    assert batch[OLD_LOGPS][:, 0].tolist() == [-1.0, -1.0, 0.0, 0.0, -1.0, -1.0]  # group 5 is of step 0
    assert metrics(took)["used_groups"] == 3.0


def test_old_logps_are_computed_for_the_surplus_alone() -> None:
    device = scripted([False, True, False], [True, True, True])
    device.train(rounds=1)
    assert [call for call in device.diary if call[0] == "logps"] == [("logps", G)]


def test_a_batch_without_dead_groups_is_left_alone() -> None:
    device = scripted([True, True, True])
    batch, took = device.train(rounds=3)
    assert identities(batch, G) == [0, 1, 2]
    assert took == Refilled(3, 3, 3, 0, 0)
    assert {call[0] for call in device.diary} == {"score", "gather"}


def test_after_the_last_round_the_rest_stays_dead() -> None:
    device = scripted([False, False, True], [False, True, False], [False, False, False])
    batch, took = device.train(rounds=2)
    assert identities(batch, G) == [4, 1, 2]
    assert live_groups(batch, G) == [True, False, True]
    assert took == Refilled(9, 2, 2, 0, 2)


def test_no_round_takes_from_the_buffer_alone() -> None:
    device = scripted([False, True, True], [True] * 3, [False, False, True])
    device.train(rounds=1)
    assert device.waiting() == [4, 5]
    batch, took = device.train(rounds=0)
    assert identities(batch, G) == [4, 5, 8]
    assert took == Refilled(3, 1, 3, 0, 0)


def test_old_logps_of_the_trainer_are_kept() -> None:
    """TRL computes them itself where steps are off-policy anyway; then nobody is asked for them again."""
    device = scripted([False, True, True], [True] * 3, [False, True, True])
    score = device.score
    device.score = lambda: (lambda b: b | {OLD_LOGPS: b["ref_per_token_logps"] - 1})(score())
    device.train(rounds=1)
    batch, _ = device.train(rounds=1)
    assert not [call for call in device.diary if call[0] == "logps"]
    real = batch["completion_mask"] == 1
    torch.testing.assert_close(batch[OLD_LOGPS][real], batch["ref_per_token_logps"][real] - 1)


def test_tokens_of_the_merged_batch_are_counted_anew() -> None:
    device = scripted([False, True, False], [True, True, True])
    batch, _ = device.train(rounds=1)
    assert int(batch["num_items_in_batch"]) == int(batch["completion_mask"].sum())
    assert batch["num_items_in_batch"].shape == ()
    assert batch["num_items_in_batch"].dtype == torch.int64


@pytest.mark.parametrize(
    ("lacks", "spare", "give", "get"),
    [
        ([0, 2], [3, 0], [2, 0], [0, 2]),
        ([2, 0, 1], [0, 2, 0], [0, 2, 0], [2, 0, 0]),
        ([1, 0, 1, 0], [0, 1, 0, 4], [0, 1, 0, 1], [1, 0, 1, 0]),
        ([0, 0], [2, 1], [0, 0], [0, 0]),
    ],
)
def test_groups_move_to_where_they_lack(
    lacks: list[int], spare: list[int], give: list[int], get: list[int]
) -> None:
    assert moves(lacks, spare) == (give, get)


def slowly(
    batches: list[list[int]], born: dict[int, bool], waiting: list[list[int]], extras: list[list[list[int]]]
) -> int:
    """Refill the batches of all ranks in place, one group at a time, seen by one who knows everything."""
    ranks = range(len(batches))

    def fill_from(stores: list[list[int]]) -> None:
        for own in (True, False):  # first from one's own, then from whoever has some, lower ranks first
            for rank in ranks:
                for place in range(P):
                    if born[batches[rank][place]]:
                        continue
                    sources = [stores[rank]] if own else [store for store in stores if store]
                    if sources and sources[0]:
                        batches[rank][place] = sources[0].pop(0)

    fill_from(waiting)
    asked = 0
    for extra in extras:
        if all(born[number] for batch in batches for number in batch):
            break
        asked += 1
        live = [[number for number in of_rank if born[number]] for of_rank in extra]
        fill_from(live)
        for store, rest in zip(waiting, live, strict=True):
            store += rest
    return asked


def run_devices(devices: list[Device], rounds: int) -> list[tuple[Batch, Refilled]]:
    """Run one batch on every device at once; a device that waits for ever breaks the barrier."""

    def work(device: Device) -> tuple[Batch, Refilled]:
        try:
            return device.train(rounds)
        except BaseException:
            device.leave()  # or the others would wait for the time limit
            raise

    with ThreadPoolExecutor(len(devices)) as threads:
        return list(threads.map(work, devices))


def connected(num_ranks: int, flags: Callable[[int], Callable[[], list[bool]]]) -> list[Device]:
    """Devices in threads that gather over a barrier."""
    barrier = threading.Barrier(num_ranks, timeout=10)
    table: list[Any] = [None] * num_ranks

    def gather(rank: int) -> Callable[[Any], list[Any]]:
        def call(value: Any) -> list[Any]:
            table[rank] = value
            barrier.wait()
            found = list(table)
            barrier.wait()
            return found

        return call

    devices = [Device(rank, num_ranks, flags(rank), gather(rank)) for rank in range(num_ranks)]
    for device in devices:
        device.leave = barrier.abort
    return devices


@settings(deadline=None, max_examples=60)
@given(
    rates=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), min_size=1, max_size=4),
    rounds=st.integers(0, 4),
    seed=st.integers(0, 10**6),
)
def test_it_does_what_one_group_at_a_time_would_do(rates: list[float], rounds: int, seed: int) -> None:
    """Same batches, same buffers, nothing live lost or used twice, and the same calls on every device."""
    num_ranks = len(rates)
    generators = [random.Random(f"{seed}-{rank}") for rank in range(num_ranks)]
    devices = connected(num_ranks, lambda rank: lambda: random_live(generators[rank], P, rates[rank]))
    waiting: list[list[int]] = [[] for _ in range(num_ranks)]
    used: list[int] = []
    for _ in range(5):
        before = [len(device.born) for device in devices]
        found = run_devices(devices, rounds)
        born = {number: live for device in devices for number, live in device.born.items()}
        new = [list(device.born)[start:] for device, start in zip(devices, before, strict=True)]
        batches = [numbers[:P] for numbers in new]
        scored = [[numbers[start : start + P] for numbers in new] for start in range(P, len(new[0]), P)]
        asked = slowly(batches, born, waiting, scored)
        assert asked == len(scored) == found[0][1].refill_rounds <= rounds
        assert [identities(batch, G) for batch, _ in found] == batches
        assert [device.waiting() for device in devices] == waiting
        assert all(device.diary == devices[0].diary for device in devices)
        for device, (batch, took) in zip(devices, found, strict=True):
            used += live_ids(device, batch)
            assert took == found[0][1]
            assert took.generated_groups == sum(map(len, new))
            assert int(batch["num_items_in_batch"]) == sum(num_loss_tokens(other) for other, _ in found)
            assert (OLD_LOGPS in batch) == (OLD_LOGPS in found[0][0])
        # Every live group was trained on once, or waits; the buffers hold less than one round.
        assert sorted(used + sum(waiting, [])) == sorted(number for number, live in born.items() if live)
        assert sum(map(len, waiting)) == found[0][1].buffered_groups < P * num_ranks


@settings(deadline=None, max_examples=25)
@given(rate=st.sampled_from([0.2, 0.5]), seed=st.integers(0, 10**6))
def test_a_group_that_waited_brings_the_log_probabilities_of_its_day(rate: float, seed: int) -> None:
    """Where the batch has old ones, each row has those of the policy that wrote it, on every device."""
    generators = [random.Random(f"{seed}-{rank}") for rank in range(2)]
    devices = connected(2, lambda rank: lambda: random_live(generators[rank], P, rate))
    day: dict[int, float] = {}
    seen = 0
    for step in range(6):
        found = run_devices(devices, rounds=3)
        for device in devices:
            day |= {number: float(step) for number in device.born if number not in day}
        for batch, _ in found:
            stale = [number for number in identities(batch, G) if day[number] != step]
            assert not stale or OLD_LOGPS in batch
            seen += len(stale)
            if OLD_LOGPS in batch:
                rows = [-day[number] for number in identities(batch, G) for _ in range(G)]
                real = batch["completion_mask"] == 1
                expected = torch.tensor(rows)[:, None].expand_as(real)
                torch.testing.assert_close(batch[OLD_LOGPS][real], expected[real])
        if OLD_LOGPS in found[0][0]:
            old = [number for batch, _ in found for number in identities(batch, G) if day[number] != step]
            assert old  # a batch of today's groups alone has none


def test_a_buffer_survives_a_kill(tmp_path: Path) -> None:
    buffer = GroupBuffer()
    buffer.add(split(make_batch([5, 2, 9], [True] * 3, G), [0, 2], G))
    buffer.add(split(make_batch([7], [True], G), [0], G))
    buffer.save(tmp_path / "groups.safetensors")
    again = GroupBuffer()
    again.add(split(make_batch([1], [True], G), [0], G))  # what was there before the load is gone
    again.load(tmp_path / "groups.safetensors")
    taken, expected = again.take(9), buffer.take(9)
    assert [identity(group) for group in taken] == [5, 9, 7]
    for mine, theirs in zip(taken, expected, strict=True):
        for row, other in zip(mine.rows, theirs.rows, strict=True):
            assert row.keys() == other.keys()
            for key in row:
                assert torch.equal(row[key], other[key]) and row[key].dtype == other[key].dtype, key


def test_an_empty_buffer_survives_a_kill(tmp_path: Path) -> None:
    GroupBuffer().save(tmp_path / "groups.safetensors")
    buffer = GroupBuffer()
    buffer.load(tmp_path / "groups.safetensors")
    assert len(buffer) == 0
    assert buffer.take(3) == []


def test_two_processes_with_unequal_luck_do_equal_work(tmp_path: Path) -> None:
    """Rank 1 has no live group of its own in the first batches, and lives on what rank 0 has to spare."""
    first, second = two_processes("two_processes_refill", tmp_path, seconds=120)
    assert first["world_size"] == second["world_size"] == 2
    assert first["diary"] == second["diary"]
    assert first["refilled"] == second["refilled"]
    assert first["tokens"] == second["tokens"]
    assert sum(call[0] == "share" for call in first["diary"]) > 0
    assert not set(first["born"]) & set(second["born"])
    used, waiting, live = (first[key] + second[key] for key in ("used", "waiting", "live"))
    assert sorted(used + waiting) == sorted(live)
    assert set(second["used"]) & set(first["born"])  # groups did move
