"""Refills batches on two real processes that have unequal luck, and writes what happened on each.

Started by `test_refill`, with the folder to write to.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from gream.training.groups import live_groups
from tests.training.scripted_groups import Device, G, P, identities, live_ids, random_live


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))  # a deadlock fails
    rank, world_size = dist.get_rank(), dist.get_world_size()

    def gather(value: Any) -> list[Any]:
        found: list[Any] = [None] * world_size
        dist.all_gather_object(found, value)
        return found

    generator = random.Random(rank)
    turn = iter(range(10**6))
    device = Device(
        rank,
        world_size,
        lambda: random_live(generator, P, 0.6 if rank == 0 or next(turn) > 3 else 0.0),
        gather,
    )
    used: list[int] = []
    refilled, tokens = [], []
    for _ in range(8):
        batch, took = device.train(rounds=3)
        assert len(identities(batch, G)) == len(live_groups(batch, G)) == P
        used += live_ids(device, batch)
        refilled.append(asdict(took))
        tokens.append(int(batch["num_items_in_batch"]))
    result = {
        "world_size": world_size,
        "diary": device.diary,
        "refilled": refilled,
        "tokens": tokens,
        "used": used,
        "waiting": device.waiting(),
        "born": list(device.born),
        "live": [number for number, live in device.born.items() if live],
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
