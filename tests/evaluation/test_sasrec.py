"""SASRec: a slow loss on random sequences, no look ahead, and a pattern that can be learned."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from gream.data.store import Case
from gream.errors import InputError
from gream.evaluation import sasrec
from gream.evaluation.sasrec import SASRec, SASRecSettings, fit

TINY = SASRecSettings(
    hidden_size=8, num_layers=1, num_heads=2, dropout=0.0, max_history=4, epochs=30, batch_size=5,
    learning_rate=0.02,
)  # fmt: skip


def rounds(num_users: int, num_items: int, seed: int = 0) -> list[np.ndarray]:
    """Users who go through the catalogue in order, from where they start."""
    rng = np.random.default_rng(seed)
    starts, lengths = rng.integers(num_items, size=num_users), rng.integers(2, 8, size=num_users)
    return [(s + np.arange(n)) % num_items for s, n in zip(starts, lengths, strict=True)]


def next_of(histories: list[np.ndarray], num_items: int) -> list[Case]:
    return [Case(user, h, int(h[-1] + 1) % num_items) for user, h in enumerate(histories)]


def network(num_items: int = 7, **changes: Any) -> SASRec:
    torch.manual_seed(0)
    return SASRec(num_items, dataclasses.replace(TINY, **changes)).eval()


def test_it_learns_an_order_that_users_follow() -> None:
    users = rounds(40, 9)
    settings = dataclasses.replace(TINY, hidden_size=16, epochs=40, patience=40)
    model, figures = fit(users, 9, next_of(rounds(20, 9, seed=1), 9), settings, seed=0)
    lists = model.recommend([np.array([3, 4, 5]), np.array([8])], 3)
    assert [items[0] for items in lists] == [6, 0]
    assert figures[-1]["loss"] < figures[0]["loss"] / 2
    assert sasrec.best_epoch(figures)["recall@10"] == 1.0


def test_the_same_seed_gives_the_same_weights_and_leaves_the_generator_alone() -> None:
    users, cases = rounds(12, 9), next_of(rounds(6, 9), 9)
    settings = dataclasses.replace(TINY, epochs=2, dropout=0.3)
    first, _ = fit(users, 9, cases, settings, seed=3)
    torch.manual_seed(11)  # what the generator held before does not count
    before = torch.get_rng_state()
    second, _ = fit(users, 9, cases, settings, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    other, _ = fit(users, 9, cases, settings, seed=4)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name])
    assert not torch.equal(first.items.weight, other.items.weight)


def test_the_loss_of_an_epoch_is_the_mean_over_all_purchases_of_the_catalogues_cross_entropy() -> None:
    """Against a loop over users and places; a learning rate of 0 leaves the weights alone."""
    users = rounds(11, 7)
    model = network()
    slow = []
    with torch.inference_mode():
        for row in (u[-5:] for u in users):
            for place in range(1, len(row)):
                scores = model.scores([row[:place]])[0]
                slow.append(float(torch.logsumexp(scores, 0) - scores[row[place]]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    rows = [u[-5:] for u in users]
    loss = sasrec._train_epoch(model, rows, optimizer, np.random.default_rng(0))
    assert loss == pytest.approx(np.mean(slow), rel=1e-5)


def test_every_purchase_weighs_alike_in_the_gradient_however_batches_are_cut() -> None:
    """The steps of an epoch, summed: gradients at fixed weights do not depend on the size of a batch."""
    users = [u[-5:] for u in rounds(11, 7)]

    def change(size: int) -> torch.Tensor:
        model = network(batch_size=size)
        before = model.items.weight.detach().clone()
        batches = -(-len(users) // size)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4 / batches)
        sasrec._train_epoch(model, users, optimizer, np.random.default_rng(0))
        return model.items.weight.detach() - before

    whole, parts = change(11), change(4)
    assert float((whole - parts).norm() / whole.norm()) < 0.01


def test_padding_and_later_purchases_change_no_earlier_state() -> None:
    model = network()
    short, long = torch.tensor([[3, 1]]), torch.tensor([[3, 1, 6, 2]])
    torch.testing.assert_close(model(long)[:, :2], model(short))
    alone = model.scores([np.array([3, 1])])
    beside = model.scores([np.array([3, 1]), np.array([2, 4, 5, 0])])
    torch.testing.assert_close(beside[:1], alone)


def test_only_the_newest_purchases_count() -> None:
    model = network()
    torch.testing.assert_close(
        model.scores([np.array([5, 1, 2, 3, 4])]), model.scores([np.array([1, 2, 3, 4])])
    )


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_the_best_scores_in_order_ties_by_lower_item(
    exclude_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scores = network(), np.array([0.9, 0.2, 0.5, 0.8, 0.5, 0.5, 0.7], dtype=np.float32)
    monkeypatch.setattr(model, "scores", lambda part: torch.from_numpy(scores).repeat(len(part), 1))
    expected = [3, 2, 4, 5, 1] if exclude_seen else [0, 3, 6, 2, 4, 5, 1]
    for k in (3, 10):
        [items] = model.recommend([np.array([0, 6])], k, exclude_seen=exclude_seen)
        assert items.tolist() == expected[:k]


def test_the_score_of_an_item_is_its_embedding_times_the_last_state() -> None:
    model, history = network(), np.array([0, 6, 3])
    state = model(torch.from_numpy(history)[None])[0, -1].detach()
    slow = [float(state @ model.items.weight.detach()[item]) for item in range(7)]
    np.testing.assert_allclose(model.scores([history])[0].detach().numpy(), slow, rtol=1e-4, atol=1e-6)


def test_more_users_than_fit_at_once_keep_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model, histories = network(), rounds(5, 7)
    whole = [items.tolist() for items in model.recommend(histories, 4)]
    monkeypatch.setattr(sasrec, "_USERS_AT_ONCE", 2)
    assert [items.tolist() for items in model.recommend(histories, 4)] == whole


def test_training_ends_when_patience_does_and_keeps_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    ndcg = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    states = []

    def validate(model: SASRec, cases: Any) -> dict[str, float]:
        states.append(model.items.weight.detach().clone())
        return {"recall@10": 0.0, "ndcg@10": next(ndcg)}

    monkeypatch.setattr(sasrec, "validate", validate)
    settings = dataclasses.replace(TINY, patience=2)
    told: list[float] = []
    users, cases = rounds(6, 7), next_of(rounds(3, 7), 7)
    model, figures = fit(users, 7, cases, settings, seed=0, on_epoch=lambda f: told.append(f["epoch"]))
    assert [f["epoch"] for f in figures] == told == [1, 2, 3, 4]
    assert torch.equal(model.items.weight, states[1]) and not model.training


def test_training_sees_as_many_newest_purchases_as_a_history_has_and_their_next_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[np.ndarray] = []

    def train(model: SASRec, rows: Any, optimizer: Any, rng: Any) -> float:
        seen.extend(rows)
        return 0.0

    monkeypatch.setattr(sasrec, "_train_epoch", train)
    users = [np.array([0, 1, 2, 3, 4, 5, 6]), np.array([5]), np.array([2, 0])]
    fit(users, 7, next_of(rounds(3, 7), 7), dataclasses.replace(TINY, epochs=1), seed=0)
    assert [row.tolist() for row in seen] == [[2, 3, 4, 5, 6], [2, 0]]


def test_settings_are_chosen_by_lists_without_what_was_bought() -> None:
    class Fixed:
        def recommend(self, histories: Any, k: int, *, exclude_seen: bool = False) -> list[np.ndarray]:
            assert exclude_seen and k == 10 and [h.tolist() for h in histories] == [[1, 2], [3]]
            return [np.array([5, 4]), np.array([6])]

    found = sasrec.validate(Fixed(), [Case(0, np.array([1, 2]), 4), Case(1, np.array([3]), 0)])
    assert found == {"recall@10": 0.5, "ndcg@10": pytest.approx(1 / np.log2(3) / 2)}


def test_nothing_to_learn_from_and_a_loss_that_diverges_are_told() -> None:
    cases = next_of(rounds(3, 7), 7)
    with pytest.raises(InputError, match="0 users with two purchases and 3 validation cases"):
        fit([np.array([1])], 7, cases, TINY, seed=0)
    with pytest.raises(InputError, match="and 0 validation cases"):
        fit(rounds(3, 7), 7, [], TINY, seed=0)
    broken = dataclasses.replace(TINY, learning_rate=float("inf"))
    with pytest.raises(InputError, match="lower its learning rate"):
        fit(rounds(9, 7), 7, cases, broken, seed=0)
