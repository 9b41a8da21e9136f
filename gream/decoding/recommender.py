"""`Recommender`: a finished run, from raw item ids to titled recommendations with reasons.

One customer: `recommend`. Many at once: `ask` turns each request into a `Question` and refuses what cannot be
answered, `answer` takes questions of one search together. A question that is asked with others gets the list
that it would get alone.

Legend: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from gream.data.store import Catalogue, Interactions, load_catalogue, load_interactions
from gream.decoding.answer import Answer
from gream.decoding.chains import WatchChain, readable_text
from gream.decoding.filters import Aisles, Filters, Shelf
from gream.decoding.readable import item_titles, readable_chain
from gream.decoding.recommend import Engine, Search, load_engine, recommend_many
from gream.decoding.run_file import check_fit, read_run_settings, read_search
from gream.decoding.search_tree import Prefix, search_tree
from gream.errors import InputError, NotFoundError
from gream.language.reasoning import Chain, split_unfinished
from gream.semantic_ids.layout import load_names

RUN_FILE = "run.json"  # written by `gream run`: the folders and settings that the run is served with
_TYPED = 50  # a history of fewer ids may have been typed by a person


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `chain` is the reasoning that found it, in reasoning mode."""

    rank: int
    item_id: str
    title: str
    logp: float
    score: float | None = None
    chain: Chain | None = None
    name: str = ""  # the tokens of the item's codes
    chain_number: int | None = None  # of that chain among those that were written, from 0


@dataclass(frozen=True, eq=False)
class Question:
    """One request that can be answered; those with equal `search` may be answered together."""

    items: list[int]  # the history, dense, oldest first
    search: Search
    allowed: np.ndarray  # (N,) bool


