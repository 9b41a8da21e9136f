"""Training of the path scorer: the sampler, the loss, what is learnt, and what must not be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from gream import artifacts
from gream.data.store import (
    TEST,
    TRAIN,
    VALIDATION,
    Case,
    Catalogue,
    Interactions,
    load_interactions,
    save_dataset,
)
from gream.decoding.path_scorer import PrefixPathScorer, ScorerShape, load_scorer
from gream.errors import InputError
from gream.evaluation import metrics
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.training import prm
from gream.training.prm import PrmConfig, collate, info_nce, sample_negatives, scorer_loss, split_windows

CONFIG = PrmConfig(
    hidden_size=16, max_history=8, dropout=0.1, epochs=6, batch_size=32, num_negatives=7, learning_rate=0.01
)


def new_scorer(names: Names, seed: int = 0, **sizes: int) -> PrefixPathScorer:
    torch.manual_seed(seed)
    shape = ScorerShape(**{"hidden_size": 16, "max_history": 8, **sizes}, dropout=0.1)
    return PrefixPathScorer(TrieConstraint(names), shape)


def grid_names(num_items: int) -> Names:
    """Items 0, 1, 2, ... named by their digits to base 4."""
    layout = SidLayout((4, 4, 4))
    codes = np.stack(np.unravel_index(np.arange(num_items), layout.codebook_sizes), axis=1)
    return Names(layout, codes.astype(np.int32))


def planted(num_users: int, num_items: int, seed: int) -> Interactions:
    """Shoppers whose every purchase is (7 * the one before + 3) mod num_items, from random starts."""
    starts = np.random.default_rng(seed).integers(num_items, size=num_users)
    sequences = []
    for user, start in enumerate(starts):
        items = [int(start)]
        while len(items) < 4 + user % 4:
            items.append((7 * items[-1] + 3) % num_items)
        sequences.append(np.asarray(items))
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions([str(u) for u in range(num_users)], sequences, splits)


@pytest.mark.parametrize(("num_valid", "num_negatives"), [(9, 4), (9, 7), (9, 8), (9, 50), (2, 1), (1, 3)])
def test_negatives_are_valid_distinct_and_never_the_positive(num_valid: int, num_negatives: int) -> None:
    positives = torch.arange(num_valid).repeat(50)
    drawn = sample_negatives(positives, num_valid, num_negatives, torch.Generator().manual_seed(1))
    assert drawn.shape == (50 * num_valid, min(num_negatives, num_valid - 1))
    for positive, row in zip(positives.tolist(), drawn.tolist(), strict=True):
        assert set(row) <= set(range(num_valid)) - {positive}
        assert len(set(row)) == len(row)


def test_every_set_of_negatives_is_equally_likely() -> None:
    """Three of six others: 20 sets, each with chance 1/20. Chi-square over sets sees any dependence."""
    drawn = sample_negatives(torch.full((20_000,), 2), 7, 3, torch.Generator().manual_seed(2))
    sets = drawn.sort(dim=1).values @ torch.tensor([49, 7, 1])
    counts = torch.unique(sets, return_counts=True)[1]
    assert len(counts) == math.comb(6, 3)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_info_nce_equals_the_hand_computation() -> None:
    # row 1: log(e^1 + e^0 + e^2) - 1; row 2: log(3 e^-1) + 1 = log 3
    scores = torch.tensor([[1.0, 0.0, 2.0], [-1.0, -1.0, -1.0]])
    expected = math.log(math.e + 1 + math.e**2) - 1 + math.log(3)
    torch.testing.assert_close(info_nce(scores).item(), expected, rtol=1e-6, atol=1e-6)


def test_an_indifferent_scorer_loses_the_logarithm_of_the_choices(names: Names) -> None:
    """Head and history state at zero: log(N + 1) for InfoNCE and log V for the next prefix, at all depths."""
    scorer = new_scorer(names).eval()
    torch.nn.init.zeros_(scorer.state.weight)  # the head's last layer starts at zero anyway
    batch = collate([prm.Window(np.array([3, 1, 4]), 0), prm.Window(np.array([5, 9]), 1)])
    loss = scorer_loss(scorer, batch, 5, torch.Generator().manual_seed(0)).item()
    sizes = [len(nodes) for nodes in scorer.level_nodes]
    assert sizes[0] == 3  # so that only two negatives exist at the first depth
    one = sum(math.log(min(5, size - 1) + 1) + math.log(size) for size in sizes)
    assert loss == pytest.approx(4 * one, rel=1e-5)  # three targets of the first window, one of the second


def test_as_many_negatives_as_there_are_make_the_full_softmax(names: Names) -> None:
    scorer = new_scorer(names)
    torch.nn.init.normal_(scorer.head[-1].weight)
    scorer.eval()
    items = torch.tensor([[3, 1, 4]])
    batch = collate([prm.Window(np.array([3, 1, 4]), 2)])
    loss = scorer_loss(scorer, batch, 1000, torch.Generator()).item()
    context = scorer.context([[3, 1]])
    expected = 0.0
    for level, nodes in enumerate(scorer.level_nodes):
        target = int(scorer.item_nodes[items[0, 2], level]) - nodes.start
        scores = scorer.score(context, level, torch.tensor([list(nodes)]))[0]
        with torch.inference_mode():
            inner = scorer.level_rows(level) @ context.state[0]  # no bias for purchases yet
        expected -= (scores.log_softmax(0)[target] + inner.log_softmax(0)[target]).item()
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("length", [1, 4, 5, 6, 17, 30])
def test_every_purchase_is_a_target_once_with_half_a_history_at_least(length: int) -> None:
    windows = split_windows(np.arange(length), 4)
    targets = [int(i) for w in windows for i in w.items[w.first_target :]]
    assert targets == list(range(length))
    for window in windows:
        assert len(window.items) <= 5
        assert (np.diff(window.items) == 1).all()
        assert window.first_target >= min(window.items[0], 2)  # 0 in the first window only


def test_no_purchases_give_no_window() -> None:
    assert split_windows(np.arange(0), 4) == []


def test_padding_is_no_target() -> None:
    batch = collate([prm.Window(np.array([3, 1, 4]), 1), prm.Window(np.array([5]), 0)])
    assert batch.items.tolist() == [[3, 1, 4], [5, 0, 0]]
    assert batch.is_target.tolist() == [[False, True, True], [True, False, False]]


def test_a_planted_rule_is_learnt_and_is_personal() -> None:
    """The next item follows from the last one, and all are equally frequent.

    With another user's history a list of ten is worth no more than one for everybody, 10 of 60 items.
    """
    names, interactions = grid_names(60), planted(500, 60, seed=4)
    scorer = new_scorer(names, hidden_size=32)
    cases = interactions.cases(VALIDATION)
    figures = prm.train(scorer, interactions.training_sequences(), cases, replace(CONFIG, epochs=8))
    assert figures[-1]["loss"] < figures[0]["loss"] / 2
    assert metrics.recall(prm.ranks_by_scorer(scorer, cases), 10) > 0.95
    assert metrics.recall(prm.ranks_by_scorer(scorer, interactions.cases(TEST)), 10) > 0.95
    shifted = np.random.default_rng(0).permutation(len(cases))
    strangers = [replace(c, history=cases[s].history) for c, s in zip(cases, shifted, strict=True)]
    assert metrics.recall(prm.ranks_by_scorer(scorer, strangers), 10) < 0.25
    context = scorer.context([c.history.tolist() for c in cases])
    for level, nodes in enumerate(scorer.level_nodes):  # the true prefix wins at every depth
        scores = scorer.score(context, level, torch.tensor(nodes).expand(len(cases), -1))
        truth = scorer.item_nodes[[c.target for c in cases], level] - nodes.start
        assert (scores.argmax(dim=1) == truth).float().mean() > 0.75


def test_the_weights_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are scripted: epochs 2 to 4 have equal recall, 3 and 4 the better NDCG."""
    scripted = iter([[11, 11], [4, 11], [1, 11], [1, 11], [11, 11]])
    kept = []

    def ranks(scorer: PrefixPathScorer, _: list[Case]) -> np.ndarray:
        kept.append(scorer.rows.weight.detach().clone())
        return np.array(next(scripted))

    monkeypatch.setattr(prm, "ranks_by_scorer", ranks)
    scorer = new_scorer(grid_names(20))
    sequences = [np.array([1, 2, 3])]
    figures = prm.train(scorer, sequences, [Case(0, np.array([1]), 2)], replace(CONFIG, epochs=5))
    assert [f["recall@10"] for f in figures] == [0.0, 0.5, 0.5, 0.5, 0.0]
    assert torch.equal(scorer.rows.weight, kept[2])
    assert not torch.equal(kept[2], kept[3])


