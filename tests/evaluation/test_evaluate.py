"""The stage: rows from scripted answers, no leak into the baselines, and one whole run of a toy model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gream import artifacts
from gream.data.store import TEST, TRAIN, VALIDATION, Case, Catalogue, Interactions
from gream.decoding.answer import Answer
from gream.decoding.recommend import Search
from gream.errors import InputError
from gream.evaluation import evaluate
from gream.evaluation.baseline_rows import purchases_before
from gream.evaluation.evaluate import EvaluateConfig, Exam
from gream.evaluation.examples import draw_examples
from gream.evaluation.mentions import Vocabulary
from gream.evaluation.reasoning_quality import Facts
from gream.evaluation.reasoning_row import judge_chains, reasoning_figures
from gream.evaluation.report import format_evaluation
from gream.evaluation.taste import Taste
from gream.semantic_ids.layout import Names, save_names

CHAIN = "Evidence: {0}\nPreference: p\nIntent: i\nRecommendation: r\nHistory: {0}"


def answer(items: list[int], **chains: Any) -> Answer:
    logps = -np.arange(1, len(items) + 1, dtype=np.float32)
    return Answer(np.array(items, dtype=np.int64), logps, None, **chains)


def figures(
    exam: Exam,
    answers: list[Answer],
    facts: Facts,
    direct: list[Answer] | None = None,
    tastes: list[Taste] | None = None,
) -> dict[str, Any]:
    return reasoning_figures(exam, answers, judge_chains(exam, answers, facts), direct, facts, tastes)


@pytest.fixture
def facts(catalogue: Catalogue, names: Names) -> Facts:
    return Facts(catalogue, names, Vocabulary(catalogue), max_history=20)


@pytest.fixture
def exam(interactions: Interactions) -> Exam:
    return Exam(interactions.cases(TEST)[:3], num_items=24, k=5, seed=0)


def scripted(answers: dict[str, list[Answer]], asked: list[Any]) -> evaluate.Recommend:
    """A stand-in for `recommend_many` that answers by mode and notes what it was asked."""

    def recommend(
        engine: Any, histories: Any, search: Search, *, allowed: Any, batch_size: int, team: Any
    ) -> list[Answer]:
        asked.append((search.mode, [list(h) for h in histories], batch_size))
        return answers[search.mode]

    return recommend


def test_rows_measure_the_answers_of_each_search(exam: Exam, names: Names, facts: Facts) -> None:
    first, second, third = exam.targets
    others = [i for i in range(24) if i not in exam.targets]
    bought = names.spell(int(exam.histories[0][0]))
    answers = {
        # hits at places 1 and 3, a miss
        "direct": [
            answer([first, *others[:4]]),
            answer([*others[:2], second, *others[2:4]]),
            answer(others[:5]),
        ],
        # hits at places 1, 1 and a miss; user 2 has a broken chain
        "reasoning": [
            answer([first, *others[:4]], chains=[CHAIN.format(bought)] * 2, chain_of=[0] * 5,
                   chain_tops=[first, others[0]], tokens=30),
            answer([second, *others[:4]], chains=["nonsense"] * 2, chain_of=[1] * 5,
                   chain_tops=[others[0], others[1]], tokens=20),
            answer(others[5:10], chains=[CHAIN.format(bought + "<a_2>")] * 2, chain_of=[0] * 5,
                   chain_tops=[third, third], tokens=10),
        ],
    }  # fmt: skip
    asked: list[Any] = []
    searches = {"direct": Search(k=5), "reasoning": Search(k=5, mode="reasoning", num_chains=2)}
    engine: Any = SimpleNamespace(names=names)
    rows, found = evaluate.model_rows(
        exam, engine, searches, batch_size=7, recommend=scripted(answers, asked)
    )
    assert rows["direct"]["recall@5"] == pytest.approx(2 / 3, abs=1e-6)
    assert rows["direct"]["mrr"] == pytest.approx((1 + 1 / 3) / 3, abs=1e-6)
    assert rows["direct"]["invalid_rate"] == 0.0
    assert rows["direct"]["users_per_second"] > 0
    assert rows["reasoning"]["mrr"] == pytest.approx(2 / 3, abs=1e-6)
    reasoning = figures(exam, answers["reasoning"], facts, answers["direct"])
    assert reasoning["top_pass@1"] == pytest.approx((1 / 2 + 0 + 1) / 3, abs=1e-6)
    assert reasoning["top_pass@k"] == pytest.approx(2 / 3, abs=1e-6)
    assert reasoning["tokens_per_user"] == 20.0 and reasoning["tokens_per_chain"] == 10.0
    assert reasoning["well_formed"] == pytest.approx(4 / 6, abs=1e-6)
    assert reasoning["well_formed_of"] == 6
    assert reasoning["agreement"] == pytest.approx(1 / 3, abs=1e-6)  # the first user alone
    assert reasoning["gain@5"] == 0.0 and reasoning["gain@5_interval"] == [0.0, 0.0]
    assert reasoning["tokens_per_user_of_direct"] == 0.0 and reasoning["gain@5_per_100_tokens"] == 0.0
    assert found == answers
    assert asked == [(mode, [h.tolist() for h in exam.histories], 7) for mode in ("direct", "reasoning")]


def test_users_whose_chains_stopped_early_count_what_was_written(exam: Exam, facts: Facts) -> None:
    """Two chains for the first user and four for the others; top_pass@1 is the mean of 2/2, 1/4 and 0/4."""
    first, second, third = exam.targets
    wrong = next(item for item in range(24) if item not in exam.targets)
    answers = [
        answer([first], chains=[""] * 2, chain_tops=[first, first], chain_tokens=[9, 11], tokens=20),
        answer([wrong], chains=[""] * 4, chain_tops=[wrong, second, wrong, wrong],
               chain_tokens=[11] * 4, tokens=44),
        answer([wrong], chains=[""] * 4, chain_tops=[wrong] * 4, chain_tokens=[9] * 4, tokens=36),
    ]  # fmt: skip
    row = figures(exam, answers, facts)
    assert row["num_chains"] == 4 and row["chains_per_user"] == 3.33
    assert row["top_pass@1"] == pytest.approx(1.25 / 3, abs=1e-6)
    assert row["top_pass@k"] == pytest.approx(2 / 3, abs=1e-6)
    assert row["tokens_per_user"] == 33.33 and row["tokens_per_chain"] == 10.0
    assert row["tokens_per_chain_median"] == 10.0 and row["tokens_per_chain_95%"] == 11.0
    assert row["majority_share"] == pytest.approx((1 + 3 / 4 + 1) / 3, abs=1e-6)


def test_each_chain_is_checked_against_its_own_users_history(exam: Exam, facts: Facts) -> None:
    def grounded_by(owner: int) -> tuple[float, float]:
        text = CHAIN.format("".join(facts.names.spell(int(i)) for i in exam.histories[owner]))
        answers = [answer([0], chains=[text if user == 1 else ""], chain_tops=[0]) for user in range(3)]
        row = figures(exam, answers, facts)
        return row["groundedness"], row["groundedness_by_chance"]

    assert grounded_by(1)[0] == 1.0 and grounded_by(1)[1] < 1.0
    assert grounded_by(0)[0] < 1.0
    assert grounded_by(2)[1] == 1.0  # what chain 1 is held against by chance is the history of user 2


def test_the_answer_of_each_chain_is_its_own(exam: Exam, facts: Facts) -> None:
    """The intent is ink, items 4 to 7: the second chain alone leads there, and user 2's chains do."""
    item = next(i for i in range(4, 8) if i not in exam.histories[0])
    text = CHAIN.format("x").replace(": i", ": ink")
    answers = [
        answer([12], chains=[text] * 2, chain_tops=[12, item]),
        answer([13], chains=["", ""], chain_tops=[13, 14]),
        answer([item], chains=["", ""], chain_tops=[item, item]),
    ]
    row = figures(exam, answers, facts)
    assert row["intent_agreement"] == 0.5 and row["intent_agreement_of"] == 2
    assert row["intent_agreement_by_chance"] == 0.0  # user 1's answers
    assert row["intent_right"] == float(4 <= exam.targets[0] < 8)