class Recommender:
    """Recommends from a run's folder.

    Example:
        A list for one customer, after `make demo`:

        >>> from gream import Recommender
        >>> rec = Recommender.load("runs/demo")
        >>> found = rec.recommend(history=["item-0001", "item-0003"], k=5)
        >>> [r.rank for r in found]
        [1, 2, 3, 4, 5]
        >>> {r.item_id for r in found} & {"item-0001", "item-0003"}  # nothing that was bought
        set()

        With the reasons, which `chain` holds step by step:

        >>> best, *_ = rec.recommend(["item-0001"], mode="reasoning", num_chains=2)
        >>> sorted(vars(best.chain))
        ['evidence', 'intent', 'preference', 'recommendation', 'rewritten_history', 'well_formed']

        Several customers at once:

        >>> questions = [rec.ask(history, k=3) for history in (["item-0001"], ["item-0002", "item-0005"])]
        >>> [len(rec.titled(answer)) for answer in rec.answer(questions)]
        [3, 3]
    """

    def __init__(
        self, engine: Engine, catalogue: Catalogue, interactions: Interactions, search: Search
    ) -> None:
        self.engine = engine
        self.catalogue = catalogue
        self.interactions = interactions
        self.search = search
        self.shelf = Shelf.of(catalogue)  # what `ask` looks at; a new one may be put in its place
        self._aisles = Aisles(catalogue)
        self._users = {user_id: user for user, user_id in enumerate(interactions.user_ids)}
        self._titles = item_titles(engine.names, catalogue)

    @classmethod
    def load(
        cls,
        run: str | Path,
        engine: str = "torch",
        *,
        url: str = "",
        concurrent: bool = False,
        before: Recommender | None = None,
    ) -> Recommender:
        """Load a finished run.

        Args:
            run: the run's folder, such as `runs/demo`.
            engine: "torch", "vllm", or "openai" for vLLM servers that run elsewhere.
            url: of those servers, with commas between; needed by "openai", and by no other.
            concurrent: threads will ask at the same time; what that means is told at `load_engine`.
            before: loaded in the same way, it gives its model away where the run still has the same.

        Raises:
            InputError: the run is not finished or was made by an older gream, its search does not fit its
                names, its folders do not belong together, or the engine cannot be reached.
        """
        run = Path(run)
        path = run / RUN_FILE
        if not path.is_file():
            raise InputError(
                f"{run} is no finished run: {RUN_FILE} is missing; run `gream run RECIPE` to its end."
            )
        settings = read_run_settings(path)
        search, max_history = read_search(settings, path)
        check_fit(search, load_names(run / settings["sids"]), bool(settings["scorer"]), path)
        data = run / settings["data"]
        catalogue, interactions = load_catalogue(data), load_interactions(data)
        loaded = load_engine(
            run / settings["sids"],
            run / settings["model"],
            run / settings["scorer"] if settings["scorer"] else None,
            engine=engine,
            url=url,
            concurrent=concurrent,
            max_history=max_history,
            catalogue=catalogue,
            purchases=interactions.sequences,
            before=before.engine if before else None,
        )
        return cls(loaded, catalogue, interactions, search)

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        mode: str = "direct",
        *,
        num_chains: int = 4,
        expand_width: int | None = None,
        exclude_seen: bool = True,
        filters: Filters | None = None,
        seed: int = 0,
    ) -> list[Recommendation]:
        """Recommend items to follow a history.

        Args:
            history: raw item ids, oldest first.
            k: length of the list.
            mode: "direct" or "reasoning".
            num_chains: chains that reasoning mode samples.
            expand_width: prefixes that the scorer sees at every level; None searches without the scorer.
            exclude_seen: leave out the items of the history.
            filters: what the list may hold; None: everything.
            seed: seed of the sampled chains.

        Raises:
            InputError: unknown or no items in the history, or settings out of range.
        """
        question = self.ask(
            history,
            k,
            mode,
            num_chains=num_chains,
            expand_width=expand_width,
            exclude_seen=exclude_seen,
            filters=filters,
            seed=seed,
        )
        [answer] = self.answer([question])
        return self.titled(answer)

    def ask(
        self,
        history: Sequence[str],
        k: int = 10,
        mode: str = "direct",
        *,
        num_chains: int = 4,
        num_beams: int | None = None,
        expand_width: int | None = None,
        exclude_seen: bool = True,
        filters: Filters | None = None,
        seed: int = 0,
    ) -> Question:
        """Check a request and make a question of it that `answer` takes with others.

        What is asked is told at `recommend`; `num_beams` is the number of prefixes that the search keeps,
        None for as many as the run is served with.

        Raises:
            InputError: what `recommend` raises.
        """
        items = self.catalogue.lookup(list(history), "the history", suggest=len(history) < _TYPED)
        if not items:
            raise InputError("The history is empty; give at least one item that was bought.")
        search = replace(
            self.search,
            k=k,
            mode=mode,
            num_chains=num_chains,
            expand_width=expand_width,
            choose="merge" if expand_width is None else self.search.choose,  # only a scorer can choose
            agree=min(self.search.agree, num_chains),
            seed=seed,
            num_beams=max(num_beams or self.search.num_beams, k),
        )
        if expand_width is not None and self.engine.scorer is None:
            raise InputError("`expand_width` needs a scorer, and this run has none; leave it out.")
        allowed = self._aisles.mask(filters or Filters(), self.shelf)
        if exclude_seen:
            allowed[items] = False
        if not allowed.any():
            raise InputError("The history holds all items that could be recommended; allow what was bought.")
        return Question(items, search, allowed)

    def answer(self, questions: Sequence[Question], watch: WatchChain | None = None) -> list[Answer]:
        """Answer questions of one search together, each as it would be answered alone.

        Args:
            questions: what `ask` gave.
            watch: told of the chains while they are written, with the places of their questions.
        """
        [search] = {question.search for question in questions}
        return recommend_many(
            self.engine,
            [question.items for question in questions],
            search,
            allowed=lambda part: torch.from_numpy(np.stack([one.allowed for one in questions[part]])),
            numbers=[0] * len(questions),
            watch=watch,
        )

    def history_of(self, user_id: str) -> list[str]:
        """All known purchases of a user as raw item ids, oldest first.

        Raises:
            NotFoundError: an unknown user.
        """
        if user_id not in self._users:
            raise NotFoundError(
                f"User {user_id!r} is unknown; give a user of the prepared data, or a history."
            )
        sequence = self.interactions.sequences[self._users[user_id]]
        return [self.catalogue.item_ids[i] for i in sequence]

    def titled(self, answer: Answer) -> list[Recommendation]:
        """Put ids, titles, names and readable chains to an answer."""
        chains = [readable_chain(text, self._titles) for text in answer.chains]
        return [
            Recommendation(
                rank + 1,
                self.catalogue.item_ids[item],
                self.catalogue.titles[item],
                float(answer.logps[rank]),
                None if answer.scores is None else float(answer.scores[rank]),
                chains[answer.chain_of[rank]] if chains else None,
                self.engine.names.spell(item),
                answer.chain_of[rank] if chains else None,
            )
            for rank, item in enumerate(answer.items.tolist())
        ]

    def tree(self, answer: Answer) -> list[list[Prefix]]:
        """Tell which prefixes the searches behind an answer kept and pruned at every level."""
        return search_tree(answer, self.engine.constraint)

    def so_far(self, tokens: list[int]) -> Chain:
        """Split a chain that is still being written into its steps, with titles in place of names."""
        # Decoded whole each time: a token alone may be half a letter.
        text = readable_text(self.engine.prompter, tokens)
        return readable_chain(text, self._titles, split_unfinished)
