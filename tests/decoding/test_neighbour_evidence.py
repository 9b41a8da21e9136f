"""Evidence of neighbours: counts and likeness, what they are worth for a path, and that none finds itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gream.data.copurchases import similarity
from gream.decoding.evidence import NeighbourEvidence
from gream.decoding.neighbours import FOLDS, HeldOut, copurchased, held_out_copurchased, lookalikes
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import load_scorer, save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.errors import InputError
from gream.evaluation.baselines import ItemKNN
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.training.history_targets import HistoryTargets

NUM_ITEMS = 24  # of the fixture `names`


def drawn_sequences(seed: int, users: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(NUM_ITEMS, size=rng.integers(0, 9)) for _ in range(users)]


@pytest.fixture
def counted(names: Names) -> NeighbourEvidence:
    """Evidence over drawn purchases, whose every weight matters."""
    torch.manual_seed(0)
    evidence = NeighbourEvidence(TrieConstraint(names), max_history=6, most=5, stored=False)
    evidence.fill(copurchased(drawn_sequences(1), NUM_ITEMS, 5))
    for weight in evidence.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return evidence


def new_scorer(names: Names, most: int = 5) -> PrefixPathScorer:
    torch.manual_seed(0)
    scorer = PrefixPathScorer(
        TrieConstraint(names), ScorerShape(hidden_size=8, max_history=6, neighbours=most)
    )
    for weight in scorer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return scorer.eval()


def padded(histories: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Purchases padded with item 0, and their ages."""
    items = torch.zeros(len(histories), max(map(len, histories)), dtype=torch.int64)
    ages = torch.full(items.shape, -1)
    for row, history in enumerate(histories):
        items[row, : len(history)] = torch.tensor(history)
        ages[row, : len(history)] = torch.arange(len(history)).flip(0)
    return items, ages


def test_the_similarity_of_a_tiny_shop_worked_by_hand() -> None:
    table = similarity([[0, 1, 2], [1, 0]], 4, window=2, backward=0.5, shrinkage=2.0).toarray()
    scale = math.sqrt(4 * 4)  # items 0 and 1 were bought twice
    assert table[0, 1] == pytest.approx((1 + 0.5) / scale)
    assert table[1, 0] == pytest.approx((0.5 + 1) / scale)
    assert table[0, 2] == pytest.approx(0.5 / math.sqrt(4 * 3))
    assert table[2, 0] == pytest.approx(0.25 / math.sqrt(4 * 3))
    assert table[3].sum() == table[:, 3].sum() == np.trace(table) == 0


def test_the_strongest_neighbours_are_kept_ties_by_lower_item() -> None:
    sequences = [np.array(pair) for pair in ([0, 3], [0, 2], [0, 1], [0, 1], [4, 0])]
    found = copurchased(sequences, 5, 2)
    table = similarity(sequences, 5).toarray()
    assert table[0, 2] == table[0, 3] > table[0, 4] > 0
    assert found.items[0].tolist() == [1, 2]
    assert found.strengths[0].tolist() == pytest.approx(table[0, [1, 2]].tolist())
    assert found.items[3].tolist() == [0, 0] and found.strengths[3, 1] == 0


def test_a_logit_equals_the_formula_written_out(counted: NeighbourEvidence, names: Names) -> None:
    histories = [[3, 0, 11], [5], [7, 7]]
    purchases, ages = padded(histories)
    evidence = counted.evidence(purchases, ages)
    trie = TrieConstraint(names)
    for level in range(3):
        logits = counted.level(evidence, level)
        for user, history in enumerate(histories):
            amounts = dict.fromkeys(trie.level_nodes(level + 1), 0.0)
            for age, item in enumerate(reversed(history)):
                weight = counted.ages.weight[age, 0].exp().item()
                for other, strength in zip(counted.neighbours[item], counted.strengths[item], strict=True):
                    amounts[int(trie.item_nodes[other, level])] += weight * strength.item()
            gain, floor = counted.gains[level].item(), counted.floors[level].exp().item()
            expected = [gain * math.log1p(amount / floor) for amount in amounts.values()]
            assert logits[user].tolist() == pytest.approx(expected, abs=1e-5)


