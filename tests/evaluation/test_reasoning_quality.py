"""Quality of chains on chains written by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gream.evaluation.reasoning_quality import (
    cited_names,
    groundedness,
    overlap,
    top_agreement,
    well_formed_rate,
)
from gream.language.reasoning import Chain


def chain(evidence: str = "", rewritten: str = "", *, recommendation: str = "", formed: bool = True) -> Chain:
    return Chain(evidence, "likes red", "needs ink", recommendation, rewritten, well_formed=formed)


def test_names_are_read_with_and_without_separators() -> None:
    assert cited_names("the <a_1><b_20>, then <a_3><b_4><a_5><b_6>.") == [
        "<a_1><b_20>",
        "<a_3><b_4>",
        "<a_5><b_6>",
    ]


def test_broken_names_are_kept_as_they_stand() -> None:
    assert cited_names("<b_2><c_3> and <a_1> and a_9") == ["<b_2><c_3>", "<a_1>"]


def test_levels_beyond_a_belong_to_one_name() -> None:
    assert cited_names("<a_1><aa_2><b_3>") == ["<a_1><aa_2><b_3>"]


def test_groundedness_is_the_share_of_citations_that_were_bought() -> None:
    chains = [
        chain("<a_1><b_1> and <a_2><b_2>", "<a_1><b_1>"),  # three citations, one unknown
        chain("<a_1><b_1>", ""),  # bought by the other user only
    ]
    histories = [["<a_1><b_1>"], ["<a_9><b_9>"]]
    assert groundedness(chains, histories) == pytest.approx(2 / 4)


def test_groundedness_does_not_count_the_recommendation() -> None:
    one = chain("<a_1><b_1>", recommendation="<a_7><b_7>")
    assert groundedness([one], [["<a_1><b_1>"]]) == 1.0


def test_groundedness_is_undefined_where_nothing_is_cited() -> None:
    assert groundedness([chain("no item at all")], [["<a_1><b_1>"]]) is None


def test_well_formed_rate_is_a_share_of_chains() -> None:
    assert well_formed_rate([chain(), chain(formed=False), chain(), chain()]) == 0.75
    assert well_formed_rate([]) is None


def test_agreement_compares_first_items() -> None:
    ours = [np.array([1, 2]), np.array([3, 9]), np.array([], dtype=np.int64)]
    theirs = [np.array([1, 5]), np.array([2, 3]), np.array([], dtype=np.int64)]
    assert top_agreement(ours, theirs) == pytest.approx(1 / 3, abs=1e-6)


def test_overlap_is_the_share_of_common_items_within_k() -> None:
    ours = [np.array([1, 2, 3, 9]), np.array([4, 5, 6, 7])]
    theirs = [np.array([3, 8, 1, 2]), np.array([7, 8, 9, 4])]
    # within three places: {1, 3} of the first user, nothing of the second
    assert overlap(ours, theirs, k=3) == pytest.approx(2 / 6, abs=1e-6)
