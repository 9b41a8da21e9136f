"""`Recommender`: a finished run, from raw item ids to titled recommendations with reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gream.arguments import StageConfig, option
from gream.data.store import Catalogue, Interactions, load_catalogue, load_interactions
from gream.decoding.answer import Answer
from gream.decoding.recommend import Engine, Search, load_engine, recommend_many
from gream.errors import InputError
from gream.language.reasoning import Chain, split_chain
from gream.semantic_ids.layout import Names

RUN_FILE = "run.json"  # written by `gream run`: the folders and settings that the run is served with
# The fields of `Search` that it holds; what a request gives goes before them.
SERVED = (
    "num_beams", "rule", "scorer_weight", "scorer_levels", "prune_threshold", "prune_level",
    "num_chains", "max_chain_tokens", "temperature", "choose", "agree",
)  # fmt: skip
_NAME = re.compile(r"(?:<[a-z]+_\d+>)+")


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; `chain` is the reasoning that found it, in reasoning mode."""

    rank: int
    item_id: str
    title: str
    logp: float
    score: float | None = None
    chain: Chain | None = None


@dataclass(kw_only=True)
class RecommendConfig(StageConfig):
    """Settings of `gream recommend`."""

    history: str = option("", doc="raw item ids, oldest first, with commas between")
    user: str = option("", doc="a user of the prepared data, instead of a history")
    k: int = option(10, doc="length of the list")
    mode: str = option("direct", doc="direct, or reasoning")
    engine: str = option("torch", doc="torch, or vllm")
    num_chains: int = option(4, doc="reasoning chains that are sampled and merged")
    expand_width: int = option(0, doc="prefixes that the scorer sees at every level; 0 searches without it")
    exclude_seen: bool = option(True, doc="leave out the items of the history")


