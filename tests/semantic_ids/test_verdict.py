"""The verdict: each fault alone is named, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gream.semantic_ids.verdict import judge


def fine() -> dict[str, Any]:
    level = {
        "quantised": True,
        "codes": 20,
        "perplexity": 19.0,
        "reconstruction_error": 0.4,
        "neighbours": {"kept": 0.5, "chance": 0.05},
    }
    return {
        "items": 1000,
        "items_with_the_vector_of_another": 10,
        "collisions": {"rate_before": 0.1},
        "neighbours_kept": 0.45,
        "levels": [{"level": place, **copy.deepcopy(level)} for place in range(3)],
    }


def test_good_names_pass_with_figures() -> None:
    verdict = judge(fine())
    assert verdict["passed"]
    assert verdict["sentence"].startswith(
        "Pass: every level is in use, names say 60% of the embedding, and 45%"
    )


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("items_with_the_vector_of_another",), 90, "the text, which is too thin: 9% of the items"),
        (
            ("levels", 0, "codes"),
            300,
            "too large for this catalogue: 300 codes for 1,000 items are 3.3 items",
        ),
        (("levels", 1, "perplexity"), 4.0, "collapses at level 2: 4 of 20 codes"),
        (("collisions", "rate_before"), 0.4, "the room of names: 40% of the items"),
        (("levels", 2, "reconstruction_error"), 0.95, "leaves 95% of the embedding unsaid"),
        (("levels", 0, "neighbours"), {"kept": 0.06, "chance": 0.05}, "puts 6% of an item's neighbours"),
    ],
)
def test_a_fault_is_named_with_what_to_change(place: tuple[Any, ...], value: Any, message: str) -> None:
    report = fine()
    inner: Any = report
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    if place == ("levels", 0, "codes"):
        inner["perplexity"] = 290.0
    verdict = judge(report)
    assert not verdict["passed"]
    assert len(verdict["findings"]) == 1
    assert message in verdict["sentence"]
    assert verdict["sentence"].startswith("Change ")


def test_a_disambiguation_level_is_not_judged() -> None:
    report = fine()
    report["levels"].append({"level": 3, "quantised": False, "codes": 5000, "perplexity": 1.0})
    assert judge(report)["passed"]


def test_imported_names_without_an_error_pass_too() -> None:
    report = fine()
    for level in report["levels"]:
        level["reconstruction_error"] = None
    assert judge(report)["passed"]


def test_more_codes_than_items_are_no_collapse() -> None:
    report = fine()
    report["items"], report["items_with_the_vector_of_another"] = 10, 0
    for level in report["levels"]:
        level |= {"codes": 100, "perplexity": 9.0}
    assert [finding.split(",")[0] for finding in judge(report)["findings"]] == ["`codebook_size`"]


def test_the_gravest_finding_comes_first() -> None:
    report = fine()
    report["items_with_the_vector_of_another"] = 90
    report["levels"][0] |= {"codes": 300, "perplexity": 290.0}
    report["collisions"]["rate_before"] = 0.4
    firsts = [finding.split()[:2] for finding in judge(report)["findings"]]
    assert firsts == [["the", "text,"], ["`codebook_size`,", "which"], ["the", "room"]]


def test_a_coarse_first_level_can_pass() -> None:
    report = fine()
    report["levels"][0]["neighbours"] = {"kept": 0.98, "chance": 0.5}
    assert judge(report)["passed"]
    report["levels"][0]["neighbours"] = {"kept": 0.6, "chance": 0.5}
    assert not judge(report)["passed"]
