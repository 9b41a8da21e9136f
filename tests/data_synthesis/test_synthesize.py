"""The stages that ask a model: what they write, what reaches no prompt or file, dry runs and budgets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from data_synthesis.model_teacher import schema
from gream.artifacts import read_manifest
from gream.cli import main
from gream.data.store import Catalogue, Interactions
from gream.language.reasoning import load_traces
from tests.data_synthesis.conftest import synthesize, write_data
from tests.data_synthesis.scripted_server import Planned, ScriptedServer

KEY = "sk-do-not-tell-0123456789"
PURCHASES = 21  # explained with two for each user
PROFILE = Planned(text="Something that many people need every day.")


def explain(prompt: str, number: int) -> Planned:
    """Name the right category, read off the prompt."""
    target = prompt.split("The next purchase was: ")[1].splitlines()[0]
    digits = hashlib.sha256(prompt.encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))
    own = " ".join(digits[i : i + 5] for i in range(0, 40, 5))  # no two answers are alike
    steps = {"evidence": [1], "keep": [1, 2], "category": target.rpartition(", in ")[2]}
    steps |= {"preference": f"likes {own}", "intent": f"goes for {own[::-1]}", "recommendation": "plain"}
    return Planned(text=json.dumps(steps))


def test_the_stage_writes_traces_of_the_model(run_dir: Path, interactions: Interactions) -> None:
    with ScriptedServer(explain) as server:
        assert synthesize(run_dir, server, "--per_user", "3") == 0
    traces = load_traces(run_dir / "traces")
    purchases = sum(min(3, max(0, len(s) - 2)) for s in interactions.training_sequences())
    assert len(traces) == len(server.requests) == purchases
    assert all(trace.rewritten == trace.history[:2] for trace in traces)
    assert all(body["response_format"] == schema() for _, body in server.requests)
    counts = read_manifest(run_dir / "traces", stage="synthesize").counts
    assert (counts["answers"], counts["traces"], counts["attempts"]) == (purchases, purchases, purchases)


def test_broken_answers_are_counted_and_end_no_stage(run_dir: Path) -> None:
    def plan(prompt: str, number: int) -> Planned:
        return explain(prompt, number) if number % 2 else Planned(text='{"evidence": [1')

    with ScriptedServer(plan) as server:
        assert synthesize(run_dir, server, "--repairs", "0", "--concurrency", "1") == 0
    dropped = pl.read_parquet(run_dir / "traces" / "dropped.parquet")
    assert set(dropped["reason"]) == {"the answer holds no JSON object"}
    assert len(dropped) == (len(server.requests) + 1) // 2
    counts = read_manifest(run_dir / "traces").counts
    assert counts["dropped: the answer holds no JSON object"] == len(dropped)


def test_a_model_that_repeats_itself_is_heard_once(run_dir: Path) -> None:
    """Histories that begin alike, and the same long text."""
    long = ", ".join(f"wants the {word} one" for word in ("calm", "sound", "plain", "usual", "honest"))

    def plan(prompt: str, number: int) -> Planned:
        planned = explain(prompt, number)
        return Planned(text=json.dumps(json.loads(planned.text) | {"preference": long, "intent": long}))

    with ScriptedServer(plan) as server:
        assert synthesize(run_dir, server) == 0
    counts = read_manifest(run_dir / "traces").counts
    assert counts["dropped: is a near-copy of an earlier trace"] > 0
    assert counts["traces"] + counts["dropped: is a near-copy of an earlier trace"] == PURCHASES


def test_a_model_that_writes_nothing_usable_is_told(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ScriptedServer(lambda prompt, number: Planned(text="no")) as server:
        assert synthesize(run_dir, server, "--repairs", "1") == 2
    error = capsys.readouterr().err
    assert "No trace is left" in error and "the answer holds no JSON object" in error
    assert not (run_dir / "traces").exists()


def test_a_server_that_knows_no_schema_is_not_sent_one(run_dir: Path) -> None:
    with ScriptedServer(explain) as server:
        assert synthesize(run_dir, server, "--structured", "false") == 0
    assert all("response_format" not in body for _, body in server.requests)


@pytest.mark.parametrize("stage", ["traces", "profiles"])
def test_no_validation_or_test_purchase_reaches_a_prompt(
    stage: str, tmp_path: Path, catalogue: Catalogue, interactions: Interactions
) -> None:
    """Other held-out purchases and reviews give the same prompts, and no review of theirs is in one."""
    swapped = Interactions(
        user_ids=interactions.user_ids,
        sequences=[np.concatenate([s[:-2], 23 - s[-2:]]) for s in interactions.sequences],
        splits=interactions.splits,
    )
    answer = explain if stage == "traces" else lambda prompt, number: PROFILE
    prompts = []
    for name, purchases in (("one", interactions), ("other", swapped)):
        with ScriptedServer(answer) as server:
            assert synthesize(write_data(tmp_path / name, catalogue, purchases), server, stage=stage) == 0
        prompts.append(sorted(server.prompts))
    assert prompts[0] == prompts[1]
    together = "\n".join(prompts[0])
    assert "In the validation part" not in together and "In the test part" not in together
    assert ("In the train part" in together) == (stage == "profiles")


@pytest.mark.parametrize("stage", ["traces", "profiles"])
@pytest.mark.parametrize("status", [200, 400, 401, 429])
def test_the_key_is_in_no_file_and_no_word(
    stage: str,
    status: int,
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even when the server repeats it in everything that it says."""
    monkeypatch.setenv("TEACHER_API_KEY", KEY)
    caplog.set_level("DEBUG")

    def plan(prompt: str, number: int) -> Planned:
        if status == 200:
            return explain(prompt, number) if stage == "traces" else PROFILE
        return Planned(status=status, body=f'{{"error": {{"message": "{KEY}"}}}}'.encode())

    with ScriptedServer(plan) as server:
        words = ["--api_key_env", "TEACHER_API_KEY", "--retries", "0"]
        assert synthesize(run_dir, server, *words, stage=stage) == (0 if status == 200 else 2)
    assert server.requests[0][0]["authorization"] == f"Bearer {KEY}"
    printed = capsys.readouterr()
    assert KEY not in printed.out + printed.err + caplog.text
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert status != 200 or "TEACHER_API_KEY" in (run_dir / stage / "manifest.json").read_text()


