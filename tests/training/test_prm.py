"""Training of the path scorer: what is learnt, what is kept and written, and what must not be learnt."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream import artifacts
from gream.data.store import (
    TEST,
    VALIDATION,
    Case,
    Catalogue,
    Interactions,
    load_interactions,
    save_dataset,
)
from gream.decoding.neighbours import lookalikes
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import load_scorer
from gream.errors import InputError
from gream.evaluation import metrics
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import Names, load_names, save_names
from gream.training import prm
from gream.training.history_targets import HistoryTargets
from gream.training.policy_targets import PolicyTargets
from gream.training.prm import PrmConfig
from tests.training.planted import aucs, grid_names, new_scorer, planted

CONFIG = PrmConfig(
    hidden_size=16, max_history=8, dropout=0.1, epochs=6, batch_size=32, num_negatives=7, learning_rate=0.01
)

COUNTS = ("num_negatives", "epochs", "targets_per_sequence", "batch_size")
AMOUNTS = ("neighbours", "learning_rate", "policy_learning_rate", "weight_decay", "validation_users")
EPOCH = {"epoch": 1, "loss": 1.0, "recall@10": 0.5, "ndcg@10": 0.25}


def test_a_planted_rule_is_learnt_at_every_depth_and_is_personal() -> None:
    """The next item follows from the last one, and all are about equally frequent.

    With another user's history a path is worth no more than its popularity, and a list of ten no more than
    one for everybody, 10 of 60 items.
    """
    names, interactions = grid_names(60), planted(500, 60, seed=4)
    scorer = new_scorer(names, hidden_size=32)
    cases, sequences = interactions.cases(VALIDATION), interactions.training_sequences()
    targets = HistoryTargets(sequences, 8, CONFIG.batch_size)
    figures = prm.train(scorer, targets, cases, replace(CONFIG, epochs=8))
    assert figures[-1]["loss"] < figures[0]["loss"] / 2
    assert min(aucs(scorer, targets.contexts(scorer, cases), cases)) > 0.95
    assert metrics.recall(prm.ranks_by_scorer(scorer, targets, cases), 10) > 0.95
    assert metrics.recall(prm.ranks_by_scorer(scorer, targets, interactions.cases(TEST)), 10) > 0.95
    shifted = np.random.default_rng(0).permutation(len(cases))
    strangers = [replace(c, history=cases[s].history) for c, s in zip(cases, shifted, strict=True)]
    assert metrics.recall(prm.ranks_by_scorer(scorer, targets, strangers), 10) < 0.25
    personal = aucs(scorer, targets.contexts(scorer, strangers), cases)
    popular = popularity_aucs(scorer, np.concatenate(sequences), cases)
    assert max(abs(a - b) for a, b in zip(personal, popular, strict=True)) < 0.06


def popularity_aucs(scorer: PrefixPathScorer, bought: np.ndarray, cases: list[Case]) -> list[float]:
    """What `aucs` gives where the score of a prefix is the number of purchases below it."""
    found = []
    for level, nodes in enumerate(scorer.level_nodes):
        counts = torch.bincount(scorer.item_nodes[bought, level], minlength=nodes.stop)[nodes.start :]
        truth = scorer.item_nodes[[c.target for c in cases], level] - nodes.start
        reached = counts[truth][:, None]
        below = (counts < reached).sum(1) + ((counts == reached).sum(1) - 1) / 2
        found.append(float((below / (len(nodes) - 1)).mean()))
    return found


def test_the_loss_of_an_epoch_is_the_mean_over_its_purchases() -> None:
    """Six in three batches, and nothing is learnt: an indifferent scorer loses log(N + 1) + log V a depth."""
    scorer = new_scorer(grid_names(20))
    torch.nn.init.zeros_(scorer.state.weight)  # the head's last layer starts at zero anyway
    targets = HistoryTargets([np.array([1, 2, 3]), np.array([4, 5]), np.array([6])], 8, 1)
    figures = prm.train(scorer, targets, [Case(0, np.array([1]), 2)], replace(CONFIG, learning_rate=0.0))
    sizes = [len(nodes) for nodes in scorer.level_nodes]
    expected = sum(math.log(min(CONFIG.num_negatives, size - 1) + 1) + math.log(size) for size in sizes)
    assert [f["loss"] for f in figures] == pytest.approx([expected] * CONFIG.epochs, rel=1e-5)


def test_the_weights_of_the_best_epoch_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are scripted: epochs 2 to 4 have equal recall, 3 and 4 the better NDCG."""
    scripted = iter([[11, 11], [4, 11], [1, 11], [1, 11], [11, 11]])
    kept = []

    def ranks(scorer: PrefixPathScorer, *_: object) -> np.ndarray:
        kept.append(scorer.rows.weight.detach().clone())
        return np.array(next(scripted))

    monkeypatch.setattr(prm, "ranks_by_scorer", ranks)
    scorer = new_scorer(grid_names(20))
    targets = HistoryTargets([np.array([1, 2, 3])], 8, 32)
    figures = prm.train(scorer, targets, [Case(0, np.array([1]), 2)], replace(CONFIG, epochs=5))
    assert [f["recall@10"] for f in figures] == [0.0, 0.5, 0.5, 0.5, 0.0]
    assert torch.equal(scorer.rows.weight, kept[2])
    assert not torch.equal(kept[2], kept[3])