class Recommender:
    """Recommends from a run's folder.

    Example:
        rec = Recommender.load("runs/demo")
        for r in rec.recommend(["item-17", "item-230"], k=5):
            print(r.rank, r.title)
    """

    def __init__(
        self, engine: Engine, catalogue: Catalogue, interactions: Interactions, search: Search
    ) -> None:
        self.engine = engine
        self.catalogue = catalogue
        self.interactions = interactions
        self.search = search
        self._users = {user_id: user for user, user_id in enumerate(interactions.user_ids)}
        self._titles = item_titles(engine.names, catalogue)

    @classmethod
    def load(cls, run: str | Path, engine: str = "torch") -> Recommender:
        """Load a finished run.

        Args:
            run: the run's folder, such as `runs/demo`.
            engine: "torch" or "vllm".

        Raises:
            InputError: the run is not finished or was made by an older gream, or its folders do not belong
                together.
        """
        run = Path(run)
        path = run / RUN_FILE
        if not path.is_file():
            raise InputError(
                f"{run} is no finished run: {RUN_FILE} is missing; run `gream run RECIPE` to its end."
            )
        settings = json.loads(path.read_text())
        needed = ("data", "sids", "model", "scorer", "max_history", *SERVED)
        missing = [name for name in needed if name not in settings]
        if missing:
            raise InputError(
                f"{path} was written by an older gream and lacks {', '.join(missing)}; "
                "run `gream run RECIPE` again."
            )
        data = run / settings["data"]
        catalogue, interactions = load_catalogue(data), load_interactions(data)
        loaded = load_engine(
            run / settings["sids"],
            run / settings["model"],
            run / settings["scorer"] if settings["scorer"] else None,
            engine=engine,
            max_history=settings["max_history"],
            catalogue=catalogue,
            purchases=interactions.sequences,
        )
        search = Search(**{name: settings[name] for name in SERVED})
        if search.scorer_levels is not None:  # JSON has no tuples
            search = replace(search, scorer_levels=tuple(search.scorer_levels))
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
            seed: seed of the sampled chains.

        Raises:
            InputError: unknown or no items in the history, or settings out of range.
        """
        items = self.catalogue.lookup(list(history), "the history")
        search = replace(
            self.search,
            k=k,
            mode=mode,
            num_chains=num_chains,
            expand_width=expand_width,
            choose="merge" if expand_width is None else self.search.choose,  # only a scorer can choose
            agree=min(self.search.agree, num_chains),
            seed=seed,
            num_beams=max(self.search.num_beams, k),
        )
        allowed = torch.ones(1, len(self.catalogue), dtype=torch.bool)
        if exclude_seen:
            allowed[0, items] = False
        [answer] = recommend_many(self.engine, [items], search, allowed=lambda part: allowed[part])
        return self._titled(answer)

    def history_of(self, user_id: str) -> list[str]:
        """All known purchases of a user as raw item ids, oldest first.

        Raises:
            InputError: an unknown user.
        """
        if user_id not in self._users:
            raise InputError(f"User {user_id!r} is unknown; give a user of the prepared data, or a history.")
        sequence = self.interactions.sequences[self._users[user_id]]
        return [self.catalogue.item_ids[i] for i in sequence]

    def _titled(self, answer: Answer) -> list[Recommendation]:
        chains = [readable_chain(text, self._titles) for text in answer.chains]
        return [
            Recommendation(
                rank + 1,
                self.catalogue.item_ids[item],
                self.catalogue.titles[item],
                float(answer.logps[rank]),
                None if answer.scores is None else float(answer.scores[rank]),
                chains[answer.chain_of[rank]] if chains else None,
            )
            for rank, item in enumerate(answer.items.tolist())
        ]


def recommend_once(config: RecommendConfig) -> tuple[list[str], list[Recommendation]]:
    """Load a run and recommend; returns the history's titles and the list.

    Raises:
        InputError: neither or both of `history` and `user` are given, or what `Recommender` raises.
    """
    if bool(config.history) == bool(config.user):
        raise InputError("Give either --history ID,ID or --user ID.")
    recommender = Recommender.load(config.run_dir, engine=config.engine)
    typed = [item.strip() for item in config.history.split(",") if item.strip()]
    history = recommender.history_of(config.user) if config.user else typed
    found = recommender.recommend(
        history,
        k=config.k,
        mode=config.mode,
        num_chains=config.num_chains,
        expand_width=config.expand_width or None,
        exclude_seen=config.exclude_seen,
        seed=config.seed,
    )
    catalogue = recommender.catalogue
    return [catalogue.titles[i] for i in catalogue.lookup(history, "the history")], found


def format_recommendations(history: Sequence[str], found: Sequence[Recommendation]) -> str:
    """Lay out a history and its list for the terminal; the reasoning shown is the best item's."""
    lines = ["History, oldest first:", *(f"  {title}" for title in history)]
    if found and found[0].chain is not None:
        steps = {k: v for k, v in vars(found[0].chain).items() if k != "well_formed" and v}
        lines += ["Reasoning:", *(f"  {name.replace('_', ' ')}: {text}" for name, text in steps.items())]
    lines.append("Recommended:")
    for r in found:
        score = "" if r.score is None else f"  scorer {r.score:.2f}"
        lines.append(f"  {r.rank:>3}. {r.title} [{r.item_id}]  log-probability {r.logp:.2f}{score}")
    return "\n".join(lines)


def item_titles(names: Names, catalogue: Catalogue) -> dict[str, str]:
    """Spelled name to title, for `readable_chain`."""
    return {names.spell(item): title for item, title in enumerate(catalogue.titles)}


def readable_chain(text: str, titles: dict[str, str]) -> Chain:
    """Split a chain into its steps with titles in place of names; a name that no item has stays as it is."""
    return split_chain(_NAME.sub(lambda match: _spelled_out(match[0], titles), text))


def _spelled_out(names: str, titles: dict[str, str]) -> str:
    """Replace a run of names written without separators, such as the rewritten history."""
    level_one = [m.start() for m in re.finditer(r"<a_", names)] or [0]
    pieces = [names[i:j] for i, j in zip(level_one, [*level_one[1:], len(names)], strict=True)]
    return ", ".join(titles.get(piece, piece) for piece in pieces)