def test_chains_that_betray_their_answer_are_found_by_their_titles(exam: Exam, facts: Facts) -> None:
    top = next(item for item in range(24) if item not in exam.histories[0])
    text = CHAIN.format(f"wants {facts.catalogue.titles[top].upper()}")
    answers = [answer([top], chains=[text if user == 0 else ""], chain_tops=[top]) for user in range(3)]
    row = figures(exam, answers, facts)
    assert row["betrays_answer"] == 1.0 and row["betrays_answer_of"] == 1


def test_pass_at_5_and_10_are_told_where_there_are_as_many_chains(exam: Exam, facts: Facts) -> None:
    """Six chains a user, of which one, none and two are right: 1 - C(5,5)/C(6,5) = 5/6, 0, and 1."""
    first, _, third = exam.targets
    wrong = next(item for item in range(24) if item not in exam.targets)
    tops = [[first, *[wrong] * 5], [wrong] * 6, [third, wrong, third, *[wrong] * 3]]
    row = figures(exam, [answer([wrong], chains=[""] * 6, chain_tops=t) for t in tops], facts)
    assert row["top_pass@1"] == pytest.approx((1 / 6 + 0 + 2 / 6) / 3, abs=1e-6)
    assert row["top_pass@5"] == pytest.approx((5 / 6 + 0 + 1) / 3, abs=1e-6)
    assert row["top_pass@k"] == pytest.approx(2 / 3, abs=1e-6)
    assert "pass@10" not in row and "top_pass@10" not in row