def test_ranks_break_ties_by_lower_item() -> None:
    scorer = new_scorer(grid_names(6))
    torch.nn.init.zeros_(scorer.state.weight)  # every score is 0
    cases = [Case(user, np.array([0]), target) for user, target in enumerate([4, 0, 2])]
    assert prm.ranks_by_scorer(scorer, HistoryTargets([], 8, 32), cases).tolist() == [5, 1, 3]


def test_a_diverged_loss_is_told(names: Names) -> None:
    scorer = new_scorer(names)
    torch.nn.init.constant_(scorer.rows.weight, math.nan)
    with pytest.raises(InputError, match="loss is nan in epoch 1; lower `learning_rate`"):
        prm.train(scorer, HistoryTargets([np.array([1, 2])], 8, 32), [Case(0, np.array([1]), 2)], CONFIG)


def test_nothing_to_learn_from_is_told(names: Names) -> None:
    with pytest.raises(InputError, match="0 training purchases and 1 validation cases"):
        targets = HistoryTargets([np.array([], dtype=int)], 8, 32)
        prm.train(new_scorer(names), targets, [Case(0, np.array([1]), 2)], CONFIG)


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
    cases = load_interactions(run_dir / "data").cases(VALIDATION)
    ranks = prm.ranks_by_scorer(scorer, HistoryTargets([], 8, 32), cases)
    assert metrics.recall(ranks, 10) == pytest.approx(best["recall@10"])
    assert metrics.ndcg(ranks, 10) == pytest.approx(best["ndcg@10"])


@pytest.mark.parametrize("context", ["own", "policy"])
def test_a_scorer_that_counts_co_purchases_is_calibrated_and_written(
    policy_config: PrmConfig, run_dir: Path, names: Names, context: str
) -> None:
    own = {"context": "own", "model": "", "train_policy": False} if context == "own" else {}
    prm.run(replace(policy_config, neighbours=4, validation_users=0, **own))
    interactions = load_interactions(run_dir / "data")
    cases = interactions.cases(VALIDATION)
    counts = artifacts.read_manifest(run_dir / "prm").counts
    assert counts["calibration loss"] < counts["calibration loss before"]
    scorer = load_scorer(run_dir / "prm", names, interactions.training_sequences())
    assert scorer.shape.neighbours == 4
    if context == "own":
        ranks = prm.ranks_by_scorer(scorer, HistoryTargets([], 8, 32), cases)
        assert metrics.recall(ranks, 10) == pytest.approx(counts["calibrated recall@10"])
        assert metrics.ndcg(ranks, 10) == pytest.approx(counts["calibrated ndcg@10"])


