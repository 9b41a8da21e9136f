"""Questions that are answered together get what each gets alone; chains are told while they are written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gream.data.store import Catalogue, Interactions
from gream.decoding.consistency import item_categories
from gream.decoding.filters import Filters
from gream.decoding.readable import readable_chain
from gream.decoding.recommend import Engine, Search
from gream.decoding.recommender import Recommender
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.semantic_ids.postings import PostingConstraint

HISTORIES = [["item-3", "item-1"], ["item-7"], ["item-2", "item-9", "item-4"]]


@pytest.fixture
def recommender(
    model_and_tokenizer: tuple[Any, Any],
    prompter: Prompter,
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Recommender:
    model, tokenizer = model_and_tokenizer
    for weight in model.model.layers.parameters():  # strong layers, so that a history changes the list
        weight.data.mul_(12 if weight.dim() == 2 else 1)
    engine = Engine(TorchBackend(model, tokenizer.pad_token_id), prompter, TrieConstraint(names), names)
    return Recommender(
        engine, catalogue, interactions, Search(num_beams=8, max_chain_tokens=9, temperature=1.0)
    )


@pytest.mark.parametrize("mode", ["direct", "reasoning"])
def test_a_question_among_others_gets_the_list_it_gets_alone(recommender: Recommender, mode: str) -> None:
    filters = [None, Filters(deny=["item-5", "item-6"]), None]
    questions = [
        recommender.ask(history, 4, mode, num_chains=2, filters=one)
        for history, one in zip(HISTORIES, filters, strict=True)
    ]
    together = [recommender.titled(answer) for answer in recommender.answer(questions)]
    alone = [
        recommender.recommend(history, 4, mode, num_chains=2, filters=one)
        for history, one in zip(HISTORIES, filters, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        assert [(r.item_id, r.name, r.chain) for r in one] == [(r.item_id, r.name, r.chain) for r in other]
        np.testing.assert_allclose([r.logp for r in one], [r.logp for r in other], atol=1e-5)
    assert len({tuple(r.item_id for r in one) for one in together}) > 1
    assert not {"item-5", "item-6"} & {r.item_id for r in together[1]}


def test_what_is_not_there_is_not_recommended(recommender: Recommender) -> None:
    first, second, *_ = recommender.recommend(["item-3"], 5)
    item = recommender.catalogue.index[first.item_id]
    recommender.shelf = recommender.shelf.changed(item, available=False)
    found = recommender.recommend(["item-3"], 5)
    assert found[0].item_id == second.item_id and first.item_id not in {r.item_id for r in found}


def test_questions_that_nobody_can_answer_are_refused(recommender: Recommender) -> None:
    with pytest.raises(InputError, match="history is empty"):
        recommender.ask([])
    with pytest.raises(InputError, match="needs a scorer, and this run has none"):
        recommender.ask(["item-3"], expand_width=30)
    with pytest.raises(InputError, match="holds all items that could be recommended"):
        recommender.ask(["item-3"], filters=Filters(allow=["item-3"]))
    with pytest.raises(InputError, match=r"`item-99`.*does not have; correct"):  # compares with no other id
        recommender.ask(["item-99"] * 60)
    with pytest.raises(InputError, match="nearest: `item-9`"):
        recommender.ask(["item-99"])


def test_chains_are_told_while_they_are_written(recommender: Recommender) -> None:
    told: dict[tuple[int, int], list[list[int]]] = {}
    questions = [recommender.ask(history, 3, "reasoning", num_chains=2) for history in HISTORIES]
    watched = recommender.answer(
        questions, lambda place, number, tokens: told.setdefault((place, number), []).append(list(tokens))
    )
    assert sorted(told) == [(place, number) for place in range(3) for number in range(2)]
    for (place, number), texts in told.items():
        assert texts == [texts[-1][:length] for length in range(1, len(texts) + 1)]
        whole = readable_chain(watched[place].chains[number], recommender._titles)
        assert recommender.so_far(texts[-1]).evidence == whole.evidence  # nonsense has one step
    assert [a.chains for a in watched] == [a.chains for a in recommender.answer(questions)]


def loosen(recommender: Recommender) -> None:
    """Read the codes of its names as unordered ones."""
    names = Names(replace(recommender.engine.names.layout, ordered=False), recommender.engine.names.codes)
    prompter = Prompter(recommender.engine.prompter.tokenizer, names, max_history=5)
    recommender.engine = replace(
        recommender.engine, constraint=PostingConstraint(names), names=names, prompter=prompter
    )


@pytest.mark.parametrize("ordered", [True, False])
def test_the_tree_of_a_search_holds_every_path_to_its_list(recommender: Recommender, ordered: bool) -> None:
    if not ordered:
        loosen(recommender)
    [answer] = recommender.answer([recommender.ask(["item-3"], 3)])
    names, layout = recommender.engine.names, recommender.engine.names.layout
    tree = recommender.tree(answer)
    assert len(tree) == layout.num_codebooks and all(len(level) <= 8 for level in tree)
    for depth, level in enumerate(tree, start=1):
        leads = [rank for prefix in level for rank in prefix.items]
        assert set(leads) == {1, 2, 3}
        for prefix in level:
            assert prefix.kept and prefix.codes.count("<") == depth
            for rank in prefix.items:
                tokens = names.spell(int(answer.items[rank - 1])).replace("><", "> <").split()
                assert set(prefix.codes.replace("><", "> <").split()) <= set(tokens)
        best = [min(prefix.items, default=9) for prefix in level]
        assert best == sorted(best)


@pytest.mark.parametrize("ordered", [True, False])
def test_the_tree_of_a_search_that_prunes_tells_what_it_pruned(
    recommender: Recommender, ordered: bool
) -> None:
    """A pruner says nothing of the last level, and what it drops leads nowhere, though its codes may."""
    if not ordered:
        loosen(recommender)
    categories = item_categories(recommender.catalogue.categories)
    recommender.engine = replace(recommender.engine, categories=categories)
    recommender.search = replace(recommender.search, prune_threshold=0.9)
    [answer] = recommender.answer([recommender.ask(["item-20"], 5)])
    tree = recommender.tree(answer)
    assert [len(level) for level in tree] == [
        len(kept) + (len(answer.pruned[depth]) if depth < 2 else 0) for depth, kept in enumerate(answer.kept)
    ]
    pruned = [prefix for level in tree for prefix in level if not prefix.kept]
    assert pruned and not any(prefix.items for prefix in pruned)
    assert all(prefix.kept for prefix in tree[-1])
