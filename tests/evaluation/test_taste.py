"""Stated against true preferences: by hand, and on a simulated shop whose customers tell the truth."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import gream
from gream.data.prepare import DataConfig
from gream.data.prepare import run as prepare
from gream.data.store import load_catalogue
from gream.evaluation.mentions import Phrase, Vocabulary
from gream.evaluation.reasoning_quality import read_chain
from gream.evaluation.taste import Taste, stated_taste, taste_figures, true_tastes, with_another


def values(*names: str) -> frozenset[Phrase]:
    return frozenset((name,) for name in names)


def taste(areas: str = "", brands: str = "", prices: str = "") -> Taste:
    return Taste(values(*areas.split()), values(*brands.split()), values(*prices.split()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    shop = {"source": "simulator", "num_items": 150, "num_customers": 60, "core": 1}
    prepare(DataConfig(run_dir=str(tmp_path), seed=2, **shop))
    return tmp_path / "data"


def chain(preference: str) -> str:
    return f"Evidence: e\nPreference: {preference}\nIntent: Pens\nRecommendation: r\nHistory: h"


@pytest.mark.parametrize(
    ("preference", "stated"),
    [
        ("Office, Halvorn, low price", taste("office", "halvorn", "budget")),
        ("drills and tents by Tovik at a high price", taste("workshop camping", "tovik", "premium")),
        ("cheap or mid-range, high quality", taste(prices="budget")),
        ("premium Kestrin gear that costs little", taste("", "kestrin", "premium")),
        ("nothing in particular", taste()),
        ("<a_1><b_2><c_3>", taste()),
        ("Office, low", taste("office")),
    ],
)
def test_a_preference_is_read_with_the_shops_words(data: Path, preference: str, stated: Taste) -> None:
    vocabulary = Vocabulary(load_catalogue(data))
    assert stated_taste(read_chain(chain(preference), vocabulary), vocabulary) == stated


def test_precision_and_recall_are_over_all_values(data: Path) -> None:
    """Brands: two of three stated are right, of four true ones two were stated."""
    stated = [taste("pets", "tovik cobbry"), taste("pets", "daxel"), taste("pets")]
    true = [taste("pets", "tovik daxel"), taste("music pets", "daxel rillon"), taste("music")]
    other = [true[1], true[2], true[0]]
    row = taste_figures(stated, list(zip(true, other, strict=True)))
    brands = row["brands"]
    assert brands["stated"] == pytest.approx(2 / 3, abs=1e-6)
    assert (brands["precision"], brands["recall"]) == (pytest.approx(2 / 3, abs=1e-6), 0.5)
    assert (brands["precision_by_chance"], brands["recall_by_chance"]) == (0.0, 0.0)
    # both statements are made once; "cobbry tovik" comes before "daxel": right of the first customer's
    assert brands["precision_of_the_commonest"] == pytest.approx(1 / 6, abs=1e-6)
    assert brands["recall_of_the_commonest"] == pytest.approx(1 / 4, abs=1e-6)
    assert row["areas"]["precision_of_the_commonest"] == pytest.approx(2 / 3, abs=1e-6)
    thrice = taste_figures([*stated, taste("music")], [*zip(true, other, strict=True), (true[2], true[0])])
    assert thrice["areas"]["recall_of_the_commonest"] == pytest.approx(2 / 5, abs=1e-6)  # still "pets"
    assert row["prices"]["stated"] == 0.0 and row["prices"]["precision"] is None


def test_each_chain_stands_beside_its_own_customer_and_another() -> None:
    tastes = [taste(name) for name in ("pets", "music", "office", "camping")]
    pairs = with_another(users=[3, 0, 1], owners=[0, 0, 2], tastes=tastes)
    assert pairs == [[tastes[3], tastes[0]]] * 2 + [[tastes[1], tastes[3]]]


def test_customers_who_state_their_taste_reach_everything_and_strangers_what_is_shared(data: Path) -> None:
    tastes = true_tastes(data)
    assert tastes is not None and len(tastes) == 60
    users = list(range(60))
    row = taste_figures(tastes, with_another(users, users, tastes))
    for part in ("areas", "brands", "prices"):
        assert row[part]["stated"] == row[part]["precision"] == row[part]["recall"] == 1.0
        assert row[part]["precision_by_chance"] < 0.6
        assert row[part]["recall_of_the_commonest"] < 0.6


def test_real_purchases_have_no_true_taste(run_dir: Path) -> None:
    assert true_tastes(run_dir / "data") is None


LEARNING = ("semantic_ids", "language", "decoding", "training")


@pytest.mark.parametrize("room", LEARNING)
def test_no_stage_that_learns_can_read_the_truth(room: str) -> None:
    """The truth is for those who measure: no module below evaluation, and none that trains, names it."""
    secret = {"load_truth", "true_tastes", "Truth", "TRUTH_FILE", "CUSTOMERS_FILE"}
    for path in (Path(gream.__file__).parent / room).rglob("*.py"):
        tree = ast.parse(path.read_text())
        read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        read |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        read |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        assert not secret & read, path
        assert not any("truth" in text and text.endswith(".parquet") for text in texts), path