@pytest.mark.parametrize("stage", ["traces", "profiles"])
def test_a_dry_run_prints_three_prompts_and_the_cost_and_sends_nothing(
    stage: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run_dir.rglob("*"))
    words = ["--prompt_price", "1000", "--completion_price", "10000", "--parameters", "{max_tokens: 100}"]
    with ScriptedServer(explain) as server:
        assert synthesize(run_dir, server, "--dry-run", *words, stage=stage) == 0
        assert server.requests == []
    printed = capsys.readouterr().out
    assert printed.count("--- prompt ") == 3 and "Nothing was sent." in printed
    calls = int(printed.split("--- estimate\n")[1].split()[0])
    assert calls == (24 if stage == "profiles" else PURCHASES)
    assert f"at most {calls * 100:,} completion tokens" in printed
    assert float(printed.split("completion tokens, at most ")[1].split()[0]) > calls * 100 * 0.01
    assert sorted(run_dir.rglob("*")) == before


def test_a_dry_run_leaves_out_what_is_answered(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedServer(explain) as server:
        assert synthesize(run_dir, server) == 0
        asked = len(server.requests)
        assert synthesize(run_dir, server, "--dry-run") == 0
        assert len(server.requests) == asked
    assert f"0 calls; the answers to {asked} others are there" in capsys.readouterr().out


def test_the_rules_have_nothing_to_rehearse(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--dry-run", "--run_dir", str(run_dir)]) == 2
    assert "makes no calls" in capsys.readouterr().err


def test_traces_may_be_asked_for_without_their_name(run_dir: Path) -> None:
    """`gream synthesize` and `gream synthesize traces` are one stage."""
    made = []
    for words in (["synthesize"], ["synthesize", "traces"]):
        assert main([*words, "--run_dir", str(run_dir), "--attempts", "8"]) == 0
        made.append(read_manifest(run_dir / "traces", stage="synthesize").outputs)
    assert made[0] == made[1]


def test_a_budget_that_is_spent_keeps_what_is_done(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--token_budget", "1500", "--repairs", "0", "--parameters", "{max_tokens: 50}"]
    with ScriptedServer(explain) as server:
        assert synthesize(run_dir, server, *words) == 0
        asked = len(server.requests)
        assert len(load_traces(run_dir / "traces")) == asked
        assert "the budget is spent: " in capsys.readouterr().out
        assert read_manifest(run_dir / "traces").counts["not asked"] > 0
        assert synthesize(run_dir, server, *words[2:]) == 0
        assert len(server.requests) == len(load_traces(run_dir / "traces")) > asked
