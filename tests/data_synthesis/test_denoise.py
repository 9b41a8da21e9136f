"""What does not fit is left out: on the simulator, whose truth tells which purchases are noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_synthesis.denoise import Coherence, removal_quality
from gream.data.prepare import DataConfig
from gream.data.prepare import run as run_data
from gream.data.simulate import load_truth
from gream.data.store import Catalogue, load_catalogue, load_interactions
from gream.language.reasoning import Trace


def removal(tmp_path: Path, noise: float, seed: int) -> dict[str, float]:
    """Quality of the removal from the training purchases, less the last, of 800 simulated customers."""
    run_data(DataConfig(run_dir=str(tmp_path), num_customers=800, noise=noise, seed=seed))
    sequences = load_interactions(tmp_path / "data").training_sequences()
    coherence = Coherence(load_catalogue(tmp_path / "data"), sequences)
    traces = []
    for user, sequence in enumerate(sequences):
        history = tuple(map(int, sequence[:-1]))
        kept = tuple(coherence.fitting(history))
        traces.append(Trace(user, history, int(sequence[-1]), (), (), "", "", "", kept))
    is_noise = [n[: len(s)] for n, s in zip(load_truth(tmp_path / "data").is_noise, sequences, strict=True)]
    quality = removal_quality(traces, sequences, is_noise)
    return {name: float(value or 0) for name, value in quality.items()}


@pytest.mark.parametrize(("noise", "seed", "lift"), [(0.05, 1, 7), (0.12, 2, 5), (0.25, 3, 2.8)])
def test_removal_beats_removing_at_random_by_far(
    tmp_path: Path, noise: float, seed: int, lift: float
) -> None:
    """Leaving out as many at random finds the noise share among them, and the same share of the noise."""
    quality = removal(tmp_path, noise, seed)
    assert quality["precision"] > lift * quality["noise_share"]
    assert quality["recall"] > 0.5
    assert quality["recall"] > lift * quality["left_out"] / quality["purchases_shown"]


def test_histories_without_noise_lose_little(tmp_path: Path) -> None:
    quality = removal(tmp_path, 0.0, 1)
    assert quality["left_out"] <= 0.03 * quality["purchases_shown"]


@pytest.fixture
def coherence(catalogue: Catalogue) -> Coherence:
    """Printers, ink and paper are bought together, and so are tents, stoves and lamps; never across."""
    rng = np.random.default_rng(0)
    shelves = [(0, 4, 8), (12, 16, 20)]
    return Coherence(
        catalogue,
        [np.asarray([rng.integers(first, first + 4) for first in shelves[u % 2]]) for u in range(60)],
    )


def test_a_purchase_from_another_world_is_left_out(coherence: Coherence) -> None:
    assert coherence.fitting([0, 17, 5, 9]) == [0, 5, 9]
    assert coherence.fitting([12, 16, 5, 21]) == [12, 16, 21]


def test_a_history_of_two_is_kept_whole(coherence: Coherence) -> None:
    assert coherence.fitting([0, 17]) == [0, 17]


def test_order_and_repetitions_of_what_is_kept_stay(coherence: Coherence) -> None:
    assert coherence.fitting([9, 0, 5, 0]) == [9, 0, 5, 0]


def test_without_training_purchases_everything_fits(catalogue: Catalogue) -> None:
    assert Coherence(catalogue, []).fitting([0, 17, 5]) == [0, 17, 5]


def test_the_same_purchases_give_the_same_probabilities(catalogue: Catalogue) -> None:
    sequences = [np.asarray([u % 4, 4 + u % 4, 8 + u % 3]) for u in range(20)]
    one, other = (Coherence(catalogue, sequences).stray([0, 17, 5, 9]) for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_removal_quality_counts_by_hand() -> None:
    """User 0 saw 1 2 3 with 2 noise, and lost 2 and 3; user 1 saw 4 5 with 5 noise, and lost none."""
    traces = [
        Trace(0, (1, 2, 3), 9, (), (), "", "", "", (1,)),
        Trace(1, (4, 5), 8, (), (), "", "", "", (4, 5)),
    ]
    sequences = [np.asarray([1, 2, 3, 9]), np.asarray([4, 5, 8])]
    noise = [np.asarray([False, True, False, True]), np.asarray([False, True, False])]
    assert removal_quality(traces, sequences, noise) == {
        "purchases_shown": 5,
        "noise_shown": 2,
        "left_out": 2,
        "noise_left_out": 1,
        "precision": 0.5,
        "recall": 0.5,
        "noise_share": 0.4,
    }
    assert removal_quality([], sequences, noise)["precision"] is None
