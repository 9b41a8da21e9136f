"""A person at a browser before a real service over a tiny recommender, whose chains a script writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gream.data.store import Catalogue, Interactions
from gream.decoding.consistency import item_categories
from gream.decoding.recommend import Engine, Search
from gream.decoding.recommender import Recommender
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.semantic_ids.postings import PostingConstraint

if TYPE_CHECKING:  # the tests skip where the extras are missing; this file is read before they can
    from selenium import webdriver

    from tests.serving.page.browser import Page, Writer


@pytest.fixture
def writer(model_and_tokenizer: tuple[Any, Any], prompter: Prompter) -> Writer:
    from tests.serving.page.browser import Writer

    model, tokenizer = model_and_tokenizer
    for weight in model.model.layers.parameters():  # strong layers, so that a history changes the list
        weight.data.mul_(12 if weight.dim() == 2 else 1)
    return Writer(TorchBackend(model, tokenizer.pad_token_id), prompter)


@pytest.fixture
def recommender(
    writer: Writer, prompter: Prompter, names: Names, catalogue: Catalogue, interactions: Interactions
) -> Recommender:
    from tests.serving.page.browser import EVIL

    catalogue = replace(catalogue, titles=[*catalogue.titles[:5], EVIL, *catalogue.titles[6:]])
    categories = item_categories(catalogue.categories)
    engine = Engine(writer, prompter, TrieConstraint(names), names, categories=categories)
    return Recommender(engine, catalogue, interactions, Search(num_beams=12, prune_threshold=0.9))


@pytest.fixture
def unordered(recommender: Recommender) -> Recommender:
    """The same shop under the same codes, read as parallel ones."""
    engine = recommender.engine
    names = Names(replace(engine.names.layout, ordered=False), engine.names.codes)
    prompter = Prompter(engine.prompter.tokenizer, names, max_history=5)
    engine = replace(engine, constraint=PostingConstraint(names), names=names, prompter=prompter)
    return Recommender(engine, recommender.catalogue, recommender.interactions, recommender.search)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    from tests.serving.page.browser import CHROMIUM, DRIVER, started

    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or chromedriver; on Debian they are the packages chromium, chromium-driver")
    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def page(chromium: webdriver.Chrome, recommender: Recommender, tmp_path: Path) -> Iterator[Page]:
    from tests.serving.page.browser import Page, served

    with served(recommender) as address:
        page = Page(chromium, address, tmp_path)
        page.look(1440, dark=False)
        page.open()
        yield page
        assert page.complaints() == []
        assert page.js("document.title") == "gream: recommendations with their reasons"
        loaded = page.js("performance.getEntriesByType('resource').map((one) => one.name)")
        assert len(loaded) > 5 and all(one.startswith(address) for one in loaded)
        chromium.get("about:blank")  # ends its requests, so that the service can stop