def test_ranks_break_ties_by_lower_item() -> None:
    scorer = new_scorer(grid_names(6))
    torch.nn.init.zeros_(scorer.state.weight)  # every score is 0
    cases = [Case(user, np.array([0]), target) for user, target in enumerate([4, 0, 2])]
    assert prm.ranks_by_scorer(scorer, cases).tolist() == [5, 1, 3]


def test_a_diverged_loss_is_told(names: Names) -> None:
    scorer = new_scorer(names)
    torch.nn.init.constant_(scorer.rows.weight, math.nan)
    with pytest.raises(InputError, match="loss is nan in epoch 1; lower `learning_rate`"):
        prm.train(scorer, [np.array([1, 2])], [Case(0, np.array([1]), 2)], CONFIG)


def test_nothing_to_learn_from_is_told(names: Names) -> None:
    with pytest.raises(InputError, match="0 training sequences and 1 validation cases"):
        prm.train(new_scorer(names), [np.array([], dtype=int)], [Case(0, np.array([1]), 2)], CONFIG)


@pytest.fixture
def run_dir(tmp_path: Path, catalogue: Catalogue, interactions: Interactions, names: Names) -> Path:
    """A finished `data` and `sids` folder of the toy shop."""
    for stage in ("data", "sids"):
        with artifacts.writing(tmp_path / stage, stage=stage, config={}, inputs={}, seed=0) as draft:
            if stage == "data":
                save_dataset(draft.path, catalogue, interactions)
            else:
                save_names(draft.path, names)
    return tmp_path