def test_without_other_weights_items_are_ranked_as_item_knn_ranks_them(names: Names) -> None:
    sequences = drawn_sequences(3)
    evidence = NeighbourEvidence(TrieConstraint(names), max_history=6, most=NUM_ITEMS, stored=False)
    evidence.fill(copurchased(sequences, NUM_ITEMS, NUM_ITEMS))
    histories = [[5, 9, 2], [1], [7, 3, 20, 11]]
    logits = evidence.level(evidence.evidence(*padded(histories)), 2)
    lists = ItemKNN(sequences, NUM_ITEMS, decay=0.5).recommend(histories, 5)
    for row, items in zip(logits, lists, strict=True):
        of_items = row[evidence.item_nodes[:, 2] - evidence.starts[2]]
        assert of_items.topk(5).indices.tolist() == items.tolist()


def test_a_users_own_purchases_are_held_out_of_its_evidence() -> None:
    """Of four users two buy 1 after 0: each of them sees the other one alone, and the rest see both."""
    sequences = [np.array(items) for items in ([0, 1], [0, 1], [2, 3], [5, 6])]
    tables = held_out_copurchased(sequences, 8, 3)
    for user, seen in enumerate([1, 1, 2, 2]):
        others = [s for other, s in enumerate(sequences) if other != user]
        assert tables.strengths[user * 8, 0] == pytest.approx(similarity(others, 8)[0, 1])
        assert sum(s.tolist() == [0, 1] for s in others) == seen
    assert tables.strengths[2 * 8 + 2].sum() == 0  # nobody else bought 3 after 2
    assert len(tables.items) == FOLDS * 8


def test_training_looks_into_the_tables_of_the_users_own_fold(names: Names) -> None:
    """Every pair is bought by one user alone, so that no training purchase may find any evidence."""
    sequences = [np.array([2 * user, 2 * user + 1]) for user in range(12)]
    scorer = new_scorer(names)
    scorer.sources["copurchases"].fill(copurchased(sequences, NUM_ITEMS, 5))
    targets = HistoryTargets(sequences, 6, 5, held_out_copurchased(sequences, NUM_ITEMS, 5))
    seen = []
    encode = scorer.contexts_at

    def recorded(*args: torch.Tensor, **options: HeldOut) -> object:
        seen.append(encode(*args, **options))
        return seen[-1]

    scorer.contexts_at = recorded  # type: ignore[method-assign, assignment]
    for loss in targets.losses(scorer, 3, torch.Generator().manual_seed(0)):
        assert torch.isfinite(loss)
    assert len(seen) == 3
    assert all(context.evidence[0].amounts.sum() == 0 for context in seen)
    assert scorer.context([[4]]).evidence[0].amounts.sum() > 0


def test_gains_floors_and_ages_are_learnt(names: Names) -> None:
    sequences = drawn_sequences(4)
    scorer = new_scorer(names)
    targets = HistoryTargets(sequences, 6, 50, held_out_copurchased(sequences, NUM_ITEMS, 5))
    [loss] = targets.losses(scorer, 3, torch.Generator().manual_seed(0))
    loss.backward()
    for name, weight in scorer.sources["copurchases"].named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


def test_counts_are_made_anew_where_a_scorer_is_loaded(names: Names, tmp_path: Path) -> None:
    scorer, sequences = new_scorer(names), drawn_sequences(5)
    scorer.sources["copurchases"].fill(copurchased(sequences, NUM_ITEMS, 5))
    save_scorer(tmp_path, scorer, names)
    nodes = torch.tensor(scorer.level_nodes[2])[None]

    def scores(of: PrefixPathScorer) -> torch.Tensor:
        return of.score(of.context([[5, 9]]), 2, nodes)

    assert torch.equal(scores(load_scorer(tmp_path, names, sequences)), scores(scorer))
    later = [*sequences, np.array([9, 17])]
    moved = scores(load_scorer(tmp_path, names, later)) - scores(scorer)
    gain = scorer.sources["copurchases"].gains[2].item()
    assert moved[0, scorer.item_nodes[17, 2] - scorer.level_nodes[2].start] * gain > 0
    with pytest.raises(InputError, match="counts co-purchases; give it the purchases"):
        load_scorer(tmp_path, names)


