"""`gream recommend RUN`: a list for one customer in the terminal, or lists for many in Parquet files."""

from __future__ import annotations

import csv
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gream.arguments import StageConfig, option
from gream.artifacts import fingerprint
from gream.decoding.filters import Filters
from gream.decoding.history_file import Requests, file_requests, known_requests
from gream.decoding.recommend_file import Columns, run_fingerprint, told, write_lists
from gream.decoding.recommender import Recommender
from gream.decoding.shown_list import ShownList
from gream.errors import InputError
from gream.processes import find_team, launched

logger = logging.getLogger(__name__)

_PLACES = ("run_dir", "output", "histories")  # where things are; what they hold is compared instead


@dataclass(kw_only=True)
class RecommendConfig(StageConfig):
    """Settings of `gream recommend`; a value that holds a comma stands in double quotes in a list."""

    history: str = option("", doc="raw item ids, oldest first, with commas between")
    user: str = option("", doc="a user of the prepared data, instead of a history")
    json: bool = option(False, doc="print one JSON document instead of a table")
    k: int = option(10, doc="length of the list")
    mode: str = option("direct", doc="direct, or reasoning")
    engine: str = option("torch", doc="torch, vllm, or openai for vLLM servers that run elsewhere")
    url: str = option("", doc="of those servers, with commas between; for the engine openai alone")
    num_chains: int = option(4, doc="reasoning chains that are sampled and merged")
    expand_width: int = option(0, doc="prefixes that the scorer sees at every level; 0 searches without it")
    exclude_seen: bool = option(True, doc="leave out the items of the history")
    categories: str = option("", doc="only items of one of these, with commas between")
    brands: str = option("", doc="only items of one of these, with commas between")
    min_price: float | None = option(None, doc="only items that cost at least this")
    max_price: float | None = option(None, doc="only items that cost at most this")
    allow: str = option("", doc="only these item ids, with commas between")
    deny: str = option("", doc="none of these item ids, with commas between")
    histories: str = option(
        "", doc='lists for many: JSON lines {"user_id": ..., "history": [...]}, or Parquet with these columns'
    )
    all_users: bool = option(False, doc="lists for all users of the prepared data, after all they bought")
    output: str = option("", doc="folder of Parquet files that the lists for many are written into")
    unknown_items: Literal["error", "drop", "skip"] = option(
        "error", doc="histories with unknown items or none: error, drop these items, or skip these users"
    )
    titles: bool = option(False, doc="a column `title` in the files")
    chains: bool = option(False, doc="a column `chain` in the files: the reasoning that found the item")
    users_per_part: int = option(4096, doc="users of one file, the most that a kill can lose")

    @property
    def for_many(self) -> bool:
        """Lists of many users are wanted, in files."""
        return bool(self.histories) or self.all_users


def recommend_once(config: RecommendConfig) -> ShownList:
    """Load a run and recommend to one customer.

    Raises:
        InputError: not exactly one of `history` and `user` is given, or what `Recommender` raises.
    """
    _check_source(config)
    recommender = Recommender.load(config.run_dir, engine=config.engine, url=config.url)
    started = time.monotonic()
    history = recommender.history_of(config.user) if config.user else _listed(config.history, "history")
    found = recommender.recommend(history, **_asked(config))
    catalogue = recommender.catalogue
    items = catalogue.lookup(history, "the history")
    return ShownList(
        config.mode,
        [(catalogue.item_ids[item], catalogue.titles[item]) for item in items],
        found,
        round(time.monotonic() - started, 4),
    )


def recommend_to_many(config: RecommendConfig) -> None:
    """Load a run and write the lists of many users; tells the counts.

    Several processes share the files out: `torchrun --nproc_per_node 2 -m gream.cli recommend RUN ...`.

    Raises:
        InputError: no place to write to, or what `read_rows`, `Recommender` and `ListParts` raise.
    """
    _check_source(config)
    team = find_team()
    recommender = Recommender.load(config.run_dir, engine=config.engine, url=config.url)
    counts = write_lists(
        recommender,
        _requests(recommender, config),
        Path(config.output),
        _made_from(config),
        asked=_asked(config),
        refuse_left_out=config.unknown_items == "error",
        columns=Columns(title=config.titles, chain=config.chains),
        users_per_part=config.users_per_part,
        team=team,
    )
    logger.info("%s", told(counts, Path(config.output)))


def _check_source(config: RecommendConfig) -> None:
    given = [name for name in ("history", "user", "histories", "all_users") if getattr(config, name)]
    if len(given) != 1:
        raise InputError(
            "Give either --history ID,ID or --user ID for one list, or --histories FILE or --all_users for "
            "many."
        )
    if launched() > 1 and not config.for_many:
        raise InputError(
            f"{launched()} processes were started, but one list is made by one; start one, or ask for lists "
            "for many."
        )
    if config.for_many and not config.output:
        raise InputError(f"`--{given[0]}` needs a folder to write into; give it as `--output FOLDER`.")
    if config.for_many and config.json:
        raise InputError("`--json` prints one list, and lists of many are written as Parquet; leave it out.")
    if config.output and not config.for_many:
        raise InputError("`--output` is for lists of many; give `--histories FILE` or `--all_users` with it.")
    if config.chains and not config.for_many:
        raise InputError(
            "`--chains` is a column of the files; one list shows its reasoning anyway, leave it out."
        )
    if config.chains and config.mode != "reasoning":
        raise InputError("`--chains` needs `--mode reasoning`, for direct mode writes none; leave one out.")


def _requests(recommender: Recommender, config: RecommendConfig) -> Requests:
    if config.all_users:
        return known_requests(recommender.interactions)
    return file_requests(
        Path(config.histories), recommender.catalogue.index, drop_unknown=config.unknown_items == "drop"
    )


def _made_from(config: RecommendConfig) -> dict[str, Any]:
    """Everything that the files depend on, the content of inputs by fingerprint."""
    settings = {name: value for name, value in asdict(config).items() if name not in _PLACES}
    content = {"histories": fingerprint(Path(config.histories))} if config.histories else {}
    return {**settings, **content, **run_fingerprint(Path(config.run_dir))}


def filters_of(config: RecommendConfig) -> Filters:
    """Gather what narrows a list.

    Raises:
        InputError: broken quotes, or prices out of order.
    """
    return Filters(
        categories=_listed(config.categories, "categories"),
        brands=_listed(config.brands, "brands"),
        min_price=config.min_price,
        max_price=config.max_price,
        allow=_listed(config.allow, "allow") or None,
        deny=_listed(config.deny, "deny"),
    )


def _asked(config: RecommendConfig) -> dict[str, Any]:
    """What `Recommender.ask` and `recommend` are asked, apart from the history."""
    return {
        "k": config.k,
        "mode": config.mode,
        "num_chains": config.num_chains,
        "expand_width": config.expand_width or None,
        "exclude_seen": config.exclude_seen,
        "filters": filters_of(config),
        "seed": config.seed,
    }


def _listed(text: str, name: str) -> list[str]:
    """Cut a list at its commas, but for those between double quotes."""
    try:
        lines = list(csv.reader([text], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(
            f"`--{name} {text}` has broken quotes; put what holds a comma or a quote in double quotes, "
            "and write a quote in it twice: '\"Toys, Games\",Office'."
        ) from error
    return [value.strip() for value in (lines[0] if lines else []) if value.strip()]
