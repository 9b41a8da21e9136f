"""One list for people and one for programs: nothing from data breaks either."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gream.decoding.recommender import Recommendation
from gream.decoding.shown_list import ShownList, format_json, format_table
from gream.language.reasoning import Chain

HOSTILE = "[red]x[/red] \x1b[2J\nsecond\u202eline"
CHAIN = Chain("ink was bought", "office", "after ink comes paper", "paper", "Printer", True)
FOUND = [
    Recommendation(1, "p1", "Printer", -0.5, name="<a_0>"),
    Recommendation(2, "p2", "A very long title " * 20, -2.0, name="<a_1>"),
    Recommendation(3, "p3", HOSTILE, -4.0, name="<a_2>"),
    Recommendation(4, "p4", "", -12.0, name="<a_3>"),
]
SHOWN = ShownList("direct", [("x1", "Ink"), ("x2", HOSTILE)], FOUND, 0.25)


def test_a_list_is_a_table_with_the_history_above() -> None:
    assert format_table(replace(SHOWN, recommendations=FOUND[:1]), 100).splitlines() == [
        "History, oldest first",
        "  Ink                           x1",
        "  [red]x[/red] [2J second line  x2",
        "",
        "Recommended",
        "",
        "  rank  title    item id  probability   logp",
        " ────────────────────────────────────────────",
        "     1  Printer  p1              61 %  -0.50",  # exp(-0.5) = 0.607
    ]


@pytest.mark.parametrize("width", [50, 80, 100])
def test_titles_are_shortened_to_the_width_and_ids_are_whole(width: int) -> None:
    lines = format_table(SHOWN, width).splitlines()
    assert all(len(line) <= width for line in lines)
    rows = [line for line in lines if line.strip()[:1].isdigit()]
    assert len(rows) == 4 and all(f" p{rank} " in row for rank, row in enumerate(rows, 1))
    assert "…" in rows[1] and "(no title)"[: width - 42] in rows[3]


def test_a_long_id_goes_on_in_the_next_line() -> None:
    raw = "".join(f"{i:03}" for i in range(60))
    text = format_table(replace(SHOWN, recommendations=[replace(FOUND[0], item_id=raw)]), 80)
    assert "…" not in text and raw in "".join(text[text.index("p") :].split()).replace("-0.50", "").replace(
        "61%", ""
    )


def test_nothing_from_data_moves_the_cursor_or_is_markup() -> None:
    chain = replace(CHAIN, evidence=HOSTILE)
    text = format_table(replace(SHOWN, recommendations=[replace(FOUND[2], chain=chain, score=1.0)]))
    assert "[red]x[/red] [2J second line" in text
    assert all(c.isprintable() or c == "\n" for c in text)


def test_reasoning_shows_its_steps_and_the_scorer_a_column() -> None:
    found = [replace(FOUND[0], chain=CHAIN, score=0.75)]
    lines = format_table(replace(SHOWN, mode="reasoning", recommendations=found)).splitlines()
    at = lines.index("Reasoning")
    assert [line.split("  ")[1] for line in lines[at + 1 : at + 6]] == [
        "evidence", "preference", "intent", "recommendation", "rewritten history",
    ]  # fmt: skip
    assert lines[-3].endswith("logp  score") and lines[-1].endswith("-0.50   0.75")


def test_of_a_long_history_the_latest_is_shown() -> None:
    history = [(f"x{i}", f"Thing {i}") for i in range(1023)]
    lines = format_table(replace(SHOWN, history=history)).splitlines()
    assert lines[1] == "  (1,003 before)"
    assert lines[2].split() == ["Thing", "1003", "x1003"] and lines[21].split() == ["Thing", "1022", "x1022"]


def test_the_document_holds_everything_in_plain_ascii() -> None:
    found = [FOUND[0], replace(FOUND[2], chain=CHAIN, score=0.75)]
    text = format_json(replace(SHOWN, recommendations=found))
    assert all(c == "\n" or " " <= c <= "~" for c in text)
    assert json.loads(text) == {
        "mode": "direct",
        "history": [{"item_id": "x1", "title": "Ink"}, {"item_id": "x2", "title": HOSTILE}],
        "recommendations": [
            {"rank": 1, "item_id": "p1", "title": "Printer", "name": "<a_0>", "logp": -0.5, "score": None,
             "chain": None, "chain_number": None},
            {"rank": 3, "item_id": "p3", "title": HOSTILE, "name": "<a_2>", "logp": -4.0, "score": 0.75,
             "chain": {"evidence": "ink was bought", "preference": "office",
                       "intent": "after ink comes paper", "recommendation": "paper",
                       "rewritten_history": "Printer", "well_formed": True}, "chain_number": None},
        ],
        "seconds": 0.25,
    }  # fmt: skip