def test_lookalikes_of_a_tiny_shop_worked_by_hand() -> None:
    """Lengths do not matter, a right angle is no likeness, ties go to the lower item, no text has none."""
    found = lookalikes(np.array([[1, 0], [2, 2], [0, 3], [0, 0], [5, 5]], dtype=np.float32), 3)
    near = math.sqrt(0.5) ** 3
    assert found.items.tolist() == [[1, 4, 0], [4, 0, 2], [1, 4, 0], [0, 0, 0], [1, 0, 2]]
    expected = [[near, near, 0], [1, near, near], [near, near, 0], [0, 0, 0], [1, near, near]]
    torch.testing.assert_close(found.strengths, torch.tensor(expected))


def test_lookalikes_do_not_depend_on_how_many_items_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
    whole = lookalikes(vectors, 30)
    assert whole.items.shape == (23, 30) and not whole.strengths[:, 22:].any()  # no more than the others
    monkeypatch.setattr("gream.decoding.neighbours._ITEMS_AT_ONCE", 7)
    parts = lookalikes(vectors, 30)
    assert torch.equal(parts.items, whole.items)
    torch.testing.assert_close(parts.strengths, whole.strengths)


def test_lookalikes_are_stored_and_new_items_have_none(names: Names, tmp_path: Path) -> None:
    known = Names(names.layout, names.codes[:20])
    torch.manual_seed(0)
    scorer = PrefixPathScorer(TrieConstraint(known), ScorerShape(hidden_size=8, max_history=6, lookalikes=4))
    texts = np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32)
    scorer.sources["lookalikes"].fill(lookalikes(texts, 4))
    save_scorer(tmp_path, scorer.eval(), known)
    nodes = torch.tensor(scorer.level_nodes[2])[None]
    again = load_scorer(tmp_path, known)
    assert torch.equal(
        again.score(again.context([[5, 9]]), 2, nodes), scorer.score(scorer.context([[5, 9]]), 2, nodes)
    )
    more = load_scorer(tmp_path, names).sources["lookalikes"]
    assert torch.equal(more.strengths[:20], scorer.sources["lookalikes"].strengths)
    assert more.strengths.shape == (NUM_ITEMS, 4) and not more.strengths[20:].any()


def test_nothing_is_held_out_of_likeness(names: Names) -> None:
    """Purchases are in no text: training and serving look into the same table, beside held out counts."""
    torch.manual_seed(0)
    shape = ScorerShape(hidden_size=8, max_history=6, neighbours=5, lookalikes=4)
    scorer = PrefixPathScorer(TrieConstraint(names), shape)
    texts = np.random.default_rng(1).normal(size=(NUM_ITEMS, 5)).astype(np.float32)
    scorer.sources["lookalikes"].fill(lookalikes(texts, 4))
    sequences = drawn_sequences(4)
    held_out = HeldOut(held_out_copurchased(sequences, NUM_ITEMS, 5), torch.tensor([3]))
    items, counts = scorer.newest([[5, 9]])
    trained = scorer.contexts_at(items, torch.tensor([0]), counts, held_out).evidence
    served = scorer.contexts_at(items, torch.tensor([0]), counts).evidence
    assert torch.equal(trained[1].amounts, served[1].amounts) and served[1].amounts.sum() > 0
    assert trained[0].amounts.sum() > served[0].amounts.sum() == 0  # nothing is counted yet


@pytest.mark.parametrize("name", ["neighbours", "lookalikes"])
def test_a_negative_number_of_neighbours_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"`{name}` is -1; give at least 0"):
        ScorerShape(**{name: -1})