def test_pass_at_k_is_of_completions_whose_names_are_drawn(exam: Exam, facts: Facts) -> None:
    """The target has .5 and .2 after the two chains of user 0, 0 and .1 and 0 and 0 after the others'."""
    first, second, _ = exam.targets
    wrong = next(item for item in range(24) if item not in exam.targets)

    def after(*chances: dict[int, float]) -> Answer:
        return answer(
            [wrong], chains=[""] * 2, chain_tops=[wrong] * 2,
            chain_lists=[np.array(list(found)) for found in chances],
            chain_logps=[np.log(list(found.values()), dtype=np.float32) for found in chances],
        )  # fmt: skip

    answers = [
        after({wrong: 0.3, first: 0.5}, {first: 0.2, wrong: 0.1}),
        after({wrong: 0.9, second: 0.1}, {wrong: 1.0}),
        after({wrong: 0.9}, {wrong: 0.6, first: 0.4}),
    ]
    row = figures(exam, answers, facts)
    assert row["pass@1"] == pytest.approx((0.35 + 0.05 + 0) / 3, abs=1e-6)
    assert row["pass@k"] == pytest.approx((0.6 + 0.1 + 0) / 3, abs=1e-6)
    assert row["top_pass@1"] == 0.0 and row["top_pass@k"] == 0.0


def test_stated_preferences_are_measured_where_the_tastes_are_known(exam: Exam, facts: Facts) -> None:
    true = [Taste(frozenset({(area,)}), frozenset(), frozenset()) for area in ("office", "camping", "office")]
    users = max(case.user for case in exam.cases) + 1
    tastes = (true * users)[:users]
    areas = [next(iter(tastes[case.user].areas))[0] for case in exam.cases]
    texts = [CHAIN.format("x").replace("Preference: p", f"Preference: {area}") for area in areas]
    answers = [answer([0], chains=[text], chain_tops=[0]) for text in texts]
    assert figures(exam, answers, facts, None, tastes)["taste"]["areas"]["precision"] == 1.0
    assert "taste" not in figures(exam, answers, facts)


