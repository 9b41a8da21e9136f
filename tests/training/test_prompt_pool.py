"""The prompt pool: training purchases only, each once an epoch, rather those that a group can learn from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gream.data.store import TEST, TRAIN, VALIDATION, Interactions
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training.prompt_pool import PromptPool, mode_of_batch, signal_chance, weighted_choice


def make(interactions: Interactions, prompter: Any, **options: Any) -> PromptPool:
    return PromptPool(interactions, prompter, **{"min_history": 2, "num_generations": 4, **options})


def places(rows: list[dict[str, Any]]) -> list[int]:
    return [row["place"] for row in rows]


class PlainPrompter:
    """Writes histories as numbers, for shops that no tokenizer knows."""

    max_history = 3
    names = Names.__new__(Names)

    def __init__(self, num_items: int) -> None:
        object.__setattr__(self.names, "codes", np.arange(2 * num_items).reshape(num_items, 2))

    def direct_text(self, history: np.ndarray) -> str:
        return f"direct {history.tolist()}"

    def reasoning_text(self, history: np.ndarray) -> str:
        return f"reasoning {history.tolist()}"


@st.composite
def shops(draw: st.DrawFn) -> Interactions:
    """Users with any marks in any order, and every purchase another item: an item tells its mark."""
    lengths = draw(st.lists(st.integers(0, 7), min_size=1, max_size=6).filter(lambda found: max(found) > 2))
    marks = [
        draw(st.lists(st.sampled_from([TRAIN, VALIDATION, TEST]), min_size=n, max_size=n)) for n in lengths
    ]
    marks[int(np.argmax(lengths))] = [TRAIN] * max(lengths)
    ends = np.cumsum(lengths)
    sequences = [np.arange(end - n, end) for n, end in zip(lengths, ends, strict=True)]
    splits = [np.asarray(user, dtype=np.int8) for user in marks]
    return Interactions([f"u{i}" for i in range(len(lengths))], sequences, splits)


@settings(deadline=None, max_examples=60)
@given(shop=shops(), window=st.integers(1, 4), mode=st.sampled_from(["direct", "reasoning"]))
def test_rows_hold_training_purchases_of_one_user_in_their_order(
    shop: Interactions, window: int, mode: Any
) -> None:
    """History, target and future are one stretch of the user's training purchases, and nothing else."""
    num_items = sum(len(items) for items in shop.sequences)
    pool = make(shop, PlainPrompter(num_items), future_window=window)
    owner = {int(item): user for user, items in enumerate(shop.sequences) for item in items}
    expected = []
    for row in pool.draw(2 * len(pool), mode):
        user = owner[row["item"]]
        train = shop.sequences[user][shop.splits[user] == TRAIN].tolist()
        at = train.index(row["item"])
        assert at >= 2
        assert row["history"] == train[:at][-3:]
        assert row["prompt"] == f"{mode} {train[:at]}"  # the prompter cuts the history itself
        assert row["future"] == train[at : at + window]
        assert row["target"] == [2 * row["item"], 2 * row["item"] + 1]
        assert row["mode"] == mode
        expected.append(row["item"])
    trains = [items[marks == TRAIN] for items, marks in zip(shop.sequences, shop.splits, strict=True)]
    assert sorted(expected) == sorted(2 * [int(item) for train in trains for item in train[2:]])


def test_prompts_are_those_of_the_prompter(interactions: Interactions, prompter: Prompter) -> None:
    pool = make(interactions, prompter)
    for mode in ("direct", "reasoning"):
        for row in pool.draw(5, mode):
            assert row["prompt"] == getattr(prompter, f"{mode}_text")(row["history"])
            assert row["target"] == prompter.names.codes[row["item"]].tolist()
            assert len(row["history"]) <= prompter.max_history == 5


