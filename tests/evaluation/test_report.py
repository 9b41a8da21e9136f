"""The report for people: every figure is there, and text from data cannot break out of its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gream.evaluation.reasoning_report import reasoning_lines
from gream.evaluation.report import (
    escape_markdown,
    format_evaluation,
    format_examples,
    format_table,
    write_report,
)

HOSTILE = "Pipe | `tick` <b>bold</b> <a_1> [x](http://e.vil) *s* $5\n# head \x1b[2J"


def row(recall: float, seconds: float = 0.01) -> dict[str, Any]:
    figures = {"recall@5": recall / 2, "recall@10": recall, "ndcg@5": 0.02, "ndcg@10": 0.03, "mrr": 0.04}
    bounds = {f"{name}_interval": [value - 0.01, value + 0.01] for name, value in figures.items()}
    cost = {"users_per_second": 1 / seconds, "seconds_per_user": seconds}
    return figures | bounds | cost | {"invalid_rate": 0.0, "coverage": 0.5, "gini": 0.25, "novelty": 8.5}


def chain(text: str, *, well_formed: bool = True) -> dict[str, Any]:
    steps = ("evidence", "preference", "intent", "recommendation", "rewritten_history")
    return {**{step: f"{text} {step}" for step in steps}, "well_formed": well_formed, "text": text}


def example(title: str = "Lamp", steps: dict[str, Any] | None = None) -> dict[str, Any]:
    items = [{"item_id": str(i), "title": f"{title} {i}", "logp": -1.5 - i, "score": None} for i in range(7)]
    return {
        "user_id": "user-3",
        "history": [title, "Tent"],
        "target": title,
        "lists": {"direct": items, "reasoning": items},
        "chain": steps,
    }


def shown(title: str = "Lamp", *, faults: list[str] | None = None) -> dict[str, Any]:
    """One chain as `examples.json` holds it."""
    return {
        "user_id": "user-4",
        "history": [title, "Tent"],
        "chain": chain(title),
        "answer": title,
        "target": "Stove",
        "hit": False,
        "mark": 0.256,
        "faults": faults or [],
    }


def customers(*examples: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {"customers": list(examples)}


@pytest.fixture
def report() -> dict[str, Any]:
    reasoning = {
        "num_chains": 4,
        "pass@1": 0.12,
        "pass@k": 0.34,
        "tokens_per_user": 210.5,
        "tokens_per_chain": 52.6,
        "well_formed": 0.98,
        "groundedness": None,
        "groundedness_brands": 0.625,
        "groundedness_brands_by_chance": 0.125,
        "groundedness_brands_of": 1234,
        "agreement": 0.7,
        "overlap@10": 0.81,
        "gain@10": 0.02,
        "gain@10_interval": [0.01, 0.03],
    }
    rows = ("popularity", "item_knn", "direct", "reasoning")
    group = {name: {"recall@10": 0.3, "ndcg@10": 0.2} for name in rows}
    gap = {"recall@10": 0.02, "recall@10_interval": [0.01, 0.03], "ndcg@10": -0.01}
    gap |= {"ndcg@10_interval": [-0.02, 0.01]}
    return {
        "users": 20,
        "users_in_split": 3000,
        "items": 400,
        "split": "test",
        "exclude_seen": False,
        "k": 10,
        "seed": 5,
        "best_reachable": {"recall@10": 0.6123, "ndcg@10": 0.4},
        "popularity": row(0.05, 1e-5),
        "item_knn": row(0.15, 1e-4),
        "direct": row(0.25, 0.01),
        "reasoning": row(0.27, 0.2) | reasoning,
        "by_history": {"5-9": {"cases": 1234, "rows": group}},
        "by_popularity": {"tail": {"cases": 7, "rows": group}},
        "differences": [
            {"row": "direct", "against": "popularity", **gap},
            {"row": "item_knn", "against": "popularity", **gap},
            {"row": "reasoning", "against": "direct", **gap},
        ],
    }


def test_table_shows_every_row_and_figure(report: dict[str, Any]) -> None:
    text = format_table(report)
    for expected in ("popularity", "item kNN", "direct", "reasoning", "0.2500", "0.2400-0.2600", "0.6123"):
        assert expected in text
    assert "20 of 3,000 users" in text
    assert "scorer" not in text  # there is no such row
    assert "\x1b" not in text


def test_table_fits_a_terminal_of_100_columns(report: dict[str, Any]) -> None:
    text = format_table(report | {"direct_before_srpo": row(0.2)})
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\u2026" not in text  # nothing is cut short by an ellipsis


@pytest.mark.parametrize("k", [3, 5])
def test_table_of_short_lists_has_each_column_once(report: dict[str, Any], k: int) -> None:
    figures = {f"{m}@{k}": 0.5 for m in ("recall", "ndcg")} | {f"recall@{k}_interval": [0.4, 0.6]}
    short = {name: report[name] | figures for name in ("popularity", "direct")}
    head = {key: report[key] for key in ("users", "users_in_split", "items", "split", "exclude_seen", "seed")}
    text = format_table(head | {"k": k} | short)
    assert text.count(f"recall@{k} ") == 1 and text.count(f"ndcg@{k} ") == 1


def test_direct_says_after_srpo_when_the_model_before_stands_beside_it(report: dict[str, Any]) -> None:
    assert "after SRPO" not in format_table(report)
    text = format_table(report | {"direct_before_srpo": row(0.2)})
    assert "direct, after alignment" in text and "direct, after SRPO" in text


def test_examples_show_history_chain_list_and_target() -> None:
    text = format_examples([example("Lamp", chain("Because."))], length=2)
    for expected in ("user-3", "Tent", "Evidence: Because. evidence", "History without noise", "1. Lamp 0"):
        assert expected in text
    assert "3. Lamp 2" not in text
    assert "bought next: Lamp" in text


def test_chain_that_is_not_well_formed_is_shown_as_one_text() -> None:
    text = format_examples([example(steps=chain("All at once", well_formed=False))])
    assert "Chain, not well formed: All at once" in text
    assert "Evidence" not in text


def test_terminal_text_has_no_control_characters_of_the_data() -> None:
    text = format_examples([example(HOSTILE, chain(HOSTILE))])
    assert "\x1b" not in text
    assert "<b>bold</b> <a_1> [x]" in text  # shown as it is, brackets are no markup of the terminal


def test_markdown_escapes_what_data_say() -> None:
    escaped = escape_markdown(HOSTILE)
    assert escaped == (
        r"Pipe \| \`tick\` &lt;b&gt;bold&lt;/b&gt; &lt;a\_1&gt; \[x\](http\://e.vil) \*s\* \$5 # head \[2J"
    )


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("# head", r"\# head"),
        ("12. list", r"12\. list"),
        ("- dash", r"\- dash"),
        ("1.5 cm", r"1\.5 cm"),
        ("> quote", "&gt; quote"),
        ("a & b at www.e.vil", r"a &amp; b at www\.e.vil"),
        ("Plain - 3.5 kg (new)!", "Plain - 3.5 kg (new)!"),
    ],
)
def test_markdown_that_matters_only_at_the_start_is_escaped_there(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_report_holds_table_reasoning_examples_and_both_plots(tmp_path: Path, report: dict[str, Any]) -> None:
    write_report(tmp_path, report, customers(example(HOSTILE, chain(HOSTILE))))
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| item kNN |" in text and "one of 4 does, as many as were written | 0.34 |" in text
    assert (
        "| gain@10 | recall@10 above that of direct mode for the same users | 0.02 (0.0100 to 0.0300) |"
        in text
    )
    assert "are in the history | 0.625 | 0.125 | 1,234 |" in text
    assert "cited items" not in text  # undefined: nothing was cited
    assert "### Customer 1: user-3" in text
    assert "<b>" not in text and "\x1b" not in text and "\n# head" not in text
    for name in ("recall.png", "cost.png"):
        assert f"]({name})" in text
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_report_without_reasoning_and_best_figure_is_whole(tmp_path: Path, report: dict[str, Any]) -> None:
    del report["reasoning"], report["best_reachable"], report["differences"][-1]
    assert reasoning_lines(report) == []
    write_report(tmp_path, report, customers())
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## Reasoning" not in text and "best reachable" not in text and "## Example" not in text


def test_report_tells_for_whom_rows_work_and_which_differences_are_more_than_chance(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    write_report(tmp_path, report, customers())
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| direct | 0.5 | 0.25 | 8.5 |" in text
    assert "| 5-9 purchases | 1,234 |" + " 0.3000 / 0.2000 |" * 4 in text
    assert "| tail (all other items that were bought) | 7 |" in text
    assert (
        "| reasoning - direct | +0.0200 (+0.0100 to +0.0300)* | -0.0100 (-0.0200 to +0.0100) |" in text
        and "- popularity |" not in text
    )


def test_terminal_shows_table_examples_and_the_place_of_the_report(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    examples = [example("L\u00e4mpchen", chain("Because."))]
    write_report(tmp_path, report, customers(*examples))
    text = format_evaluation(tmp_path)
    assert text.startswith(format_table(report))
    assert format_examples(examples) in text
    assert text.endswith(f"Report with plots: {tmp_path / 'report.md'}")


def test_terminal_says_in_one_line_what_the_reasoning_is_worth(report: dict[str, Any]) -> None:
    [line] = reasoning_lines(report)
    assert line == (
        "Reasoning: whole chains 98.0%, recall@10 +0.0200 (+0.0100 to +0.0300) on direct.\n"
    )  # groundedness is undefined


def test_report_shows_good_and_bad_chains_and_what_is_wrong(tmp_path: Path, report: dict[str, Any]) -> None:
    examples = {
        "customers": [],
        "good_chains": [shown()],
        "bad_chains": [shown(HOSTILE, faults=["its intent names a|b", "it cites no item"])],
    }
    write_report(tmp_path, report, examples)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    good, bad = text.split("### Good chains")[1].split("### Bad chains")
    assert "#### 1. Customer user-4, mark 0.26" in good and "**Intent.** Lamp intent" in good
    assert "Leads to: **Lamp**. Bought next: **Stove**." in good and "What is wrong" not in good
    assert r"What is wrong: its intent names a\|b; it cites no item." in bad
    assert "<b>" not in text and "\x1b" not in text and "\n# head" not in text


def test_report_compares_stated_and_true_preference(tmp_path: Path, report: dict[str, Any]) -> None:
    part = {
        "stated": 0.9, "precision": 0.8, "precision_by_chance": 0.2, "precision_of_the_commonest": 0.3,
        "recall": 0.5, "recall_by_chance": 0.1, "recall_of_the_commonest": None,
    }  # fmt: skip
    report["reasoning"]["taste"] = {"areas": part, "brands": part, "prices": part}
    write_report(tmp_path, report, customers())
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| price tier | 0.9 | 0.8 | 0.2 | 0.3 | 0.5 | 0.1 |  |" in text
