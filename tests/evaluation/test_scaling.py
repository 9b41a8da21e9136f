"""The sweep: frontier and plain beam at equal time by hand, the table, and one run of a toy model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gream.cli import main
from gream.data.store import TEST, Interactions
from gream.decoding.answer import Answer
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.recommend import Engine, Search
from gream.decoding.scorer_file import save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.evaluation import scaling
from gream.evaluation.evaluate import EvaluateConfig
from gream.evaluation.exam import Exam
from gream.evaluation.scaling import Setting, frontier, overtaken, plain_at_equal_time, settings_of, sweep
from gream.evaluation.scaling_report import compared, format_scaling, write_scaling
from gream.evaluation.settings import report_searches
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, load_names

HEAD = {"users": 3, "users_in_split": 15, "items": 24, "split": "test", "k": 5, "seed": 0}


def config(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig(**{"model": "model", "k": 5, "num_beams": 6, "scaling_beams": [5, 8], **changes})


def names_of(**changes: Any) -> list[str]:
    return [setting.name for setting in settings_of(config(**changes), depth=3)]


def row(model: str, name: str, seconds: float, recall: float, **more: Any) -> dict[str, Any]:
    figures = {"recall@5": recall, "recall@5_interval": [recall - 0.1, recall + 0.1], "ndcg@5": recall / 2}
    cost = {"seconds_per_user": seconds, "tokens_per_user": 3.0, "hrecall": [0.9, 0.6, recall]}
    family = "plain beam" if name.startswith("plain") else "scorer, expand width"
    return {"model": model, "family": family, "name": name, "num_beams": 6, **figures, **cost, **more}


def test_frontier_is_what_nothing_beats_in_time_and_quality() -> None:
    #          0    1    2    3    4    5
    seconds = [2.0, 1.0, 3.0, 2.0, 4.0, 1.0]
    quality = [0.5, 0.3, 0.5, 0.4, 0.6, 0.3]
    # 1 and 5 are equal: the first; 3 is no faster than 0 and worse; 2 is slower than 0 and no better.
    assert frontier(seconds, quality) == [1, 0, 4]


def test_plain_beam_at_equal_time_lies_between_those_measured() -> None:
    widths, times, quality = [10, 20, 50], [1.0, 2.0, 4.0], [0.1, 0.2, 0.3]
    assert plain_at_equal_time(3.0, widths, times, quality) == pytest.approx((35.0, 0.25))
    assert plain_at_equal_time(2.0, widths, times, quality) == pytest.approx((20.0, 0.2))
    assert plain_at_equal_time(0.5, widths, times, quality) == pytest.approx((10.0, 0.1))  # never drawn on
    assert plain_at_equal_time(9.0, widths, times, quality) == pytest.approx((50.0, 0.3))


def test_a_wider_beam_that_was_measured_faster_breaks_no_interpolation() -> None:
    """Times of a busy machine need not rise with the width, and np.interp wants them to."""
    width, quality = plain_at_equal_time(3.0, [10, 20, 50], [2.0, 1.0, 4.0], [0.1, 0.2, 0.3])
    assert (width, quality) == pytest.approx((35.0, 0.25))  # half way from 2 to 4 seconds


def test_smaller_model_overtakes_the_best_search_that_it_reaches() -> None:
    smaller = [False, False, False, True, True, True]
    seconds = [2.0, 4.0, 9.0, 1.0, 3.0, 3.5]
    quality = [0.2, 0.3, 0.5, 0.2, 0.3, 0.3]
    assert overtaken(seconds, quality, smaller) == (4, 1)  # 5 reaches it too, but later
    assert overtaken(seconds, [0.2, 0.3, 0.5, 0.1, 0.1, 0.1], smaller) is None
    assert overtaken([1.0, 2.0], [0.2, 0.3], [False, True]) is None  # better, and slower


def test_plain_sweep_holds_the_listed_widths_and_that_of_the_report() -> None:
    assert names_of(reasoning=False) == ["plain beam of 5", "plain beam of 6", "plain beam of 8"]


def test_scorer_is_swept_by_width_levels_and_rules_each_search_once() -> None:
    found = names_of(reasoning=False, scorer="prm", expand_width=30, rule="sum")
    assert found[3:] == [
        "scorer, 6 of 6",
        "scorer, 6 of 12",
        "scorer, 6 of 24",  # with all levels and the rule `sum`, which have no second row
        "scorer, 6 of 30",
        "scorer, 6 of 48",
        "scorer, 6 of 24, last level",
        "scorer, 6 of 24, last two levels",
        "scorer, 6 of 24, scorer",
        "scorer, 6 of 24, scorer_then_policy",
    ]
    settings = settings_of(config(scorer="prm", rule="sum"), depth=3)
    levels = {s.name: s.search.scorer_levels for s in settings}
    assert levels["scorer, 6 of 24, last two levels"] == (1, 2) and levels["scorer, 6 of 24"] is None
    assert len({s.search for s in settings}) == len(settings)


def test_levels_of_the_recipe_hold_for_widths_and_all_levels_have_their_row() -> None:
    found = names_of(reasoning=False, scorer="prm", scorer_levels=[2, 0])
    assert "scorer, 6 of 12, levels 0 2" in found and "scorer, 6 of 24, all levels" in found
    assert names_of(reasoning=False, scorer="prm", scorer_levels=[2, 1, 0])[3] == "scorer, 6 of 6"


def test_chains_and_pruning_are_swept_where_they_are_asked_for() -> None:
    found = names_of(scorer="prm", prune_threshold=0.5, choose="best", agree=3)
    assert found[-6:] == [
        "beam of 6, pruned below 0.5",
        "1 chain",
        "2 chains",
        "4 chains",
        "4 chains, stop at 3 alike",
        "4 chains, best by the scorer",
    ]
    searches = [s.search for s in settings_of(config(prune_threshold=0.5), depth=3)]
    assert [s.prune_threshold for s in searches] == [None, None, None, 0.5, None, None, None, None]


def test_every_batch_goes_through_all_settings_and_every_user_is_counted(
    names: Names, interactions: Interactions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only the searches move: each by its number of beams for every user."""
    clock = [0.0]
    monkeypatch.setattr(scaling, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    cases = interactions.cases(TEST)[:3]
    exam = Exam(cases, num_items=24, k=2, seed=0, exclude_seen=True)
    constraint = TrieConstraint(names)
    asked: list[tuple[int, int, int]] = []

    def recommend(
        engine: Any, histories: Any, search: Search, *, allowed: Any, batch_size: int
    ) -> list[Answer]:
        """All paths of user 0's target are kept for everybody; its item is first in the list of width 2."""
        asked.append((search.num_beams, len(histories), search.seed))
        for user, history in enumerate(histories):  # the mask is that of these users
            [mask] = allowed(slice(user, user + 1)).tolist()
            assert [item for item in range(24) if not mask[item]] == sorted(set(history))
        clock[0] += search.num_beams * len(histories)
        kept = tuple(constraint.item_nodes[cases[0].target, level].reshape(1).numpy() for level in range(3))
        items = np.array([cases[0].target]) if search.num_beams == 2 else np.array([cases[1].target])
        return [Answer(items, np.zeros(1), None, tokens=7, kept=kept)] * len(histories)

    settings = [Setting("plain beam", str(beams), Search(k=2, num_beams=beams)) for beams in (2, 3)]
    engine = Engine(None, None, constraint, names)  # type: ignore[arg-type]
    first, second = sweep(exam, engine, settings, batch_size=2, recommend=recommend)
    # The warm-up, then batch by batch; chains of the second batch have seeds of their own.
    assert asked == [(2, 3, 0), (3, 3, 0), (2, 2, 0), (3, 2, 0), (2, 1, 2), (3, 1, 2)]
    assert first["recall@2"] == second["recall@2"] == pytest.approx(1 / 3, abs=1e-6)
    assert first["hrecall"][2] == pytest.approx(1 / 3, abs=1e-6)
    assert first["tokens_per_user"] == 7.0
    assert (first["seconds_per_user"], second["seconds_per_user"]) == (2.0, 3.0)  # without the warm-up
    assert "false_prune_rate" not in first


def test_guided_rows_stand_beside_the_plain_beam_of_their_own_model() -> None:
    rows = [
        row("large", "plain beam of 5", 1.0, 0.2, num_beams=5),
        row("large", "plain beam of 9", 3.0, 0.4, num_beams=9),
        row("large", "scorer", 2.0, 0.5),
        row("small", "plain beam of 5", 0.5, 0.1, num_beams=5),
        row("small", "scorer", 0.8, 0.2),
    ]
    found = compared(rows, 5)
    assert [r["frontier"] for r in found] == [False, False, True, True, True]
    assert found[2]["plain_at_equal_time"] == {"num_beams": 7.0, "recall@5": 0.3, "outside": ""}
    assert found[4]["plain_at_equal_time"] == {"num_beams": 5.0, "recall@5": 0.1, "outside": ">"}
    assert "plain_at_equal_time" not in found[0]


def test_report_names_the_frontier_and_what_the_smaller_model_reaches(tmp_path: Path) -> None:
    rows = [
        row("large|x", "plain beam of 5", 0.004, 0.2, num_beams=5),
        row("small", "plain beam of 5", 0.001, 0.1, num_beams=5),
        row("small", "scorer, 6 of 24", 0.003, 0.25, false_prune_rate=0.125),
        row("small", "scorer, 6 of 48", 0.0045, 0.3),
    ]
    write_scaling(tmp_path, HEAD, rows)
    text = (tmp_path / "scaling.md").read_text()
    assert r"large\|x, plain beam of 5" in text and "large|x" not in text
    assert "| 0.9000 | 0.6000 | 0.2500 |" in text and "| 0.1250 |" in text
    expected = (
        "1. small, scorer, 6 of 24: recall@5 0.2500 in 3 ms a user, +0.1500 for 3.00 times the time of the"
    )
    assert expected in text
    assert "0.3000 in 4.5 ms a user, +0.0500 for 1.50 times the time of the one before." in text
    sizes = "small with scorer, 6 of 24 reaches recall@5 0.2500 in 3 ms a user, no worse than large"
    assert sizes in text and "![quality against seconds](scaling.png)" in text
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    terminal = format_scaling(tmp_path)
    assert sizes in terminal and "3 of 15 users" in terminal and ">5: 0.1000" in terminal


def test_table_fits_a_terminal_of_100_columns(tmp_path: Path) -> None:
    long = "a-model-with-a-long-name-of-its-own"
    rows = [
        row(long, "plain beam of 5", 0.004, 0.2),
        row("b", "scorer, 50 of 200, scorer_then_policy", 0.1, 0.2),
    ]
    del rows[1]["hrecall"]  # as in reasoning mode
    write_scaling(tmp_path, HEAD, [rows[0], rows[1] | {"model": long}])
    table = format_scaling(tmp_path).split("\n\n")[1]
    assert max(len(line) for line in table.splitlines()) <= 100
    assert "0.2000" in table and "\u2026" not in table  # a long name wraps, no figure is cut


def test_sizes_that_do_not_meet_are_told(tmp_path: Path) -> None:
    rows = [row("large", "plain beam of 5", 0.004, 0.2), row("small", "plain beam of 5", 0.001, 0.1)]
    write_scaling(tmp_path, HEAD, rows)
    assert "No search of large is reached by small in the same time." in format_scaling(tmp_path)


def test_toy_model_is_swept_and_its_plain_row_is_that_of_the_report(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir / "model", run_dir / "small")
    file = run_dir / "11-evaluate.yaml"
    file.write_text(
        "model: model\nscorer: prm\nsmaller: small\nk: 5\nnum_beams: 6\nexpand_width: 8\nmax_history: 5\n"
    )
    words = ["--run_dir", str(run_dir), "--max_chain_tokens", "3", "--batch_size", "8", "--max_users", "5"]
    assert main(["evaluate", "--config", str(file), *words, "--scaling", "--scaling_beams", "[5, 10]"]) == 0
    shown = capsys.readouterr().out
    assert "plain beam of 10" in shown and "is on the frontier" in shown and "no worse than" in shown
    folder = run_dir / "evaluation"
    report, swept = (json.loads((folder / f"{name}.json").read_text()) for name in ("report", "scaling"))
    by_name = {r["name"]: r for r in swept["rows"][: len(swept["rows"]) // 2]}
    metrics = ("recall@5", "ndcg@5", "mrr", "coverage")
    for name, setting in (("direct", "plain beam of 6"), ("prm", "scorer, 6 of 8")):
        assert [by_name[setting][m] for m in metrics] == [report[name][m] for m in metrics]
    assert by_name["2 chains"]["tokens_per_user"] > by_name["1 chain"]["tokens_per_user"]
    assert "hrecall" not in by_name["1 chain"] and len(by_name["plain beam of 6"]["hrecall"]) == 3
    assert any(r["frontier"] for r in swept["rows"]) and (folder / "scaling.md").is_file()


def test_a_scorer_that_reads_one_model_judges_no_other(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_dir / "model", run_dir / "small")
    names = load_names(run_dir / "sids")
    shape = ScorerShape(hidden_size=8, num_heads=1, policy_size=16)
    save_scorer(run_dir / "prm", PrefixPathScorer(TrieConstraint(names), shape), names)
    words = ["--model", "model", "--smaller", "small", "--scorer", "prm", "--num_beams", "10", "--k", "5"]
    assert main(["evaluate", "--run_dir", str(run_dir), *words, "--scaling"]) == 2
    assert "prm reads the hidden states of model, which small does not have" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scaling": True, "scaling_beams": [10, 4]}, "scaling_beams holds 4, but lists of k = 5"),
        ({"scaling": True, "smaller": "model"}, "smaller and model are both 'model'"),
        ({"smaller": "sft-small"}, "smaller is 'sft-small', but two models are compared by --scaling only"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_sentence(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [w for key, value in changes.items() for w in (f"--{key}", str(value))]
    assert main(["evaluate", "--run_dir", str(tmp_path), "--model", "model", "--k", "5", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_widths_do_not_matter_without_a_sweep() -> None:
    assert set(report_searches(config(scaling_beams=[1], reasoning=False))) == {"direct"}
