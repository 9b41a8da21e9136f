"""No validation or test purchase is in anything that a stage learns from: one walk over all of them.

Three shops of the same items: `one`; `other`, where only held-out purchases (and what was written of them)
differ; `taught`, where only training purchases differ. What a stage learns from must be the same bytes in
`one` and `other`, and differ in `taught`, or the comparison would prove nothing. In `one`, items 18 to 23
are only ever held out, so they must not turn up in anything that is made of purchases.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from data_synthesis.profiles import ProfilesConfig, questions_about
from data_synthesis.traces import SynthesizeConfig
from data_synthesis.traces import run as run_synthesize
from gream.artifacts import writing
from gream.data.store import (
    TEST,
    TRAIN,
    VALIDATION,
    Catalogue,
    Interactions,
    load_catalogue,
    load_interactions,
    load_training_reviews,
    save_dataset,
)
from gream.evaluation.baseline_rows import purchases_before
from gream.evaluation.baselines import ItemKNN, Popularity
from gream.evaluation.sasrec import SASRecSettings, fit
from gream.language.alignment import TASKS
from gream.language.curriculum import training_plan
from gream.language.prompting import Prompter
from gream.language.reasoning import load_traces
from gream.language.rows import Row
from gream.language.vocab import VocabConfig, load_tokenizer
from gream.language.vocab import run as run_vocab
from gream.pipeline import STAGES
from gream.semantic_ids.build import SidsConfig
from gream.semantic_ids.build import run as run_sids
from gream.semantic_ids.embed import EmbedConfig
from gream.semantic_ids.embed import run as run_embed
from gream.semantic_ids.item_text import TextConfig
from gream.semantic_ids.item_text import run as run_text
from gream.semantic_ids.layout import load_names
from gream.training.history_targets import HistoryTargets
from gream.training.policy_targets import PolicyTargets
from gream.training.prompt_pool import PromptPool

HELD_OUT = range(18, 24)  # items that `one` and `other` sell to nobody in training
NUM_USERS = 40
OF_ITEMS = {f"{words}_to_name" for words in ("title", "description", "item")}
OF_ITEMS |= {f"name_to_{words}" for words in ("title", "description", "item")}
OF_PURCHASES = [task for task in TASKS if task not in OF_ITEMS]


def shop(*, training_seed: int, held_out: range) -> Interactions:
    """40 users who buy 4 to 8 of the items 0 to 17, then two others that are held out."""
    training, last = np.random.default_rng(training_seed), np.random.default_rng(2)
    sequences = [
        np.concatenate([training.permutation(18)[: 4 + user % 5], last.permutation(held_out)[:2]])
        for user in range(NUM_USERS)
    ]
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions([f"user-{u}" for u in range(NUM_USERS)], sequences, splits)


def run_stages(folder: Path, catalogue: Catalogue, interactions: Interactions) -> None:
    """Every stage that trains nothing large, at its smallest; reviews tell user, item and place."""
    words = [f"written by {u} about {i}" for u, s in enumerate(interactions.sequences) for i in s.tolist()]
    with writing(folder / "data", stage="data", config={}, inputs={}, seed=0) as draft:
        save_dataset(draft.path, catalogue, interactions, reviews=pl.Series(words))
    run_dir = str(folder)
    run_text(TextConfig(run_dir=run_dir))
    run_embed(EmbedConfig(run_dir=run_dir, dim=8, collaborative=0.5, shift=1.0))
    run_embed(
        EmbedConfig(run_dir=run_dir, output="als", dim=4, collaborative=1.0, collaborative_method="als")
    )
    sizes = {"num_codebooks": 3, "codebook_size": 4, "hidden": [8], "latent_dim": 6, "epochs": 2}
    run_sids(SidsConfig(run_dir=run_dir, **sizes))
    run_sids(SidsConfig(run_dir=run_dir, output="rqvae", method="rqvae", alignment=1.0, **sizes))
    run_sids(SidsConfig(run_dir=run_dir, output="mpq", method="mpq", **sizes))
    run_vocab(VocabConfig(run_dir=run_dir, hidden_size=16, num_layers=1, text_tokens=300))
    run_synthesize(SynthesizeConfig(run_dir=run_dir, per_user=6, attempts=2))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> dict[str, Path]:
    # A teacher knows categories only, so the held-out ones differ too: stoves and lamps, or lamps alone.
    seeds = {"one": (1, HELD_OUT), "other": (1, range(20, 24)), "taught": (4, HELD_OUT)}
    folders = {name: tmp_path_factory.mktemp(name) for name in seeds}
    for name, (training_seed, held_out) in seeds.items():
        sold = shop(training_seed=training_seed, held_out=held_out)
        run_stages(folders[name], catalogue, sold)
    return folders


def prompter_of(folder: Path) -> Prompter:
    names = load_names(folder / "sids")
    return Prompter(load_tokenizer(folder / "base", names), names, max_history=5)


def files(*names: str) -> Callable[[Path], Any]:
    return lambda folder: [(folder / name).read_bytes() for name in names]


def rows_of(task: str) -> Callable[[Path], Any]:
    def made(folder: Path) -> list[Row]:
        data, traces = folder / "data", load_traces(folder / "traces")
        catalogue, interactions = load_catalogue(data), load_interactions(data)
        return training_plan(
            {task: 2.0}, catalogue, interactions, prompter_of(folder), epochs=2, traces=traces
        ).rows

    return made


def srpo_rows(folder: Path) -> Any:
    """Prompts, and what the rewards grade against: the target, and what the user buys after it."""
    pool = PromptPool(
        load_interactions(folder / "data"),
        prompter_of(folder),
        min_history=2,
        num_generations=4,
        future_window=5,
    )
    return [row for mode in ("direct", "reasoning") for row in pool.draw(len(pool), mode)]


def history_batches(folder: Path) -> Any:
    """What a scorer with an encoder of its own learns from: windows, and the futures that are its targets."""
    targets = HistoryTargets(load_interactions(folder / "data").training_sequences(), 3, batch_size=7)
    made = targets.batches(torch.Generator().manual_seed(1))
    return [(batch.items.tolist(), batch.is_target.tolist()) for batch in made]


def policy_batches(folder: Path) -> Any:
    sequences = load_interactions(folder / "data").training_sequences()
    targets = PolicyTargets(
        None, prompter_of(folder), sequences, batch_size=7, per_sequence=9, train_policy=True
    )
    made = targets.batches(torch.Generator().manual_seed(1))
    return [(batch.tokens.tolist(), batch.histories, batch.targets.tolist()) for batch in made]


def baselines(folder: Path) -> Any:
    sequences = purchases_before(load_interactions(folder / "data"), VALIDATION)
    knn = ItemKNN(sequences, 24)
    return knn.similarity.toarray().tolist(), Popularity(sequences, 24).order.tolist()


def sasrec_weights(folder: Path) -> Any:
    """What `gream baselines` trains on; the cases that choose the epoch are the same in all shops."""
    cases = shop(training_seed=1, held_out=HELD_OUT).cases(VALIDATION)
    settings = SASRecSettings(hidden_size=4, num_layers=1, epochs=1)
    sequences = load_interactions(folder / "data").training_sequences()
    model, _ = fit(sequences, 24, cases, settings, seed=0)
    return {name: weights.tolist() for name, weights in model.state_dict().items()}


def profile_questions(folder: Path) -> Any:
    reviews = load_training_reviews(folder / "data")
    assert sum(map(len, reviews.values())) > 100
    return repr(questions_about(load_catalogue(folder / "data"), reviews, ProfilesConfig()))


LEARNT: dict[str, Callable[[Path], Any]] = {
    "text": files("text/item_text.parquet"),
    "embed: text": files("embeddings/text.npy"),
    "embed: co-occurrence": files("embeddings/collaborative.npy"),
    "embed: fused": files("embeddings/embeddings.npy"),
    "embed: als": files("als/collaborative.npy"),
    "sids: residual": files("sids/codes.npy"),
    "sids: rqvae": files("rqvae/codes.npy"),
    "sids: mpq": files("mpq/codes.npy"),
    "vocab": files("base/model.safetensors", "base/tokenizer.json"),
    "synthesize": lambda folder: load_traces(folder / "traces"),
    **{f"sft: {task}": rows_of(task) for task in TASKS},
    "srpo": srpo_rows,
    "prm: histories": history_batches,
    "prm: policy": policy_batches,
    "baselines: SASRec": sasrec_weights,
    "evaluate: baselines": baselines,
    "synthesize profiles": profile_questions,
}
WITHOUT_PURCHASES = ("text", "embed: text")


def test_the_walk_goes_through_every_stage() -> None:
    """`data` learns nothing; it is what splits."""
    assert {name.partition(":")[0] for name in LEARNT} == set(STAGES) - {"data"}


@pytest.mark.parametrize("name", LEARNT)
def test_other_held_out_purchases_change_no_byte_of_what_is_learnt_from(
    name: str, shops: dict[str, Path]
) -> None:
    one, other, taught = (LEARNT[name](shops[which]) for which in ("one", "other", "taught"))
    assert one == other
    assert (one == taught) == (name in WITHOUT_PURCHASES)


@pytest.mark.parametrize("task", OF_PURCHASES)
def test_no_row_about_purchases_names_an_item_that_was_only_held_out(
    task: str, shops: dict[str, Path], catalogue: Catalogue
) -> None:
    prompter = prompter_of(shops["one"])
    texts = [prompter.tokenizer.decode(p + a) for p, a in rows_of(task)(shops["one"])]
    assert texts
    for item in HELD_OUT:
        told = (prompter.name(item), catalogue.titles[item])
        assert not [text for text in texts if any(words in text for words in told)]


def test_no_trace_target_window_or_vector_knows_an_item_that_was_only_held_out(
    shops: dict[str, Path],
) -> None:
    folder, seen = shops["one"], set()
    prompter = prompter_of(folder)
    for trace in load_traces(folder / "traces"):
        seen |= {trace.target, *trace.history, *trace.evidence, *trace.rewritten}
    for items, _ in history_batches(folder):
        seen |= {item for row in items for item in row}
    for _, histories, targets in policy_batches(folder):
        seen |= {item for row in [*histories, targets] for item in row}
    for row in srpo_rows(folder):
        seen |= {item for item in range(24) if prompter.name(item) in row["prompt"]}
        seen |= {item for item in range(24) if prompter.names.codes[item].tolist() == row["target"]}
        seen |= {row["item"], *row["history"], *row["future"]}
    assert seen == set(range(18))
    for vectors in ("embeddings", "als"):
        collaborative = np.load(folder / vectors / "collaborative.npy")
        assert not collaborative[HELD_OUT].any() and collaborative[:18].any(axis=1).all()


def test_baselines_for_the_test_purchases_know_validation_and_no_test_purchase(
    shops: dict[str, Path],
) -> None:
    """As in the literature; it favours the baselines, and no model learns from it."""
    interactions = load_interactions(shops["one"] / "data")
    known = purchases_before(interactions, TEST)
    assert [k.tolist() for k in known] == [s[:-1].tolist() for s in interactions.sequences]