def test_the_stage_writes_a_scorer_and_its_figures(run_dir: Path, names: Names) -> None:
    prm.run(replace(CONFIG, run_dir=str(run_dir), epochs=3))
    scorer = load_scorer(run_dir / "prm", names)
    report = json.loads((run_dir / "prm" / "prm_report.json").read_text())
    assert [e["epoch"] for e in report["epochs"]] == [1, 2, 3]
    assert report["validation_users"] == 15
    best = report["epochs"][report["best_epoch"] - 1]
    assert best["recall@10"] == max(e["recall@10"] for e in report["epochs"])
    ranks = prm.ranks_by_scorer(scorer, load_interactions(run_dir / "data").cases(VALIDATION))
    assert metrics.recall(ranks, 10) == pytest.approx(best["recall@10"])
    assert metrics.ndcg(ranks, 10) == pytest.approx(best["ndcg@10"])


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(run_dir: Path) -> None:
    outputs = []
    for name, seed in (("one", 7), ("two", 7), ("three", 8)):
        torch.rand(3)  # the global generator's state must not matter
        prm.run(replace(CONFIG, run_dir=str(run_dir), output=name, seed=seed, epochs=2))
        outputs.append(artifacts.read_manifest(run_dir / name).outputs)
    assert outputs[0] == outputs[1]
    assert outputs[0]["scorer.safetensors"] != outputs[2]["scorer.safetensors"]


def test_purchases_of_validation_and_test_are_not_learnt_from(
    run_dir: Path, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        prm,
        "train",
        lambda scorer, sequences, *_: (
            seen.extend(sequences) or [dict.fromkeys(("epoch", "recall@10", "ndcg@10"), 0)]
        ),
    )
    prm.run(replace(CONFIG, run_dir=str(run_dir)))
    assert [s.tolist() for s in seen] == [s[:-2].tolist() for s in interactions.sequences]


def test_names_of_another_catalogue_are_refused(run_dir: Path) -> None:
    save_names(run_dir / "sids", grid_names(20))
    with pytest.raises(InputError, match="names 20 items, but .* has 24; run `gream sids` again"):
        prm.run(replace(CONFIG, run_dir=str(run_dir)))
    assert not (run_dir / "prm").exists()
