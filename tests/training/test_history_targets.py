"""Targets for a scorer with an encoder of its own: every training purchase once, and no padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gream.training.history_targets import HistoryTargets, Window, collate, split_windows


@pytest.mark.parametrize("length", [1, 4, 5, 6, 17, 30])
def test_every_purchase_is_a_target_once_with_half_a_history_at_least(length: int) -> None:
    windows = split_windows(0, np.arange(length), 4)
    targets = [int(i) for w in windows for i in w.items[w.first_target :]]
    assert targets == list(range(length))
    for window in windows:
        assert len(window.items) <= 5
        assert (np.diff(window.items) == 1).all()
        assert window.first_target >= min(window.items[0], 2)  # 0 in the first window only


def test_no_purchases_give_no_window() -> None:
    assert split_windows(0, np.arange(0), 4) == []


def test_padding_is_no_target() -> None:
    batch = collate([Window(7, np.array([3, 1, 4]), 1), Window(2, np.array([5]), 0)])
    assert batch.users.tolist() == [7, 2]
    assert batch.items.tolist() == [[3, 1, 4], [5, 0, 0]]
    assert batch.is_target.tolist() == [[False, True, True], [True, False, False]]


def test_an_epoch_gives_every_purchase_of_every_sequence_once() -> None:
    sequences = [np.arange(length) + 100 * user for user, length in enumerate([1, 9, 3, 0, 14, 2])]
    targets = HistoryTargets(sequences, 4, batch_size=3)
    epochs = []
    for seed in (0, 1):
        batches = list(targets.batches(torch.Generator().manual_seed(seed)))
        assert len(batches) == targets.num_batches
        epochs.append(torch.cat([batch.items[batch.is_target] for batch in batches]).tolist())
        assert sorted(epochs[-1]) == np.concatenate(sequences).tolist()
    assert len(targets) == len(epochs[0]) == 29
    assert epochs[0] != epochs[1]