def test_the_control_asks_the_same_prompts_for_the_targets_of_others(
    interactions: Interactions, prompter: Prompter
) -> None:
    right = make(interactions, prompter, future_window=2)
    wrong = make(interactions, prompter, future_window=2, shuffle_targets=True)
    ours, control = right.draw(len(right), "direct"), wrong.draw(len(right), "direct")
    assert [row["prompt"] for row in ours] == [row["prompt"] for row in control]
    moved = [a["future"] != b["future"] for a, b in zip(ours, control, strict=True)]
    assert sum(moved) > len(moved) // 2
    assert sorted(map(str, (row["future"] for row in ours))) == sorted(str(row["future"]) for row in control)
    for row in control:
        assert row["item"] == row["future"][0]
        assert row["target"] == prompter.names.codes[row["item"]].tolist()


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    num_ranks=st.integers(1, 3),
    seed=st.integers(0, 3),
)
def test_every_target_comes_once_an_epoch_and_once_in_a_draw(
    interactions: Interactions, counts: list[int], num_ranks: int, seed: int
) -> None:
    shop = interactions
    pools = [make(shop, PlainPrompter(24), seed=seed) for _ in range(num_ranks)]
    order: list[int] = []
    for count in counts:
        rows = [pool.draw(count, "direct", rank=rank, num_ranks=num_ranks) for rank, pool in enumerate(pools)]
        drawn = [place for of_rank in rows for place in places(of_rank)]
        assert len(set(drawn)) == len(drawn) == count * num_ranks
        order += drawn
    size = len(pools[0])
    for start in range(0, len(order), size):
        assert len(set(order[start : start + size])) == len(order[start : start + size])


def test_a_draw_of_more_than_all_targets_repeats_them_evenly(
    interactions: Interactions, prompter: Prompter
) -> None:
    pool = make(interactions, prompter)
    counts = np.bincount(places(pool.draw(2 * len(pool) + 1, "direct")))
    assert sorted(counts.tolist()) == [2] * (len(pool) - 1) + [3]


def test_epochs_come_in_another_order(interactions: Interactions, prompter: Prompter) -> None:
    pool = make(interactions, prompter)
    first, second = (places(pool.draw(len(pool), "direct")) for _ in range(2))
    other = places(make(interactions, prompter, seed=1).draw(len(pool), "direct"))
    assert first != second and first != other
    assert first == places(make(interactions, prompter).draw(len(pool), "direct"))


def test_weights_are_the_chance_of_hits_and_misses() -> None:
    """By hand, G = 2: 2 p (1 - p). G = 3: 3 p (1 - p). G = 4, p = 1/2: 1 - 1/16 - 1/16."""
    np.testing.assert_allclose(
        signal_chance(np.array([0.0, 0.1, 0.5, 1.0]), 2), [0, 0.18, 0.5, 0], rtol=1e-12
    )
    np.testing.assert_allclose(signal_chance(np.array([0.2]), 3), [0.48], rtol=1e-12)
    np.testing.assert_allclose(signal_chance(np.array([0.5]), 4), [0.875], rtol=1e-12)
    np.testing.assert_allclose(signal_chance(np.array([1e-12]), 8), [8e-12], rtol=1e-9)
    assert signal_chance(np.array([1.0000001, -1e-9]), 8).tolist() == [0.0, 0.0]


def test_places_are_chosen_one_after_the_other_by_their_share() -> None:
    """Weights 1, 2, 5, two drawn: by hand P{0,1} = 1/8 2/7 + 2/8 1/6, and so on; 3 sigma of 20,000 draws."""
    generator = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(20_000):
        chosen = tuple(weighted_choice(np.array([1.0, 2.0, 5.0, 0.0]), 2, generator))
        counts[chosen] = counts.get(chosen, 0) + 1
    expected = {
        (0, 1): 1 / 8 * 2 / 7 + 2 / 8 * 1 / 6,
        (0, 2): 1 / 8 * 5 / 7 + 5 / 8 * 1 / 3,
        (1, 2): 2 / 8 * 5 / 6 + 5 / 8 * 2 / 3,
    }
    assert set(counts) == set(expected)  # the weight of zero is never chosen
    for pair, share in expected.items():
        assert counts[pair] / 20_000 == pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / 20_000))


def test_places_without_weight_are_as_likely_as_each_other() -> None:
    generator = np.random.default_rng(1)
    alone = np.bincount([weighted_choice(np.zeros(3), 1, generator)[0] for _ in range(6_000)])
    np.testing.assert_allclose(alone / 6_000, 1 / 3, atol=3 * np.sqrt(2 / 9 / 6_000))
    after = [weighted_choice(np.array([0.0, 4.0, 0.0]), 2, generator) for _ in range(2_000)]
    assert all(1 in chosen for chosen in after)  # what has a weight comes first
    assert sum(0 in chosen for chosen in after) / 2_000 == pytest.approx(0.5, abs=0.034)  # 3 sigma