def test_the_epoch_is_chosen_by_as_many_validation_cases_as_were_asked_for(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are drawn by the seed; without a number they are all."""
    seen: list[list[Case]] = []
    monkeypatch.setattr(prm, "train", lambda scorer, targets, cases, *_: seen.append(cases) or [EPOCH])
    for users, seed in ((4, 0), (4, 0), (4, 1), (0, 0)):
        prm.run(replace(CONFIG, run_dir=str(run_dir), validation_users=users, seed=seed))
    drawn = [[case.user for case in cases] for cases in seen]
    assert len(set(drawn[0])) == 4 and drawn[0] == drawn[1] != drawn[2]
    assert drawn[3] == list(range(15))
    report = json.loads((run_dir / "prm" / "prm_report.json").read_text())
    assert report["validation_users"] == 15


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
        "HistoryTargets",
        lambda sequences, *sizes: seen.extend(sequences) or HistoryTargets(sequences, *sizes),
    )
    prm.run(replace(CONFIG, run_dir=str(run_dir)))
    assert [s.tolist() for s in seen] == [s[:-2].tolist() for s in interactions.sequences]


def test_co_purchases_are_counted_in_training_purchases_alone(
    run_dir: Path, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serving counts all that is known, but the scorer that validation chooses must not know its answers."""
    seen: list[list[np.ndarray]] = []
    for name in ("copurchased", "held_out_copurchased"):
        count = getattr(prm, name)
        recorded = lambda given, *sizes, count=count: seen.append(given) or count(given, *sizes)  # noqa: E731
        monkeypatch.setattr(prm, name, recorded)
    prm.run(replace(CONFIG, run_dir=str(run_dir), neighbours=3, epochs=1))
    assert len(seen) == 2
    for given in seen:
        assert [s.tolist() for s in given] == [s[:-2].tolist() for s in interactions.sequences]


def save_texts(folder: Path, vectors: np.ndarray) -> None:
    with artifacts.writing(folder, stage="embed", config={}, inputs={}, seed=0) as draft:
        np.save(draft.path / "text.npy", vectors)


def test_a_scorer_that_looks_at_texts_is_served_as_it_was_validated(run_dir: Path, names: Names) -> None:
    interactions = load_interactions(run_dir / "data")
    vectors = np.random.default_rng(0).normal(size=(len(names), 4)).astype(np.float32)
    save_texts(run_dir / "embeddings", vectors)
    config = replace(CONFIG, run_dir=str(run_dir), embeddings="embeddings", lookalikes=3, epochs=1)
    prm.run(config)
    counts = artifacts.read_manifest(run_dir / "prm").counts
    scorer = load_scorer(run_dir / "prm", names)
    assert torch.equal(scorer.sources["lookalikes"].neighbours.long(), lookalikes(vectors, 3).items)
    ranks = prm.ranks_by_scorer(scorer, HistoryTargets([], 8, 32), interactions.cases(VALIDATION))
    assert metrics.ndcg(ranks, 10) == pytest.approx(counts["calibrated ndcg@10"])
    assert counts["calibration loss"] <= counts["calibration loss before"]


def test_likeness_needs_the_texts_of_all_items(run_dir: Path, names: Names) -> None:
    for settings in ({"lookalikes": 3}, {"embeddings": "embeddings"}):
        with pytest.raises(InputError, match="give both or none"):
            replace(CONFIG, **settings)
    config = replace(CONFIG, run_dir=str(run_dir), embeddings="embeddings", lookalikes=3)
    save_texts(run_dir / "embeddings", np.eye(len(names) - 1, dtype=np.float32))
    with pytest.raises(
        InputError, match=rf"has {len(names) - 1} text vectors, but .* names {len(names)} items"
    ):
        prm.run(config)
    with artifacts.writing(run_dir / "embeddings", stage="embed", config={}, inputs={}, seed=0):
        pass
    with pytest.raises(InputError, match="made without item texts"):
        prm.run(config)


@pytest.fixture
def policy_config(run_dir: Path, names: Names, model_and_tokenizer: tuple[Any, Any]) -> PrmConfig:
    """Settings for a scorer on the states of the toy model, trained along."""
    save_model(run_dir / "base", *model_and_tokenizer, names)
    return replace(CONFIG, run_dir=str(run_dir), context="policy", model="base", train_policy=True, epochs=2)


def test_a_policy_that_was_trained_along_is_written_beside_its_scorer(
    policy_config: PrmConfig, run_dir: Path, names: Names, model_and_tokenizer: tuple[Any, Any]
) -> None:
    """Both are of the best epoch: together they give its figures."""
    prm.run(policy_config)
    report = json.loads((run_dir / "prm" / "prm_report.json").read_text())
    policy, tokenizer = load_model(run_dir / "prm" / "model", names)
    old, new = model_and_tokenizer[0].state_dict(), policy.state_dict()
    assert all((old[name] != new[name]).any() for name in old)
    scorer = load_scorer(run_dir / "prm", names)
    assert scorer.reads_states
    prompter = Prompter(tokenizer, names, max_history=8)
    targets = PolicyTargets(policy, prompter, [], 32, per_sequence=1, train_policy=False)
    cases = load_interactions(run_dir / "data").cases(VALIDATION)
    ranks = prm.ranks_by_scorer(scorer, targets, cases)
    assert metrics.ndcg(ranks, 10) == pytest.approx(report["epochs"][report["best_epoch"] - 1]["ndcg@10"])


def test_the_same_seed_trains_the_same_policy_and_scorer(policy_config: PrmConfig, run_dir: Path) -> None:
    for name in ("one", "two"):
        torch.rand(3)  # the global generator's state must not matter
        prm.run(replace(policy_config, output=name, epochs=1))
    outputs = [artifacts.read_manifest(run_dir / name).outputs for name in ("one", "two")]
    assert outputs[0] == outputs[1]
    assert {"scorer.safetensors", "model/model.safetensors"} <= set(outputs[0])


def test_a_policy_in_bfloat16_learns_in_float32_and_is_saved_as_it_came(
    policy_config: PrmConfig,
    run_dir: Path,
    names: Names,
    model_and_tokenizer: tuple[Any, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half precision loses a small step; a GPU computes in it."""
    model, tokenizer = model_and_tokenizer
    save_model(run_dir / "base", model.to(torch.bfloat16), tokenizer, names)
    seen: list[torch.dtype] = []
    train = prm.train

    def watched(scorer: Any, targets: Any, *rest: Any) -> Any:
        seen.append(targets.trained[0].dtype)
        return train(scorer, targets, *rest)

    half = "gream.training.policy_targets._computing"
    monkeypatch.setattr(half, lambda device: torch.autocast(device.type, torch.bfloat16))
    monkeypatch.setattr(prm, "train", watched)
    prm.run(replace(policy_config, epochs=1))
    assert seen == [torch.float32]
    assert load_model(run_dir / "prm" / "model", names)[0].dtype == torch.bfloat16


def test_a_policy_that_is_only_read_is_not_written_again(policy_config: PrmConfig, run_dir: Path) -> None:
    prm.run(replace(policy_config, train_policy=False, epochs=1))
    assert not (run_dir / "prm" / "model").exists()
    assert load_scorer(run_dir / "prm", load_names(run_dir / "sids")).reads_states


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": "both"}, "`context` is 'both'; give one of own, policy"),
        ({"context": "policy"}, "`model` is '', but the context `policy`.* give both or none"),
        ({"model": "base"}, "`context` is 'own' and `model` is 'base'"),
        ({"train_policy": True}, "set `context: policy` with it"),
        *(({name: 0}, f"`{name}` is 0; give at least 1") for name in COUNTS),
        *(({name: -1}, f"`{name}` is -1; give at least 0") for name in AMOUNTS),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PrmConfig(**settings)


def test_names_of_another_catalogue_are_refused(run_dir: Path) -> None:
    save_names(run_dir / "sids", grid_names(20))
    (run_dir / "sids" / artifacts.MANIFEST).unlink()  # else changed files are refused before they are read
    with pytest.raises(InputError, match="names 20 items, but .* has 24; run `gream sids` again"):
        prm.run(replace(CONFIG, run_dir=str(run_dir)))
    assert not (run_dir / "prm").exists()
