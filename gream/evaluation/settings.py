"""Settings of the stage `evaluate`, and the searches that they ask for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gream.arguments import StageConfig, input_folder, option
from gream.decoding.engines import LOCAL_ENGINES
from gream.decoding.recommend import Search
from gream.errors import InputError


@dataclass(kw_only=True)
class EvaluateConfig(StageConfig):
    """Settings of the stage `evaluate`."""

    data: str = input_folder("data", doc="folder written by `gream data`")
    sids: str = input_folder("sids", doc="folder written by `gream sids`")
    model: str = input_folder(doc="folder of the model to evaluate, written by `gream sft` or `gream srpo`")
    before: str = input_folder("", doc="folder of the model before SRPO, for comparison; empty for none")
    baselines: str = input_folder("", doc="folder written by `gream baselines`; empty leaves SASRec out")
    scorer: str = input_folder("", doc="folder written by `gream prm`; empty for none")
    smaller: str = input_folder("", doc="folder of a smaller model with the same names, for --scaling")
    output: str = option("evaluation", doc="name of the folder that this stage writes inside run_dir")
    split: str = option("test", doc="purchases to predict, test or validation")
    max_users: int = option(0, doc="number of users, drawn at random; 0 for all")
    k: int = option(10, doc="length of the recommended lists")
    also_at: list[int] = option(
        [], doc="further lengths of lists, for recall and NDCG; the searches go as deep as the longest"
    )
    num_beams: int = option(20, doc="prefixes that the search keeps at each level")
    expand_width: int = option(40, doc="prefixes that the scorer chooses from; no effect without a scorer")
    rule: str = option("scorer", doc="how a scorer keeps and orders: scorer, sum or scorer_then_policy")
    scorer_weight: float = option(1.0, doc="weight of the scorer in the rule `sum`")
    scorer_levels: list[int] = option([], doc="levels, from 0, where the scorer keeps; empty for all")
    prune_threshold: float = option(0.0, doc="least consistency, 0 to 1, of a path that is kept; 0 for all")
    prune_level: int = option(-1, doc="level, from 0, after which paths are pruned; -1 before the last step")
    exclude_seen: bool = option(
        True, doc="whether lists leave out what was bought, as `gream recommend` does; all rows alike"
    )
    reasoning: bool = option(True, doc="whether to evaluate reasoning mode")
    num_chains: int = option(4, doc="chains sampled for each user in reasoning mode")
    max_chain_tokens: int = option(256, doc="tokens after which a chain is closed by force")
    temperature: float = option(0.7, doc="temperature of the sampled chains")
    choose: str = option("merge", doc="what becomes of several chains: merge, or best by the scorer")
    agree: int = option(0, doc="chains with one first item after which no more are written; 0 writes all")
    scaling: bool = option(False, doc="whether to draw quality against time for many searches")
    scaling_beams: list[int] = option([10, 20, 50, 100], doc="beams of the plain searches of --scaling")
    max_history: int = option(20, doc="newest purchases that a prompt shows; as in training")
    batch_size: int = option(256, doc="users searched at once")
    engine: str = option("torch", doc="engine that computes probabilities, torch or vllm")


def plain_search(config: EvaluateConfig) -> Search:
    """Return the search of direct mode without the scorer; the other searches change single fields of it.

    Raises:
        InputError: settings out of range.
    """
    return Search(
        k=config.k,
        num_beams=config.num_beams,
        rule=config.rule,
        scorer_weight=config.scorer_weight,
        scorer_levels=tuple(config.scorer_levels) or None,
        prune_threshold=config.prune_threshold or None,
        prune_level=None if config.prune_level == -1 else config.prune_level,
        max_chain_tokens=config.max_chain_tokens,
        temperature=config.temperature,
        seed=config.seed,
    )


def reasoning_search(config: EvaluateConfig) -> Search:
    """Return the search of reasoning mode."""
    return replace(
        plain_search(config),
        mode="reasoning",
        expand_width=config.expand_width if config.choose == "best" else None,  # the scorer has to judge
        num_chains=config.num_chains,
        choose=config.choose,
        agree=config.agree,
    )


def report_searches(config: EvaluateConfig) -> dict[str, Search]:
    """Return the search of every row of the report, by the row's name.

    Raises:
        InputError: settings out of range, or that cannot be together.
    """
    for name, least in (("batch_size", 1), ("max_users", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{name} is {getattr(config, name)}; give at least {least}.")
    if config.engine not in LOCAL_ENGINES:
        raise InputError(
            f"engine is {config.engine!r}; give one of {', '.join(LOCAL_ENGINES)}, which run the model on "
            "this machine."
        )
    if any(length < 1 for length in config.also_at):
        raise InputError(f"also_at holds {min(config.also_at)}; give lengths of at least 1.")
    if config.reasoning and config.choose == "best" and not config.scorer:
        raise InputError(
            "choose is 'best', but no scorer is given to choose by; add the folder of `gream prm` as scorer, "
            "or choose 'merge'."
        )
    direct = plain_search(config)
    searches = {"direct": direct}
    if config.scorer:
        searches["prm"] = replace(direct, expand_width=config.expand_width)
    if config.reasoning:
        searches["reasoning"] = reasoning_search(config)
    narrow = [beams for beams in config.scaling_beams if beams < config.k]
    if config.scaling and narrow:
        raise InputError(
            f"scaling_beams holds {narrow[0]}, but lists of k = {config.k} items need at least as many "
            "beams; leave it out, or lower k."
        )
    if config.smaller == config.model:
        raise InputError(f"smaller and model are both {config.model!r}; give the folder of another model.")
    if config.smaller and not config.scaling:
        raise InputError(
            f"smaller is {config.smaller!r}, but two models are compared by --scaling only; add it, or leave "
            "smaller out."
        )
    depth = max([config.k, *config.also_at])
    return {name: replace(search, k=depth) for name, search in searches.items()}
