"""The simulated shop: its truth is kept, its oracle is exact, and the same seed gives the same bytes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from gream import artifacts
from gream.data.oracle import best_reachable, next_purchase
from gream.data.prepare import DataConfig, run
from gream.data.shop import BRANDS, CATEGORIES, DEPARTMENTS
from gream.data.simulate import Shop, load_truth, simulate
from gream.data.store import load_catalogue, load_interactions
from gream.errors import InputError

FILES = ("catalogue", "interactions", "splits", "truth", "truth_customers")


@pytest.fixture(scope="module")
def shop() -> Shop:
    """The default catalogue with fewer customers."""
    return simulate(num_items=400, num_customers=900, noise=0.12, seed=0)


def _recall(shop: Shop, ranked: np.ndarray) -> float:
    """Share of last purchases among the first 10 of one list for everybody."""
    last = (shop.bought >= 0).sum(axis=1) - 1
    return float(np.isin(shop.bought[np.arange(len(last)), last], ranked[:10]).mean())


def _best(shop: Shop) -> dict[str, float]:
    last = (shop.bought >= 0).sum(axis=1) - 1
    kept = np.ones(len(shop.category_of), dtype=bool)
    return best_reachable(shop, np.arange(len(last)), last, kept=kept)


def test_the_oracle_is_good_and_popularity_is_not(shop: Shop) -> None:
    last = (shop.bought >= 0).sum(axis=1) - 1
    earlier = np.concatenate([row[:n] for row, n in zip(shop.bought, last, strict=True)])
    popular = np.argsort(-np.bincount(earlier, minlength=400), kind="stable")
    best = _best(shop)
    assert 0.55 <= best["recall@10"] <= 0.75
    assert 0 < best["ndcg@10"] < best["recall@10"]
    assert _recall(shop, popular) <= 0.08


def test_the_oracle_without_noise_is_better(shop: Shop) -> None:
    quiet = simulate(num_items=400, num_customers=900, noise=0.0, seed=0)
    assert _best(quiet)["recall@10"] > _best(shop)["recall@10"] + 0.03


def _slow_next(shop: Shop, customer: int, position: int) -> np.ndarray:
    """Sum over every way in which the earlier purchases may be noise or meant."""
    history = shop.bought[customer, :position]
    everyone = np.arange(len(shop.bought))
    total, weight = np.zeros(len(shop.category_of)), 0.0
    for noisy in itertools.product([False, True], repeat=position):
        probability, previous, left = 1.0, -1, np.ones(len(shop.category_of))
        for item, stray in zip([*history, None], [*noisy, None], strict=True):
            intents = shop.intents(everyone, np.full(len(everyone), previous))[customer]
            meant = intents[shop.category_of] * shop.affinity[customer] * left
            meant, random = meant / meant.sum(), shop.popularity * left / (shop.popularity * left).sum()
            if item is None:
                total += probability * ((1 - shop.noise) * meant + shop.noise * random)
                weight += probability
            else:
                probability *= shop.noise * random[item] if stray else (1 - shop.noise) * meant[item]
                previous = previous if stray else int(shop.category_of[item])
                left[item] = 0
    return total / weight


def test_the_oracle_equals_the_sum_over_all_ways_in_which_the_history_may_be_noise() -> None:
    small = simulate(num_items=130, num_customers=7, noise=0.3, seed=4)
    for position in (0, 1, 5):
        fast = next_purchase(small, position)
        np.testing.assert_allclose(fast.sum(axis=1), 1.0, rtol=1e-12)
        for customer in (0, 3, 6):
            # float64 sums in another order
            np.testing.assert_allclose(fast[customer], _slow_next(small, customer, position), rtol=1e-9)


def test_the_oracle_ranks_only_items_that_were_kept() -> None:
    # Ten targets are kept and nothing else, so each is within the first ten.
    small = simulate(num_items=130, num_customers=10, noise=0.1, seed=2)
    kept = np.zeros(130, dtype=bool)
    kept[small.bought[:, 5]] = True
    asked = np.arange(10), np.full(10, 5)
    assert best_reachable(small, *asked, kept=kept)["recall@10"] == 1.0
    assert best_reachable(small, *asked, kept=np.ones(130, dtype=bool))["recall@10"] < 1.0


def test_nobody_buys_an_item_twice_and_everybody_buys_6_to_14(shop: Shop) -> None:
    lengths = (shop.bought >= 0).sum(axis=1)
    assert set(lengths) == set(range(6, 15))
    for row, length in zip(shop.bought, lengths, strict=True):
        assert (row[:length] >= 0).all()
        assert len(set(row[:length])) == length


def test_the_share_of_noise_is_what_was_asked_for(shop: Shop) -> None:
    purchases = shop.bought >= 0
    # Standard error about 0.0035 with some 9,000 purchases.
    assert shop.is_noise[purchases].mean() == pytest.approx(0.12, abs=0.014)
    assert not shop.is_noise[~purchases].any()


def test_meant_purchases_follow_the_graph_or_start_in_a_preferred_department(shop: Shop) -> None:
    names = [category.name for category in CATEGORIES]
    follows, total = 0, 0
    for customer, (items, noise) in enumerate(zip(shop.bought, shop.is_noise, strict=True)):
        meant = [
            CATEGORIES[shop.category_of[i]]
            for i, stray in zip(items, noise, strict=True)
            if i >= 0 and not stray
        ]
        liked = shop.customers["departments"][customer].to_list()
        assert not meant or meant[0].department in liked
        for before, after in itertools.pairwise(meant):
            follows += after.name in before.leads_to
            total += 1
            assert after.name in before.leads_to or after.department in liked
    assert len(set(names)) == 40
    # 0.75 by the graph, and some new starts land on a successor by chance.
    assert 0.75 <= follows / total <= 0.9


def test_popularity_of_categories_is_level_because_each_is_led_to_twice() -> None:
    first = sorted(category.leads_to[0] for category in CATEGORIES)
    second = sorted(category.leads_to[1] for category in CATEGORIES)
    assert first == second == sorted(category.name for category in CATEGORIES)


def test_titles_differ_are_short_and_descriptions_are_whole_sentences() -> None:
    items = simulate(num_items=2400, num_customers=1, noise=0.1, seed=1).items
    assert items["title"].n_unique() == 2400
    assert {len(title.split()) for title in items["title"]} <= set(range(3, 8))
    for text in items["description"]:
        assert text[0].isupper()
        assert text.endswith((".", "?"))
        assert "{" not in text
        assert text.count(".") + text.count("?") <= 3


def test_the_catalogue_has_departments_brands_and_prices(shop: Shop) -> None:
    assert set(shop.items["brand"]) == set(BRANDS)
    assert {path[0] for path in shop.items["categories"]} == set(DEPARTMENTS)
    assert shop.items["price"].min() > 0  # type: ignore[operator]


def test_the_catalogue_does_not_depend_on_the_customers(shop: Shop) -> None:
    other = simulate(num_items=400, num_customers=5, noise=0.5, seed=0)
    assert other.items.equals(shop.items)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 119}, r"`num_items` is 119, but the shop needs 120"),
        ({"num_items": 9000}, r"`num_items` is 9000, but the shop has words for"),
        ({"num_customers": 0}, r"`num_customers` is 0; give at least 1"),
        ({"noise": 1.0}, r"`noise` is 1\.0, but it is a share of purchases"),
    ],
)
def test_a_shop_that_cannot_be_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate(**{"num_items": 120, "num_customers": 3, "noise": 0.1, "seed": 0, **settings})  # type: ignore[arg-type]


def _run(run_dir: Path, seed: int = 0) -> Path:
    run(DataConfig(run_dir=str(run_dir), seed=seed, num_items=120, num_customers=150))
    return run_dir / "data"


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    folders = [_run(tmp_path / "a"), _run(tmp_path / "b"), _run(tmp_path / "c", seed=1)]
    for name in FILES:
        first, again, other = ((folder / f"{name}.parquet").read_bytes() for folder in folders)
        assert first == again, name
        assert first != other or name == "splits", name


def test_truth_fits_the_sequences(tmp_path: Path) -> None:
    folder = _run(tmp_path)
    truth, bought, catalogue = load_truth(folder), load_interactions(folder), load_catalogue(folder)
    assert [len(flags) for flags in truth.is_noise] == [len(items) for items in bought.sequences]
    assert len(truth.departments) == len(truth.brands) == len(truth.tiers) == len(bought.user_ids)
    for flags, items, liked in zip(truth.is_noise, bought.sequences, truth.departments, strict=True):
        meant = items[~flags]
        assert not len(meant) or catalogue.categories[meant[0]][0] in liked


def test_truth_stays_with_its_purchases_when_the_core_drops_some(tmp_path: Path) -> None:
    shop = simulate(num_items=200, num_customers=60, noise=0.2, seed=3)
    run(DataConfig(run_dir=str(tmp_path), num_items=200, num_customers=60, noise=0.2, seed=3, core=4))
    folder = tmp_path / "data"
    truth, bought = load_truth(folder), load_interactions(folder)
    assert artifacts.read_manifest(folder).counts["interactions_dropped_by_core"] > 0
    ids = load_catalogue(folder).item_ids
    rows = {user: row for row, user in enumerate(shop.customers["user_id"])}
    for user, items, flags in zip(bought.user_ids, bought.sequences, truth.is_noise, strict=True):
        own = shop.bought[rows[user]].tolist()
        places = [own.index(shop.items["item_id"].to_list().index(ids[item])) for item in items]
        assert shop.is_noise[rows[user], places].tolist() == flags.tolist()
        assert truth.tiers[bought.user_ids.index(user)] == shop.customers["tier"][rows[user]]
    # The manifest's figure: test purchases that were kept, among the items that were kept.
    customers = np.array([rows[user] for user in bought.user_ids])
    kept = shop.items["item_id"].is_in(ids).to_numpy()
    raw = [shop.items["item_id"].to_list().index(ids[items[-1]]) for items in bought.sequences]
    positions = np.argmax(shop.bought[customers] == np.array(raw)[:, None], axis=1)
    best = best_reachable(shop, customers, positions, kept=kept)["recall@10"]
    counts = artifacts.read_manifest(folder).counts
    assert counts["best_reachable_recall@10"] == pytest.approx(best, abs=5e-5)  # four places are kept


def test_best_reachable_figures_are_in_the_manifest(tmp_path: Path) -> None:
    counts = artifacts.read_manifest(_run(tmp_path), stage="data").counts
    assert 0 < counts["best_reachable_ndcg@10"] < counts["best_reachable_recall@10"] < 1
    assert counts["noise_interactions"] > 0


def test_real_purchases_have_no_truth(tmp_path: Path) -> None:
    with artifacts.writing(tmp_path / "data", stage="data", config={}, inputs={}, seed=0):
        pass
    with pytest.raises(InputError, match=r"made from real purchases, whose truth nobody knows"):
        load_truth(tmp_path / "data")


def test_rank_of_the_oracle_breaks_ties_by_lower_item() -> None:
    # With one flat taste, no noise and nothing to tell items apart, the order is by item id.
    shop = simulate(num_items=120, num_customers=1, noise=0.0, seed=0)
    flat = replace(
        shop,
        start=np.full_like(shop.start, 1 / len(CATEGORIES)),
        affinity=np.full_like(shop.affinity, 1 / 3),
        bought=np.array([[9] + [-1] * 13]),
    )
    kept = np.ones(120, dtype=bool)
    last = {"customers": np.array([0]), "positions": np.array([0]), "kept": kept}
    assert best_reachable(flat, **last, k=10) == {"recall@10": 1.0, "ndcg@10": 1 / np.log2(11)}
    assert best_reachable(flat, **last, k=9)["recall@9"] == 0.0


def test_parquet_of_the_truth_has_the_promised_columns(tmp_path: Path) -> None:
    folder = _run(tmp_path)
    assert pl.read_parquet(folder / "truth.parquet").columns == ["user", "position", "is_noise"]
    assert pl.read_parquet(folder / "truth_customers.parquet").columns == [
        "user", "user_id", "departments", "brands", "tier",
    ]  # fmt: skip
