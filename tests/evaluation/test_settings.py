"""Settings of the stage `evaluate` that cannot be: one sentence, exit code 2, no folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gream.cli import main
from gream.evaluation.settings import EvaluateConfig, plain_search, reasoning_search, report_searches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"sids": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "nowhere"),
        ({"before": "nowhere"}, "nowhere"),
        ({"scorer": "nowhere"}, "nowhere"),
        ({"scorer": "sids"}, "holds no path scorer; run `gream prm`"),
        ({"scaling": True, "smaller": "nowhere"}, "nowhere"),
        ({"split": "train"}, "split is 'train'; give one of validation, test"),
        ({"max_users": -1}, "max_users is -1; give at least 0"),
        ({"k": 0}, "k is 0; give at least 1"),
        ({"also_at": "[50, 0]"}, "also_at holds 0; give lengths of at least 1"),
        ({"num_beams": 0}, "num_beams is 0; give at least 1"),
        ({"scorer": "prm", "expand_width": 3}, "expand_width is 3, but the scorer must keep num_beams = 6"),
        ({"rule": "both"}, "rule is 'both'; give one of scorer, sum, scorer_then_policy"),
        ({"scorer_weight": -0.5}, "scorer_weight is -0.5; give a number of at least 0"),
        ({"scorer_weight": ".nan"}, "scorer_weight is nan; give a number of at least 0"),
        (
            {"scorer": "prm", "scorer_levels": "[1, 2, 3]"},
            "level 3, but names of 3 codes have the levels 0 to 2",
        ),
        ({"scorer": "prm", "scorer_levels": "[-1]"}, "level -1, but names of 3 codes have the levels 0 to 2"),
        ({"prune_threshold": 1.5}, "threshold of pruning is 1.5; give a consistency between 0 and 1"),
        ({"prune_threshold": -0.5}, "threshold of pruning is -0.5; give a consistency between 0 and 1"),
        ({"prune_threshold": 0.5, "prune_level": 2}, "level of pruning is 2, but paths of 3 codes"),
        ({"prune_threshold": 0.5, "prune_level": -2}, "level of pruning is -2, but paths of 3 codes"),
        ({"reasoning": True, "num_chains": 0}, "num_chains is 0; give at least 1"),
        ({"max_chain_tokens": 0}, "max_chain_tokens is 0; give at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0; give a number of at least 0"),
        ({"reasoning": True, "choose": "first"}, "choose is 'first'; give one of merge, best"),
        ({"reasoning": True, "choose": "best"}, "choose is 'best', but no scorer is given to choose by"),
        ({"reasoning": True, "agree": 5}, "agree is 5, but of 4 chains; give 0 to 4"),
        ({"reasoning": True, "agree": -1}, "agree is -1, but of 4 chains; give 0 to 4"),
        ({"scaling": True, "scaling_beams": "[0, 8]"}, "scaling_beams holds 0, but lists of k = 5"),
        ({"max_history": 0}, "max_history is 0; give at least 1"),
        ({"batch_size": 0}, "batch_size is 0; give at least 1"),
        ({"engine": "jax"}, "engine is 'jax'; give one of torch, vllm, which run the model on this machine"),
        ({"engine": "openai"}, "engine is 'openai'; give one of torch, vllm, which run the model on"),
        ({"seed": -1}, "`seed` is -1; give a number from 0 to 4294967295"),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_a_setting_that_cannot_be_is_one_sentence(
    changes: dict[str, Any], message: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"model": "model", "k": 5, "num_beams": 6, "max_history": 5, "max_users": 2}
    settings |= {"reasoning": False, "max_chain_tokens": 2} | changes
    words = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    assert main(["evaluate", "--run_dir", str(run_dir), *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("gream: ") and error.count("\n") == 1 and message in error
    assert not (run_dir / "evaluation").exists()
    assert not list(run_dir.glob(".*")), "something half-written is left"


def test_every_setting_reaches_the_search_that_it_is_meant_for() -> None:
    config = EvaluateConfig(
        model="model", scorer="prm", seed=7, k=3, num_beams=6, expand_width=9, rule="sum", scorer_weight=0.25,
        scorer_levels=[0, 2], prune_threshold=0.5, prune_level=1, num_chains=5, max_chain_tokens=11,
        temperature=0.4, choose="best", agree=2,
    )  # fmt: skip
    plain = plain_search(config)
    assert (plain.mode, plain.k, plain.num_beams, plain.expand_width, plain.seed) == ("direct", 3, 6, None, 7)
    assert (plain.rule, plain.scorer_weight, plain.scorer_levels) == ("sum", 0.25, (0, 2))
    assert (plain.prune_threshold, plain.prune_level) == (0.5, 1)
    chains = reasoning_search(config)
    assert (chains.mode, chains.num_chains, chains.choose, chains.agree) == ("reasoning", 5, "best", 2)
    assert (chains.max_chain_tokens, chains.temperature, chains.expand_width) == (11, 0.4, 9)
    searches = report_searches(config)
    assert list(searches) == ["direct", "prm", "reasoning"] and searches["prm"].expand_width == 9
    assert searches["direct"] == plain and searches["reasoning"] == chains


def test_empty_settings_mean_all_levels_no_pruning_and_no_scorer_after_chains() -> None:
    config = EvaluateConfig(model="model", scorer="prm")
    search = plain_search(config)
    assert search.scorer_levels is search.prune_threshold is search.prune_level is None
    assert reasoning_search(config).expand_width is None
    config.also_at = [50, 3]
    assert [search.k for search in report_searches(config).values()] == [50, 50, 50]
    config.scorer, config.reasoning = "", False
    assert list(report_searches(config)) == ["direct"]
