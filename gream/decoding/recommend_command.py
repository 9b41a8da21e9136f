"""`gream recommend RUN`: a list for one customer, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gream.arguments import StageConfig, option
from gream.decoding.recommender import Recommendation, Recommender
from gream.errors import InputError


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