def test_prompts_that_are_always_or_never_solved_are_passed_over(
    interactions: Interactions, prompter: Prompter
) -> None:
    """One of three candidates can be solved sometimes; two of each three are hopeless or sure."""
    asked: list[list[int]] = []

    def chances(rows: list[dict[str, Any]]) -> np.ndarray:
        asked.append(places(rows))
        return np.array(
            [0.4 if row["place"] % 3 == 0 else row["place"] % 3 - 1.0 for row in rows], np.float32
        )

    pool = make(interactions, prompter, candidates=3, solve_chance=chances)
    for _ in range(4):
        drawn = places(pool.draw(3, "direct"))
        open_ones = [place for place in asked[-1] if place % 3 == 0]
        assert len(asked[-1]) == 9
        chosen = set(drawn) & set(open_ones)
        assert len(chosen) == min(3, len(open_ones))
    assert len(set(asked[0] + asked[1])) == 18  # candidates are looked at once an epoch


def test_one_candidate_scores_nothing(interactions: Interactions, prompter: Prompter) -> None:
    def never(rows: list[dict[str, Any]]) -> np.ndarray:
        raise AssertionError("asked for a chance")

    pool = make(interactions, prompter, candidates=1, solve_chance=never)
    pool.learn(places(pool.draw(2, "direct")), [1, 2], 4, "direct")
    assert pool.state()["seen"] == {"direct": [], "reasoning": []}


def test_outcomes_move_the_expected_chance(interactions: Interactions, prompter: Prompter) -> None:
    """By hand, 4 pseudo-counts: p = 0.5 and 0 of 8 gives 2 / 12; then 8 of 8: (2 + 8) / (4 + 12)."""
    pool = make(interactions, prompter, candidates=2, solve_chance=lambda rows: np.full(len(rows), 0.5))
    rows = pool._take(2)
    asked = [pool._row(int(place), "direct") for place in rows]
    pool.learn([int(rows[0])], [0], 8, "direct")
    np.testing.assert_allclose(pool._expected(asked, "direct"), [2 / 12, 0.5])
    np.testing.assert_allclose(pool._expected(asked, "reasoning"), [0.5, 0.5])
    pool.learn([int(rows[0])], [8], 8, "direct")  # the 8 misses of before count half
    np.testing.assert_allclose(pool._expected(asked, "direct"), [10 / 16, 0.5])


def test_a_prompt_seen_solved_always_gives_way(interactions: Interactions, prompter: Prompter) -> None:
    """The policy's own chance says that all are alike; what happened says that all but one are sure."""
    pool = make(interactions, prompter, candidates=20, solve_chance=lambda rows: np.full(len(rows), 0.9))
    for _ in range(8):
        pool.learn([place for place in range(len(pool)) if place != 7], [64] * (len(pool) - 1), 64, "direct")
    drawn = [pool.draw(1, "direct")[0]["place"] for _ in range(3 * len(pool) // 20)]
    assert drawn.count(7) >= 2


def test_a_pool_that_was_loaded_draws_on_as_the_one_that_was_saved(
    interactions: Interactions, prompter: Prompter
) -> None:
    def chances(rows: list[dict[str, Any]]) -> np.ndarray:
        return np.array([(row["place"] % 7) / 7 for row in rows], dtype=np.float32)

    def fresh() -> PromptPool:
        return make(interactions, prompter, candidates=3, solve_chance=chances, seed=5)

    def step(pool: PromptPool, number: int) -> list[int]:
        rows = [row for rank in range(2) for row in copies[rank].draw(2, "reasoning", rank, 2)]
        for copy in copies:
            copy.learn(places(rows), [number % 4] * len(rows), 4, "reasoning")
        return places(rows)

    copies = [fresh(), fresh()]
    for number in range(7):
        step(copies[0], number)
    state = json.loads(json.dumps(copies[0].state()))
    assert state == copies[1].state()
    went_on = [step(copies[0], number) for number in range(9)]
    copies = [fresh(), fresh()]
    for copy in copies:
        copy.load(state)
    assert [step(copies[0], number) for number in range(9)] == went_on


def test_a_chance_that_is_no_number_is_refused(interactions: Interactions, prompter: Prompter) -> None:
    pool = make(interactions, prompter, candidates=2, solve_chance=lambda rows: np.full(len(rows), np.nan))
    with pytest.raises(ValueError, match="solve_chance must give 4 finite numbers"):
        pool.draw(2, "direct")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_history": 40}, "No user has more than 40 training purchases; lower min_history"),
        ({"future_window": 0}, "future_window is 0; give a number of at least 1"),
        ({"candidates": 0}, "candidates is 0; give a number of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_told(
    interactions: Interactions, prompter: Prompter, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(interactions, prompter, **options)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.3, 3), (0.5, 5), (0.7, 7), (1.0, 10)])
def test_the_run_has_the_share_of_reasoning_batches(share: float, expected: int) -> None:
    assert [mode_of_batch(batch, share) for batch in range(10)].count("reasoning") == expected