def test_one_user_alone_has_no_figure_by_chance(interactions: Interactions, facts: Facts) -> None:
    alone = Exam(interactions.cases(TEST)[:1], num_items=24, k=5, seed=0)
    answers = [answer([0], chains=[CHAIN.format(facts.names.spell(0))] * 2, chain_tops=[0, 0])]
    row = figures(alone, answers, facts)
    assert row["majority_share"] == 1.0
    assert {value for name, value in row.items() if name.endswith("_by_chance")} == {None}


def test_figures_without_direct_mode_have_no_agreement(exam: Exam, facts: Facts) -> None:
    answers = [answer([0], chains=[""], chain_tops=[0])] * 3
    row = figures(exam, answers, facts)
    assert "agreement" not in row and "gain@5" not in row
    assert row["majority_share"] is None and row["overlap_of_chains@5"] is None  # one chain each


def test_baselines_for_test_count_train_and_validation_and_never_the_test_purchase() -> None:
    shop = Interactions(["u"], [np.array([5, 6, 7, 8])], [np.array([TRAIN, TRAIN, VALIDATION, TEST])])
    assert purchases_before(shop, TEST)[0].tolist() == [5, 6, 7]
    assert purchases_before(shop, VALIDATION)[0].tolist() == [5, 6]


def test_users_are_drawn_by_seed_and_stay_in_order(interactions: Interactions) -> None:
    cases = interactions.cases(TEST)
    drawn = evaluate.draw_cases(cases, 6, seed=1)
    users = [case.user for case in drawn]
    assert len(set(users)) == 6 and users == sorted(users)
    assert users == [case.user for case in evaluate.draw_cases(cases, 6, seed=1)]
    assert users != [case.user for case in evaluate.draw_cases(cases, 6, seed=2)]


@pytest.mark.parametrize("max_users", [0, 15, 99])
def test_all_users_are_kept_unless_fewer_are_asked_for(interactions: Interactions, max_users: int) -> None:
    cases = interactions.cases(TEST)
    assert evaluate.draw_cases(cases, max_users, seed=0) == cases


def test_empty_split_is_an_error() -> None:
    with pytest.raises(InputError, match="no purchase to predict"):
        evaluate.draw_cases([], 0, seed=0)


def test_best_reachable_comes_from_the_simulators_counts_for_the_test_split_only() -> None:
    counts = {"users": 9, "best_reachable_recall@10": 0.5, "best_reachable_ndcg@10": 0.3}
    expected = {"best_reachable": {"recall@10": 0.5, "ndcg@10": 0.3}}
    assert evaluate.best_reachable(counts, TEST) == expected
    assert evaluate.best_reachable(counts, VALIDATION) == {}
    assert evaluate.best_reachable({"users": 9}, TEST) == {}


def test_example_shows_the_chain_that_found_the_first_item(
    catalogue: Catalogue, interactions: Interactions, names: Names
) -> None:
    case = Case(user=4, history=np.array([3, 1]), target=9)
    texts = ["nonsense", CHAIN.format(names.spell(3))]
    answers = {"reasoning": [answer([9, 2], chains=texts, chain_of=[1, 0], chain_tops=[2, 9])]}
    [example] = draw_examples([case], answers, catalogue, interactions, names, length=5, seed=0)
    assert example["user_id"] == "user-4"
    assert example["history"] == [catalogue.titles[3], catalogue.titles[1]]
    assert example["chain"]["evidence"] == catalogue.titles[3]
    assert example["chain"]["text"] == texts[1]
    assert [item["item_id"] for item in example["lists"]["reasoning"]] == ["item-9", "item-2"]


