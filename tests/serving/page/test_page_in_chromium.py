"""The page as a person uses it: a real service over a tiny recommender, in headless Chromium.

The chains are written by a script that stops before their third step until the test lets it go on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gream.decoding.recommender import Recommender

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("selenium", reason="the extra `dev` is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

from tests.serving.page.browser import EVIL, Page, Writer, served  # noqa: E402


def test_an_example_customer_is_answered_at_once_with_the_tree_of_the_search(
    page: Page, recommender: Recommender
) -> None:
    answer = recommender.recommend(recommender.history_of("user-0"), 8)
    assert page.texts(".card .title") == [
        recommender.catalogue.titles[i] for i in recommender.interactions.sequences[0]
    ]
    assert page.texts(".recommended h3") == [one.title for one in answer]
    assert page.texts(".recommended .codes") == [
        one.name.replace("<", "").replace(">", "").replace("_", "") for one in answer
    ]
    assert page.texts(".levels strong") == ["Level 1", "Level 2", "Level 3"]
    assert "pruned" in page.texts(".levels")[0]
    leaves = "[...document.querySelectorAll('.branches .branches .branches .leads .ranks')]"
    ranks = page.js(f"{leaves}.map((one) => Number(one.textContent.split(' ')[0]))")
    assert sorted(ranks) == list(range(1, len(answer) + 1))
    assert not page.one("#tree-told").is_displayed()  # these names have an order
    assert " ms of it in the service" in page.texts("#status")[0]
    page.keep("direct")


def test_looking_at_a_recommendation_lights_its_path_through_the_tree(page: Page) -> None:
    page.one(".recommended:nth-child(2) .codes").click()
    lit = page.js(
        "[...document.querySelectorAll('.node.on > .label')].map((one) => one.firstChild.textContent)"
    )
    assert "".join(lit) == page.texts(".recommended .codes")[1]


def test_what_is_folded_unfolds_and_pruned_paths_say_so(page: Page) -> None:
    page.one("#k").send_keys(Keys.HOME)
    page.until("document.querySelectorAll('.recommended').length === 1")
    assert page.texts(".more button") != []
    while folded := page.driver.find_elements(By.CSS_SELECTOR, ".more button"):
        page.driver.execute_script("arguments[0].click()", folded[0])
    kept = page.js("document.querySelectorAll('.node:not(.pruned)').length")
    pruned = page.js("document.querySelectorAll('.node.pruned').length")
    told = [[int(word) for word in text.split() if word.isdigit()][1:] for text in page.texts(".levels li")]
    assert kept == sum(numbers[0] for numbers in told)
    assert pruned == sum(sum(numbers[1:]) for numbers in told) > 0


def test_steps_unfold_before_the_answer_comes_and_cited_cards_are_marked(page: Page, writer: Writer) -> None:
    page.compose("Kesk ink", "ink b more", "Volta tents")
    titles = page.texts(".card .title")
    assert EVIL in titles  # as text, not as elements
    page.choose("reasoning")
    page.until("document.querySelectorAll('[data-state=now]').length === 3")
    states = page.js(
        "[...document.querySelectorAll('#chain-0 [data-state]')].map((one) => one.dataset.state)"
    )
    assert states == ["done", "now", "later", "later", "later"]
    assert page.texts("#chain-0 .text")[:2] == [f"ink {EVIL}", "office, cheap"]
    assert page.texts(".recommended") == []
    cited = dict(zip(titles, page.texts(".cited-by"), strict=True))
    assert cited[EVIL] == "Cited by chains 1, 3"
    page.keep("reasoning-while-written")
    writer.go_on.set()
    page.answered()
    assert page.texts("#chain-1 .text")[2:4] == ["more ink", "ink number 1"]
    assert page.js("document.querySelectorAll('[data-state=done]').length") == 15
    assert page.texts("mark")[0] == EVIL
    assert len(page.texts("#written p")) == 15  # what a screen reader is told
    led_to = " ".join(page.texts(".found")).replace(",", " ").split()
    assert sorted(int(word) for word in led_to if word.isdigit()) == list(range(1, 9))
    assert "first words after" in page.texts("#status")[0]
    assert page.texts(".levels strong") == ["Level 1", "Level 2", "Level 3"]  # of all chains' searches
    page.keep("reasoning")


def test_a_request_that_is_overtaken_is_given_up(page: Page) -> None:
    page.choose("reasoning")
    page.until("document.querySelectorAll('[data-state=now]').length === 3")
    page.choose("direct")  # the writer still waits: its call must end, or this is never answered
    page.answered()
    assert page.js("document.querySelector('#search-section').hidden") is False


def test_a_slider_asks_again(page: Page) -> None:
    page.one("#k").send_keys(Keys.ARROW_LEFT * 3)
    page.until("document.querySelectorAll('.recommended').length === 5")
    assert page.texts("output")[0] == "5"
    assert page.texts("output")[2] == "no scorer" and not page.one("#expand_width").is_enabled()


def test_the_sentence_of_an_error_is_shown_and_goes_when_it_is_mended(page: Page) -> None:
    page.one("summary").click()
    page.one("#brand").send_keys("<i>Nobody</i>")
    page.until("!document.querySelector('#error').hidden")
    assert page.texts("#error") == ["No item has the brand '<i>Nobody</i>'; give a brand of the catalogue."]
    assert page.one("#error").get_attribute("role") == "alert"
    assert page.texts(".recommended") == []
    page.keep("error")
    page.one("#brand").send_keys(Keys.BACKSPACE * 20)
    page.answered()
    assert page.js("document.querySelector('#error').hidden")


def test_the_search_box_needs_no_mouse(page: Page) -> None:
    focused = page.driver.switch_to
    page.one("body").send_keys(Keys.TAB)
    assert focused.active_element.get_attribute("href").endswith("#answer")
    before = len(page.texts(".card"))
    for _ in range(9):
        if focused.active_element.get_attribute("id") == "search":
            break
        focused.active_element.send_keys(Keys.TAB)
    box = focused.active_element
    box.send_keys("stov")  # a word that is not finished yet
    page.until("document.querySelector('#search').getAttribute('aria-expanded') === 'true'")
    box.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ARROW_UP)  # round to the last one
    active = page.one(f"#{box.get_attribute('aria-activedescendant')}")
    assert active.get_attribute("aria-selected") == "true"
    title = page.texts("#found [aria-selected=true] .title")[0]
    assert title == page.texts("#found .title")[-1] and "stoves" in title
    box.send_keys(Keys.ENTER)
    page.until(f"document.querySelectorAll('.card').length === {before + 1}")
    assert page.texts(".card .title")[-1] == title
    assert title in page.texts("#live")[0]
    assert focused.active_element == box
    box.send_keys("lamps")
    page.until("!document.querySelector('#found').hidden")
    box.send_keys(Keys.ESCAPE)
    page.until("document.querySelector('#found').hidden")
    page.one(".card:last-child .remove").send_keys(Keys.ENTER)
    page.until(f"document.querySelectorAll('.card').length === {before}")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_it_fits_a_narrow_screen_and_can_be_read_in_both_schemes(
    page: Page, writer: Writer, mode: str, dark: bool
) -> None:
    writer.go_on.set()
    page.look(360, dark)
    page.choose(mode)
    page.answered()
    page.one(".codes").click()
    assert page.js("document.documentElement.scrollWidth") <= 360
    page.keep(f"narrow-{mode}-{'dark' if dark else 'light'}")
    page.until("!document.getAnimations().length")  # colours that still change are not those that are read
    assert page.low_contrast() == []


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    chromium: webdriver.Chrome, recommender: Recommender, tmp_path: Path
) -> None:
    with served(recommender, key="the key") as address:
        page = Page(chromium, address, tmp_path)
        page.driver.get(address)
        page.until("!document.querySelector('#key-form').hidden")
        assert "needs its key" in page.texts("#key-told")[0]
        page.one("#key").send_keys("another", Keys.ENTER)
        page.until("document.querySelector('#key-told').textContent.includes('not the right one')")
        page.one("#key").send_keys("the key", Keys.ENTER)
        page.answered()
        assert page.js("localStorage.length + document.cookie.length") == 0
        assert page.complaints() == []
        page.driver.get("about:blank")


def test_a_service_that_is_gone_is_told(
    chromium: webdriver.Chrome, recommender: Recommender, tmp_path: Path
) -> None:
    with served(recommender) as address:
        page = Page(chromium, address, tmp_path)
        page.open()
    page.one("#k").send_keys(Keys.ARROW_LEFT)
    page.until("!document.querySelector('#error').hidden")
    assert "does not answer" in page.texts("#error")[0]
    page.driver.get_log("browser")
