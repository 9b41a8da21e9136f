"""A few customers of an evaluation to look at: history, chain, lists, and the purchase that came next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from gream.data.store import Case, Catalogue, Interactions
from gream.decoding.answer import Answer
from gream.decoding.readable import item_titles, readable_chain
from gream.semantic_ids.layout import Names

NUM_EXAMPLES = 3
SHOWN_HISTORY = 20  # newest purchases that an example shows

Examples = dict[str, list[dict[str, Any]]]  # what `examples.json` holds: customers, good_chains, bad_chains


def draw_examples(
    cases: Sequence[Case],
    answers: Mapping[str, Sequence[Answer]],
    catalogue: Catalogue,
    interactions: Interactions,
    names: Names,
    *,
    length: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return the customers of `examples.json`: drawn by seed, in the order of users.

    Args:
        cases: all questions of the evaluation.
        answers: for every search one answer for each case; `reasoning` among them gives the chains.
        catalogue: gives the titles.
        interactions: gives the users' raw ids.
        names: turns names in chains into titles.
        length: items of a list that are shown.
        seed: seed of the draw.

    Returns:
        For each customer `user_id`, `history` and `target` (titles), `lists` (by search: item_id, title,
        logp, score) and `chain`: the five steps of the chain that found the first item of `reasoning`, with
        titles in place of names, `well_formed`, and the raw `text`; None without reasoning.
    """
    size = min(NUM_EXAMPLES, len(cases))
    drawn = np.random.default_rng(seed).choice(len(cases), size=size, replace=False)
    titles = item_titles(names, catalogue)
    return [
        {
            "user_id": interactions.user_ids[cases[index].user],
            "history": [catalogue.titles[i] for i in cases[index].history[-SHOWN_HISTORY:].tolist()],
            "target": catalogue.titles[cases[index].target],
            "lists": {name: _listed(found[index], catalogue, length) for name, found in answers.items()},
            "chain": _chain(answers["reasoning"][index], titles) if "reasoning" in answers else None,
        }
        for index in np.sort(drawn).tolist()
    ]


def _listed(answer: Answer, catalogue: Catalogue, length: int) -> list[dict[str, Any]]:
    return [
        {
            "item_id": catalogue.item_ids[item],
            "title": catalogue.titles[item],
            "logp": round(float(answer.logps[rank]), 4),
            "score": None if answer.scores is None else round(float(answer.scores[rank]), 4),
        }
        for rank, item in enumerate(answer.items[:length].tolist())
    ]


def _chain(answer: Answer, titles: dict[str, str]) -> dict[str, Any]:
    text = answer.chains[answer.chain_of[0]]
    return {**asdict(readable_chain(text, titles)), "text": text}
