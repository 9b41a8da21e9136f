"""Quality of chains on chains written by hand about the toy shop.

Items 0 to 3 are printers, 4 to 7 ink, 8 to 11 paper (office), 12 to 15 tents, 16 to 19 stoves, 20 to 23 lamps
(camping); item i is by Volta, Orrin or Kesk for i % 3 = 0, 1, 2, and its title is "BRAND KIND model i".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gream.data.store import Catalogue
from gream.evaluation.leakage import telling_runs
from gream.evaluation.mentions import Vocabulary
from gream.evaluation.reasoning_quality import (
    Ends,
    Facts,
    Reading,
    Share,
    bought,
    cited_names,
    formed,
    grounded,
    pointed,
    read_chain,
    total,
)
from gream.evaluation.taste import stated_taste
from gream.semantic_ids.layout import Names


@pytest.fixture
def facts(catalogue: Catalogue, names: Names) -> Facts:
    return Facts(catalogue, names, Vocabulary(catalogue), max_history=3)


def read(
    facts: Facts, evidence: str = "x", preference: str = "x", intent: str = "x", rewritten: str = "x"
) -> Reading:
    text = (
        f"Evidence: {evidence}\nPreference: {preference}\nIntent: {intent}\n"
        f"Recommendation: tents by Orrin\nHistory: {rewritten}\n</think>"
    )
    return read_chain(text, facts.vocabulary)


def test_names_are_read_with_and_without_separators() -> None:
    assert cited_names("the <a_1><b_20>, then <a_3><b_4><a_5><b_6>.") == (
        "<a_1><b_20>",
        "<a_3><b_4>",
        "<a_5><b_6>",
    )


def test_broken_names_are_kept_as_they_stand() -> None:
    assert cited_names("<b_2><c_3> and <a_1> and a_9") == ("<b_2><c_3>", "<a_1>")


def test_levels_beyond_a_belong_to_one_name() -> None:
    assert cited_names("<a_1><aa_2><b_3>") == ("<a_1><aa_2><b_3>",)


def test_groundedness_is_the_share_of_what_is_cited_that_was_bought(facts: Facts, names: Names) -> None:
    """Bought: a printer by Volta and ink by Orrin. Cited: both, and a tent by Volta as well."""
    shown = bought([0, 4], facts)
    printer, ink, tent = (names.spell(item) for item in (0, 4, 12))
    one = read(facts, f"{printer} and {tent}", "office, camping, Orrin, Kesk", rewritten=printer + ink + tent)
    shares = grounded(one, shown)
    assert shares["groundedness_evidence"] == Share(1, 2)
    assert shares["groundedness_history"] == Share(2, 3)
    assert shares["groundedness"] == Share(3, 5)
    assert shares["groundedness_brands"] == Share(1, 2)
    assert shares["groundedness_categories"] == Share(1, 2)


def test_the_recommendation_and_the_intent_are_not_grounded_in_the_history(facts: Facts) -> None:
    shares = grounded(read(facts, intent="after ink comes tents by Kesk"), bought([4], facts))
    assert set(shares.values()) == {Share(0, 0)}


def test_purchases_that_the_model_was_not_shown_ground_nothing(facts: Facts, names: Names) -> None:
    one = read(facts, names.spell(0), "printers")
    assert grounded(one, bought([0, 4, 5, 6], facts))["groundedness"] == Share(0, 1)
    assert grounded(one, bought([4, 0, 5, 6], facts))["groundedness"] == Share(1, 1)
    assert grounded(one, bought([0, 4, 5, 6], facts))["groundedness_categories"] == Share(0, 1)


def test_what_evidence_and_preference_mention_counts_alike(facts: Facts) -> None:
    shares = grounded(read(facts, "Kesk ink", "Orrin printers"), bought([4], facts))
    assert shares["groundedness_brands"] == shares["groundedness_categories"] == Share(1, 2)


def test_the_letters_of_a_name_are_no_mention(facts: Facts) -> None:
    """A chain that cites `<a_1><b_2>` does not speak of the category A1, nor betray the title "B 2"."""
    paths = [("a 1",), *facts.catalogue.categories[1:]]
    vocabulary = Vocabulary(replace(facts.catalogue, categories=paths))
    assert vocabulary.mentions("A-1").categories == (("a", "1"),)
    one = read_chain(
        "Evidence: e <a_1><b_2>\nPreference: p\nIntent: i <a_1>\nRecommendation: r\nHistory: h", vocabulary
    )
    assert one.mentions.categories == () and one.intent is None
    assert one.early == ("e", "p", "i")


def test_evidence_calls_a_purchase_by_the_category_last_named_before_it(facts: Facts, names: Names) -> None:
    """Right: the printer. Wrong: ink called printers. Not counted: a bare citation, and an unknown tent."""
    printer, ink, paper, tent = (names.spell(item) for item in (0, 4, 8, 12))
    text = f"ink for printers {printer}; printers {ink}; the {paper}; stoves {tent}"
    one = read(facts, text)
    assert formed(one, bought([0, 4, 8], facts), facts.vocabulary)["evidence_kinds"] == Share(1, 2)


def test_the_intent_is_the_category_named_last(facts: Facts) -> None:
    vocabulary = facts.vocabulary
    ends = Ends(answer=13, target=5)
    shares = pointed(read(facts, intent="after ink comes tents"), bought([4], facts), ends, facts, [])
    assert (shares["intent_agreement"], shares["intent_right"]) == (Share(1, 1), Share(0, 1))
    silent = read(facts, intent="something nice")
    assert pointed(silent, bought([4], facts), ends, facts, [])["intent_agreement"] == Share(0, 0)
    assert formed(silent, bought([4], facts), vocabulary)["intent_named"] == Share(0, 1)


def test_a_coarse_intent_agrees_with_every_item_below_it(facts: Facts) -> None:
    shares = pointed(read(facts, intent="camping"), bought([4], facts), Ends(13, 5), facts, [])
    assert (shares["intent_agreement"], shares["intent_right"]) == (Share(1, 1), Share(0, 1))


TELLING = [("orrin", "tents", "model", "13"), ("kesk", "ink", "model", "5")]


@pytest.mark.parametrize("step", ["evidence", "preference", "intent"])
def test_each_of_the_first_three_steps_can_betray_the_answer(facts: Facts, names: Names, step: str) -> None:
    ends = Ends(answer=13, target=5)
    for told in (names.spell(13), "the Orrin tents, model 13"):
        one = read(facts, **{step: f"likes {told} best"})
        shares = pointed(one, bought([4], facts), ends, facts, TELLING)
        assert (shares["betrays_answer"], shares["betrays_target"]) == (Share(1, 1), Share(0, 1))


def test_the_last_two_steps_betray_nothing(facts: Facts, names: Names) -> None:
    one = read(facts, rewritten=f"{names.spell(13)} Orrin tents model 13")
    shares = pointed(one, bought([4], facts), Ends(13, 5), facts, TELLING)
    assert shares["betrays_answer"] == Share(0, 1)


def test_a_run_that_is_common_or_explained_by_a_purchase_betrays_nothing(facts: Facts) -> None:
    one = read(facts, "Kesk ink model 5")
    assert pointed(one, bought([4], facts), Ends(13, 5), facts, TELLING)["betrays_target"] == Share(1, 1)
    assert pointed(one, bought([4], facts), Ends(13, 5), facts, [])["betrays_target"] == Share(0, 1)
    # item 5 is in no history, but a purchase whose title holds the run is
    title = facts.catalogue.titles
    renamed = replace(facts.catalogue, titles=[*title[:4], f"{title[5]} twice", *title[5:]])
    known = Facts(renamed, facts.names, facts.vocabulary, facts.max_history)
    assert pointed(one, bought([4], known), Ends(13, 5), known, TELLING)["betrays_target"] == Share(0, 1)


def test_an_answer_of_the_history_may_be_cited_and_is_counted_as_such(facts: Facts, names: Names) -> None:
    one = read(facts, names.spell(13))
    shares = pointed(one, bought([13, 4], facts), Ends(13, 5), facts, [])
    assert (shares["answer_in_history"], shares["betrays_answer"]) == (Share(1, 1), Share(0, 0))
    assert pointed(one, bought([4], facts), Ends(13, 5), facts, [])["answer_in_history"] == Share(0, 1)


def test_a_chain_without_its_form_counts_for_its_form_and_its_citations_alone(
    facts: Facts, names: Names
) -> None:
    text = f"Evidence: ink {names.spell(4)} printers {names.spell(13)} Intent: after ink comes tents by Kesk"
    one, shown = read_chain(text, facts.vocabulary), bought([4], facts)
    counted = formed(one, shown, facts.vocabulary) | grounded(one, shown)
    counted |= pointed(one, shown, Ends(13, 5), facts, TELLING)
    assert {name: share for name, share in counted.items() if share.whole} == {
        "well_formed": Share(0, 1),
        "groundedness": Share(1, 2),
        "answer_in_history": Share(0, 1),
    }


def test_shares_of_chains_add_up_and_nothing_counted_is_nothing_said() -> None:
    added = total([{"a": Share(1, 2), "b": Share()}, {"a": Share(0, 1), "b": Share()}])
    assert added == {"a": Share(1, 3), "b": Share(0, 0)}
    assert (added["a"].value, added["b"].value) == (pytest.approx(1 / 3, abs=1e-6), None)


def test_whatever_a_model_writes_is_judged(facts: Facts, names: Names) -> None:
    """Steps that are empty, hold names alone, repeat or lack a heading; and random pieces of all of that."""
    rng = np.random.default_rng(0)
    headings = ("Evidence", "Preference", "Intent", "Recommendation", "History")
    pieces = [*(f"{heading}:" for heading in headings), "</think>", "<a_1>", "<b_2>"]
    pieces += ["low", "price", "ink", "by", "Orrin", "\n", " ", "", ",", "-", names.spell(4), names.spell(12)]
    steps = ["", names.spell(4), "low", "after ink comes", "low price, Orrin", "<b_2>"]
    for number in range(2000):
        if number % 2:
            text = "\n".join(f"{heading}: {rng.choice(steps)}" for heading in headings)
        else:
            text = "".join(rng.choice(pieces, size=int(rng.integers(0, 40))))
        one, shown = read_chain(text, facts.vocabulary), bought([0, 4], facts)
        figures = formed(one, shown, facts.vocabulary) | grounded(one, shown)
        figures |= pointed(one, shown, Ends(5, 12), facts, telling_runs(facts.catalogue.titles, set()))
        assert all(0 <= share.part <= share.whole for share in figures.values()), text
        assert stated_taste(one, facts.vocabulary).prices <= {("budget",), ("standard",), ("premium",)}