def test_longer_lists_add_figures_and_change_none_of_the_first_k(run_dir: Path) -> None:
    """20 of 24 items are searched either way, so that the first five are the same."""
    settings = {
        "run_dir": str(run_dir), "model": "model", "k": 5, "num_beams": 20, "num_chains": 2,
        "max_chain_tokens": 4, "max_history": 5,
    }  # fmt: skip
    evaluate.run(EvaluateConfig(**settings, output="short"))
    evaluate.run(EvaluateConfig(**settings, output="long", also_at=[3, 20]))
    short, long = (json.loads((run_dir / o / "report.json").read_text()) for o in ("short", "long"))
    for name in ("popularity", "item_knn", "direct", "reasoning"):
        added = set(long[name]) - set(short[name])
        expected = {f"{m}@{k}" for m in ("recall", "ndcg") for k in (3, 20)}
        assert added == expected | {f"{figure}_interval" for figure in expected}
        same = {key for key in short[name] if "second" not in key}
        assert {k: long[name][k] for k in same} == {k: short[name][k] for k in same}
        assert long[name]["recall@3"] <= long[name]["recall@5"] <= long[name]["recall@20"]
    assert long["popularity"]["recall@5"] < long["popularity"]["recall@20"]
    lists = json.loads((run_dir / "long" / "examples.json").read_text())["customers"][0]["lists"]
    assert {len(items) for items in lists.values()} == {5}
    shown = (run_dir / "long" / "report.md").read_text()
    assert "| recall@3 | ndcg@3 | recall@5 | ndcg@5 | recall@20 | ndcg@20 |" in shown
    assert "recall@20" not in format_evaluation(run_dir / "long")


def test_unknown_split_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = EvaluateConfig(run_dir=str(tmp_path), model="model", split="train")
    with pytest.raises(InputError, match="give one of validation, test"):
        evaluate.run(config)
    assert list(tmp_path.iterdir()) == []


def test_toy_model_is_evaluated_in_every_row_with_valid_lists(run_dir: Path) -> None:
    config = EvaluateConfig(
        run_dir=str(run_dir), model="model", before="model", scorer="prm", k=5, num_beams=6, expand_width=8,
        num_chains=2, max_chain_tokens=8, max_history=5, batch_size=8, prune_threshold=0.5,
    )  # fmt: skip
    evaluate.run(config)
    folder = run_dir / "evaluation"
    report = json.loads((folder / "report.json").read_text())
    assert report["users"] == report["users_in_split"] == 15
    assert report["best_reachable"] == {"recall@5": 0.9}
    for name in ("popularity", "item_knn", "direct_before_srpo", "direct", "prm", "reasoning"):
        assert report[name]["invalid_rate"] == 0.0
        low, high = report[name]["recall@5_interval"]
        assert low <= report[name]["recall@5"] <= high
    assert report["direct"]["recall@5"] == report["direct_before_srpo"]["recall@5"]  # one and the same model
    assert report["reasoning"]["tokens_per_user"] >= 2 * 3
    pruned = [name for name, row in report.items() if isinstance(row, dict) and "false_prune_rate" in row]
    assert pruned == ["direct_before_srpo", "direct", "prm"]
    assert report["reasoning"]["seconds_per_user_of_direct"] == report["direct"]["seconds_per_user"]
    shown = json.loads((folder / "examples.json").read_text())
    assert list(shown) == ["customers", "good_chains", "bad_chains"]
    assert len(shown["good_chains"]) == len(shown["bad_chains"]) == 3
    examples = shown["customers"]
    assert [set(e["lists"]) for e in examples] == [{"direct", "prm", "reasoning"}] * 3
    assert all(item["score"] is not None for e in examples for item in e["lists"]["prm"])
    assert all(e["chain"] is not None for e in examples)
    for name in ("report.md", "recall.png", "cost.png"):
        assert (folder / name).is_file()
    assert artifacts.read_manifest(folder, stage="evaluate").counts["users"] == 15


def test_names_of_another_catalogue_are_refused_and_leave_nothing(run_dir: Path, names: Names) -> None:
    fewer = Names(names.layout, names.codes[:20])
    save_names(run_dir / "sids", fewer)
    (run_dir / "model" / "gream.json").write_text(json.dumps({"names": fewer.fingerprint()}))
    config = EvaluateConfig(run_dir=str(run_dir), model="model", reasoning=False, k=5)
    with pytest.raises(InputError, match="names 20 items, but .* has 24"):
        evaluate.run(config)
    assert not (run_dir / "evaluation").exists()
