"""Who can use the page, and what it costs: no mouse, a screen reader, unordered names, few requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gream.decoding.recommender import Recommender

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("selenium", reason="the extra `dev` is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.serving.page.browser import Page, Writer, served  # noqa: E402


def tab_to(page: Page, what: str) -> Any:
    """Press the tabulator until the focus is on an element that matches; returns it."""
    for _ in range(60):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        if page.js(f"document.activeElement.matches({what!r})"):
            return page.driver.switch_to.active_element
    raise AssertionError(f"the tabulator never reaches {what}")


def test_the_catalogue_is_asked_once_for_all_cards_and_once_for_all_items_of_a_list(page: Page) -> None:
    page.until(
        "[...document.querySelectorAll('.card .facts, .recommended .facts')].every((p) => p.textContent)"
    )
    paths = page.js("performance.getEntriesByType('resource').map((one) => new URL(one.name).pathname)")
    asked = Counter(path for path in paths if path.startswith("/v1/"))
    assert asked.pop("/v1/items") <= 2
    assert asked == {"/v1/service": 1, "/v1/customers": 1, "/v1/filters": 1, "/v1/recommendations": 1}


def test_every_card_says_of_its_item_what_the_catalogue_knows(page: Page, recommender: Recommender) -> None:
    items = [int(i) for i in recommender.interactions.sequences[0]]
    catalogue = recommender.catalogue
    facts = [
        f"{catalogue.categories[i][-1]} · {catalogue.brands[i]} · {catalogue.prices[i]:.2f}" for i in items
    ]
    page.until("[...document.querySelectorAll('.card .facts')].every((p) => p.textContent)")
    assert page.texts(".card .facts") == facts


def test_the_filters_offer_what_the_catalogue_has(page: Page, recommender: Recommender) -> None:
    offered = page.js("[...document.querySelectorAll('#categories option')].map((one) => one.value)")
    assert offered == ["camping", "office", "ink", "lamps", "paper", "printers", "stoves", "tents"]
    assert page.texts("#brands option") == ["8 items"] * 3
    page.one("summary").click()
    page.one("#category").send_keys("tents")
    page.until("document.querySelector('#filters-on').textContent === '1 set'")
    page.until("document.querySelectorAll('.recommended').length <= 4")
    page.answered()
    assert all(" tents " in title for title in page.texts(".recommended h3"))


def test_both_modes_without_a_mouse(page: Page, writer: Writer) -> None:
    """A history is composed, both modes are asked, and a chain is followed, all by keys."""
    writer.go_on.set()
    page.one("body").send_keys(Keys.TAB)
    customers = tab_to(page, "#customer")
    customers.send_keys(Keys.END)  # the last choice: a history of one's own
    page.until("document.querySelectorAll('.card').length === 0")
    page.until("document.activeElement.id === 'search'")
    for place, word in enumerate(("tents", "lamps"), start=1):
        box = page.driver.switch_to.active_element
        box.send_keys(word)
        page.until("document.querySelector('#search').getAttribute('aria-expanded') === 'true'")
        box.send_keys(Keys.ARROW_DOWN, Keys.ENTER)
        page.until(f"document.querySelectorAll('.card').length === {place}")
    page.answered()
    tab_to(page, "input[name=mode]").send_keys(Keys.ARROW_RIGHT)
    page.until("document.querySelector('input[value=reasoning]').checked")
    page.answered()
    assert len(page.texts("#written p")) == 15
    tab_to(page, "#num_chains").send_keys(Keys.HOME)
    page.until("document.querySelectorAll('.chain').length === 1")
    page.answered()
    tab_to(page, ".recommended .codes").send_keys(Keys.ENTER)
    assert page.js("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.js("document.querySelectorAll('.node.on').length") >= 3
    tab_to(page, ".recommended .link").send_keys(Keys.ENTER)  # to the chain that found it
    page.until("document.activeElement.classList.contains('chain')")
    tab_to(page, "input[name=mode]:checked")  # round once more
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    page.until("document.querySelector('#reasoning').hidden")
    page.answered()


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_what_is_focused_is_seen_and_has_a_name(page: Page, writer: Writer, mode: str) -> None:
    writer.go_on.set()
    page.choose(mode)
    page.answered()
    page.one("summary").click()
    page.driver.execute_script("document.querySelector('.skip').focus()")
    seen = []
    for _ in range(80):
        if page.js("document.activeElement === document.body || 'seen' in document.activeElement.dataset"):
            break
        page.driver.execute_script("document.activeElement.dataset.seen = ''")
        element = page.driver.switch_to.active_element
        seen.append((element.accessible_name, element.aria_role, page.js(_OUTLINE)))
        element.send_keys(Keys.TAB)
    assert seen.pop(0)[0] == "Skip to the recommendations"  # a script put the focus there
    assert len(seen) > 25
    assert [one for one in seen if not one[0] or one[1] in ("generic", "none")] == []
    assert [one for one in seen if not one[2]] == []
    kinds = {role for _, role, _ in seen}
    assert {"link", "button", "slider", "radio", "combobox", "checkbox", "spinbutton"} <= kinds


# What the eye follows: an outline of the element itself, or of the words of a radio button that is not drawn.
_OUTLINE = """[document.activeElement, document.activeElement.nextElementSibling].some((one) => {
  const style = one && getComputedStyle(one);
  return style && style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
})"""


def test_a_screen_reader_is_told_what_happens(page: Page, writer: Writer) -> None:
    assert page.one("#status").get_attribute("role") == "status"
    assert page.texts("#status")[0].startswith("8 items in ")
    log = page.one("#written")
    assert log.get_attribute("role") == "log" and log.get_attribute("aria-live") == "polite"
    page.choose("reasoning")
    page.until("document.querySelectorAll('#written p').length === 3")  # as they are written, not at the end
    assert page.texts("#status") == ["Thinking\u2026"]
    assert page.js("document.querySelector('#answer').getAttribute('aria-busy')") == "true"
    writer.go_on.set()
    page.answered()
    assert page.texts("#status")[0].startswith("8 items in ")
    landmarks = page.js(
        "[...document.querySelectorAll('section')].map((one) => one.ariaLabelledByElements[0])"
    )
    assert [one.text for one in landmarks] == [
        "History",
        "Reasoning",
        "Recommendations",
        "How the search got there",
    ]


def test_names_without_an_order_have_a_tree_of_their_own(
    chromium: webdriver.Chrome, unordered: Recommender, writer: Writer, tmp_path: Path
) -> None:
    """Any codebook may come first: a branch shows the code that it adds, and a leaf has all of its item's."""
    writer.go_on.set()
    with served(unordered) as address:
        page = Page(chromium, address, tmp_path)
        page.look(1440, dark=False)
        for mode in ("direct", "reasoning"):
            page.open()
            page.choose(mode)
            page.answered()
            while folded := page.driver.find_elements("css selector", ".more button"):
                page.driver.execute_script("arguments[0].click()", folded[0])
            names = [set(page.texts(f".recommended:nth-child({place}) .chip")) for place in range(1, 9)]
            leaves = page.js(_LEAVES)
            assert sorted(rank for rank, _ in leaves) == list(range(1, 9))
            assert all(set(codes) == names[rank - 1] and len(codes) == 3 for rank, codes in leaves)
            books = {codes[0][0] for _, codes in leaves}
            assert books <= {"a", "b", "c"} and (len(books) > 1 or mode == "reasoning")
            page.one(".recommended:nth-child(3) .codes").click()
            lit = page.js(
                "[...document.querySelectorAll('.node.on > .label .chip')].map((one) => one.textContent)"
            )
            assert set(lit) == names[2]
            pruned = page.texts(".node.pruned > .label")
            assert pruned and all(label.endswith("pruned") for label in pruned)  # they lead nowhere
            assert page.one("#tree-told").is_displayed()
            page.keep(f"unordered-{mode}")
        assert page.complaints() == []
        chromium.get("about:blank")


# Of every leaf that leads to the list: its rank, and the codes on the way to it.
_LEAVES = """[...document.querySelectorAll('.branches .branches .branches .leads')].map((leaf) => {
  const way = [];
  for (let at = leaf; at; at = at.parentElement.closest('.node')) {
    way.unshift(...[...at.querySelectorAll(':scope > .label .chip')].map((chip) => chip.textContent));
  }
  return [Number(leaf.dataset.ranks), way];
})"""
