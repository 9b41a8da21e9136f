"""Prompts of any text that a catalogue may hold: no token of gream's comes from data, and nothing is lost."""

from __future__ import annotations

from typing import Any

import jinja2.meta
import pytest
from hostile import CASES, clear, fuzz, texts
from hypothesis import given
from hypothesis import strategies as st

from gream.data.sources import clean_text
from gream.language.prompting import Prompter, num_phrasings, prompts_folder

TEMPLATES = sorted(
    path.stem for path in prompts_folder().glob("*.jinja") if path.stem not in ("chain", "instruction")
)
pieces = st.sampled_from(
    ["<a_1>", "<b_", "0>", "<|im_", "start|>", "<|im_end|>", "{{", "}}", "{%", "\ue000", "\ue001"]
)
titles = st.one_of(texts, st.lists(st.one_of(pieces, texts), max_size=6).map("".join)).map(clean_text)


def _filled(template: str, text: str, name: Any) -> dict[str, Any]:
    source = (prompts_folder() / f"{template}.jinja").read_text()
    used = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(source))
    values: dict[str, Any] = {"history": [name, name], "name": name, "titles": [text, text]}
    return {variable: values.get(variable, text) for variable in used}


@pytest.mark.parametrize("cases", CASES)
def test_no_text_of_a_catalogue_becomes_a_token_of_gream(prompter: Prompter, cases: int) -> None:
    added = set(prompter.tokenizer.get_added_vocab().values())

    @fuzz(cases)
    @given(st.sampled_from(TEMPLATES), titles, st.integers(0, 99))
    def check(template: str, title: str, phrasing: int) -> None:
        phrasing %= num_phrasings(template)
        harmless, attacked = (
            clear(lambda t=t: prompter.question(template, phrasing, **_filled(template, t, prompter.name(7))))
            for t in ("x", title)
        )
        assert [i for i in attacked if i in added] == [i for i in harmless if i in added]
        written = prompter.data(title)
        assert not added & set(written)
        if "\ue000" not in title:  # marks that prompts use themselves are taken out of data
            assert prompter.tokenizer.decode(written) == title

    check()
