"""Alignment rows about items and histories: what they ask and what they answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gream.data.store import TEST, TRAIN, VALIDATION, Catalogue, Interactions
from gream.language.alignment import TASKS
from gream.language.history_tasks import (
    MOST_TITLES,
    names_to_next_description_rows,
    names_to_next_title_rows,
    names_to_titles_rows,
    next_item_rows,
    repeat_history_rows,
    sequence_rows,
    titles_to_names_rows,
    titles_to_next_name_rows,
)
from gream.language.item_tasks import DESCRIPTION_WORDS
from gream.language.prompting import Prompter, num_phrasings
from gream.language.rows import Row, Source, ask

OF_ITEMS = ("title_to_name", "description_to_name", "item_to_name")
TO_ITEMS = ("name_to_title", "name_to_description", "name_to_item")


def interactions_of(sequences: list[list[int]]) -> Interactions:
    arrays = [np.asarray(s, dtype=np.int64) for s in sequences]
    splits = [np.asarray([TRAIN] * (len(s) - 2) + [VALIDATION, TEST], dtype=np.int8) for s in sequences]
    return Interactions(user_ids=[str(u) for u in range(len(sequences))], sequences=arrays, splits=splits)


def names_in(ids: list[int], prompter: Prompter) -> list[tuple[int, ...]]:
    tokens = [i for i in ids if i in prompter.item_block]
    return [tuple(tokens[i : i + 3]) for i in range(0, len(tokens), 3)]


def spelled(items: list[int] | range, prompter: Prompter) -> list[tuple[int, ...]]:
    return [tuple(prompter.name_ids(i)) for i in items]


def told(row: Row, prompter: Prompter) -> tuple[str, str]:
    """The question and the answer as text, without the turns around them."""
    question = prompter.tokenizer.decode(row[0])
    assert row[1][-1] == prompter.end_of_turn
    return question.split("user\n")[1].split("<|im_end|>")[0], prompter.tokenizer.decode(row[1][:-1])


@pytest.fixture
def source(catalogue: Catalogue, prompter: Prompter) -> Source:
    """Thirty users who bought 4, 9, 7 and 2, and two items that are held out."""
    return Source(catalogue, interactions_of([[4, 9, 7, 2, 20, 21]] * 30), prompter)


def test_a_next_item_row_is_a_direct_prompt_and_one_name(catalogue: Catalogue, prompter: Prompter) -> None:
    source = Source(catalogue, interactions_of([[4, 9, 1, 2]]), prompter)
    [(prompt, answer)] = next_item_rows(source, np.random.default_rng(0))
    assert prompt in [prompter.direct([4], phrasing) for phrasing in range(num_phrasings("direct"))]
    assert answer == [*prompter.name_ids(9), prompter.end_of_turn]


def test_half_of_the_next_item_rows_ask_in_the_words_of_serving(
    catalogue: Catalogue, prompter: Prompter
) -> None:
    """1,000 rows with one history: 500 served, and four other phrasings of 125; five deviations are wide."""
    source = Source(catalogue, interactions_of([[4, 9, 1, 2]] * 1000), prompter)
    prompts = [prompt for prompt, _ in next_item_rows(source, np.random.default_rng(0))]
    numbers = [prompts.count(prompter.direct([4], k)) for k in range(num_phrasings("direct"))]
    assert sum(numbers) == 1000 and len(numbers) == 5
    assert abs(numbers[0] - 500) < 80 and all(abs(n - 125) < 55 for n in numbers[1:])


def test_a_sequence_row_answers_with_the_training_part(catalogue: Catalogue, prompter: Prompter) -> None:
    source = Source(catalogue, interactions_of([[4, 9, 7, 1, 2]]), prompter)
    [(question, answer)] = sequence_rows(source, np.random.default_rng(0))
    assert names_in(question, prompter) == []
    assert names_in(answer, prompter) == spelled([4, 9, 7], prompter)
    assert answer[-1] == prompter.end_of_turn


def test_a_long_sequence_is_cut_into_pieces_that_share_one_purchase(
    catalogue: Catalogue, prompter: Prompter
) -> None:
    source = Source(catalogue, interactions_of([[*range(12), 20, 21]]), prompter)  # prompts show five
    pieces = [names_in(answer, prompter) for _, answer in sequence_rows(source, np.random.default_rng(0))]
    cut = (range(6), range(5, 11), range(10, 12))
    assert pieces == [spelled(piece, prompter) for piece in cut]


def test_a_repeated_history_is_the_newest_training_purchases_it_was_shown(
    catalogue: Catalogue, prompter: Prompter
) -> None:
    source = Source(catalogue, interactions_of([[*range(9), 20, 21]] * 30), prompter)
    rows = repeat_history_rows(source, np.random.default_rng(0))
    shown = {tuple(names_in(question, prompter)) for question, _ in rows}
    assert all(names_in(question, prompter) == names_in(answer, prompter) for question, answer in rows)
    names = spelled(range(9), prompter)
    assert shown == {tuple(names[max(0, n - 5) : n]) for n in range(1, 10)}


def test_fused_rows_ask_for_the_words_of_the_purchase_after_the_names(source: Source) -> None:
    prompter, catalogue = source.prompter, source.catalogue
    bought = [4, 9, 7, 2]
    for make, words in (
        (names_to_next_title_rows, catalogue.titles),
        (names_to_next_description_rows, catalogue.descriptions),
    ):
        asked = set()
        for row in make(source, np.random.default_rng(0)):
            cut = len(names_in(row[0], prompter))
            assert names_in(row[0], prompter) == spelled(bought[:cut], prompter)
            assert told(row, prompter)[1] == words[bought[cut]]
            asked.add(cut)
        assert asked == {1, 2, 3}


def test_titles_of_a_history_ask_for_the_next_name(source: Source) -> None:
    prompter, titles = source.prompter, source.catalogue.titles
    bought = [4, 9, 7, 2]
    for row in titles_to_next_name_rows(source, np.random.default_rng(0)):
        question, _ = told(row, prompter)
        cut = sum(titles[item] in question for item in bought)
        assert "\n".join(titles[item] for item in bought[:cut]) in question
        assert names_in(row[0], prompter) == [] and names_in(row[1], prompter) == spelled(
            [bought[cut]], prompter
        )


def test_titles_and_names_of_a_history_answer_each_other(source: Source) -> None:
    prompter, titles = source.prompter, source.catalogue.titles
    bought = [4, 9, 7, 2]
    forth = titles_to_names_rows(source, np.random.default_rng(0))
    back = names_to_titles_rows(source, np.random.default_rng(0))
    assert len(forth) == len(back) == 30
    for (title_row, names), (name_row, title_answer) in zip(
        [(told(row, prompter)[0], names_in(row[1], prompter)) for row in forth],
        [(names_in(row[0], prompter), told(row, prompter)[1]) for row in back],
        strict=True,
    ):
        lines = "\n".join(titles[item] for item in bought[: len(names)])
        assert names == name_row == spelled(bought[: len(names)], prompter)
        assert lines in title_row and title_answer == lines


def test_a_row_spells_a_few_of_the_newest_titles_only(catalogue: Catalogue, prompter: Prompter) -> None:
    """Items 0 to 17 in this order, cut anywhere: up to eight in a row that end at the cut."""
    longer = Prompter(prompter.tokenizer, prompter.names, max_history=MOST_TITLES + 5)
    source = Source(catalogue, interactions_of([list(range(20))] * 100), longer)
    rows = titles_to_names_rows(source, np.random.default_rng(0))
    shown = {tuple(names_in(answer, longer)) for _, answer in rows}
    names = spelled(range(18), longer)
    assert shown == {tuple(names[max(0, n - MOST_TITLES) : n]) for n in range(1, 19)}


@pytest.mark.parametrize("task", [*OF_ITEMS, *TO_ITEMS])
def test_an_item_and_its_words_answer_each_other(task: str, source: Source) -> None:
    prompter, catalogue = source.prompter, source.catalogue
    rows = TASKS[task](source, np.random.default_rng(0))
    assert len(rows) == len(catalogue)
    wanted = {
        "title": [catalogue.titles[6]],
        "description": [catalogue.descriptions[6]],
        "item": [catalogue.titles[6], catalogue.descriptions[6]],
    }[task.replace("_to_name", "").replace("name_to_", "")]
    question, answer = told(rows[6], prompter)
    if task in OF_ITEMS:
        assert names_in(rows[6][1], prompter) == spelled([6], prompter) and len(rows[6][1]) == 4
        assert all(words in question for words in wanted)
    else:
        assert names_in(rows[6][0], prompter) == spelled([6], prompter)
        assert answer == "\n".join(wanted)


@pytest.mark.parametrize("task", [*OF_ITEMS, *TO_ITEMS])
def test_an_item_without_the_words_gives_no_row(task: str, source: Source) -> None:
    catalogue = source.catalogue
    blank = replace(
        catalogue,
        titles=["", *catalogue.titles[1:]],
        descriptions=[catalogue.descriptions[0], " \n", *catalogue.descriptions[2:]],
    )
    rows = TASKS[task](replace(source, catalogue=blank), np.random.default_rng(0))
    missing = {0, 1} if "item" in task else {0} if "title" in task else {1}
    named = [names_in(prompt + answer, source.prompter) for prompt, answer in rows]
    kept = [item for item in range(len(catalogue)) if item not in missing]
    assert named == [spelled([item], source.prompter) for item in kept]


def test_a_purchase_without_the_words_is_left_out_and_a_target_without_them_gives_no_row(
    source: Source,
) -> None:
    titles = ["" if item in (9, 7) else title for item, title in enumerate(source.catalogue.titles)]
    blank = replace(source, catalogue=replace(source.catalogue, titles=titles))
    prompter = source.prompter
    next_titles = names_to_next_title_rows(blank, np.random.default_rng(0))
    assert 0 < len(next_titles) < 30
    assert {told(row, prompter)[1] for row in next_titles} == {titles[2]}
    rows = titles_to_names_rows(blank, np.random.default_rng(0))
    assert {tuple(names_in(answer, prompter)) for _, answer in rows} == {
        tuple(spelled([4], prompter)),
        tuple(spelled([4, 2], prompter)),
    }


def test_a_long_description_is_cut_between_words(source: Source) -> None:
    long = " ".join(f"word{n}" for n in range(100))
    catalogue = replace(source.catalogue, descriptions=[long, *source.catalogue.descriptions[1:]])
    row = TASKS["name_to_description"](replace(source, catalogue=catalogue), np.random.default_rng(0))[0]
    assert told(row, source.prompter)[1].split() == long.split()[:DESCRIPTION_WORDS]


def test_a_row_draws_every_phrasing_of_its_question_evenly(prompter: Prompter) -> None:
    """800 rows, four phrasings: 200 each, and five deviations are 61."""
    rng = np.random.default_rng(0)
    prompts = [ask(prompter, rng, "title_to_name", [], title="lamp")[0] for _ in range(800)]
    numbers = [prompts.count(prompter.question("title_to_name", k, title="lamp")) for k in range(4)]
    assert sum(numbers) == 800 and all(abs(n - 200) < 61 for n in numbers)
