"""Stage `srpo` on the toy shop: what it writes, what it refuses, and that it resumes what was killed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback, modeling_utils

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.training import srpo, srpo_training
from gream.training.validation import SCORE
from tests.training.policies import G, P, settings


@pytest.fixture
def run_dir(
    tmp_path: Path,
    catalogue: Catalogue,
    interactions: Interactions,
    names: Names,
    model_and_tokenizer: tuple[Any, Any],
) -> Path:
    """The folders of the stages before this one."""
    writers: list[tuple[str, Callable[[Path], None]]] = [
        ("data", lambda path: save_dataset(path, catalogue, interactions)),
        ("sids", lambda path: save_names(path, names)),
        ("sft", lambda path: save_model(path, *model_and_tokenizer, names)),
    ]
    for stage, write in writers:
        with artifacts.writing(tmp_path / stage, stage=stage, config={}, inputs={}, seed=0) as draft:
            write(draft.path)
    return tmp_path


def test_stage_writes_a_changed_model_its_log_and_its_report(run_dir: Path, names: Names) -> None:
    srpo.run(settings(run_dir=str(run_dir), reasoning_share=0.5))
    before, _ = load_model(run_dir / "sft", names)
    after, _ = load_model(run_dir / "srpo", names)
    assert after.config.vocab_size == before.config.vocab_size
    report = json.loads((run_dir / "srpo" / "srpo_report.json").read_text())
    steps = [entry for entry in report["log_history"] if "reward" in entry]
    assert len(steps) == 2
    for entry, mode in zip(steps, ["direct", "reasoning"], strict=True):
        logged = {"reward", "rewards/exact_hit/mean", "live_groups", "well_formed", "valid", f"reward_{mode}"}
        assert logged <= entry.keys()
    counts = artifacts.read_manifest(run_dir / "srpo", stage="srpo").counts
    assert counts["prompts"] == 2 * P
    assert counts["completions"] == 2 * P * G
    assert counts["targets_available"] == report["targets_available"] > 0
    written = {path.name for path in (run_dir / "srpo").iterdir()}
    assert written >= {"model.safetensors", "srpo_report.json", "report.md", "srpo.png"}


def test_the_stage_runs_with_names_without_an_order(
    run_dir: Path, names: Names, model_and_tokenizer: tuple[Any, Any]
) -> None:
    unordered = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    with artifacts.writing(run_dir / "free", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, unordered)
    with artifacts.writing(run_dir / "sft-free", stage="sft", config={}, inputs={}, seed=0) as draft:
        save_model(draft.path, *model_and_tokenizer, unordered)
    changed = {"rewards": {"step_hit": 1.0, "category_hit": 0.5}, "rollouts": "constrained"}
    srpo.run(
        settings(
            run_dir=str(run_dir), sids="free", model="sft-free", output="out", reasoning_share=0.0, **changed
        )
    )
    before, _ = load_model(run_dir / "sft-free", unordered)
    after, _ = load_model(run_dir / "out", unordered)
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)


EVERYTHING: dict[str, Any] = {
    "reasoning_share": 0.5,
    "rollouts": "constrained",
    "refill_rounds": 2,
    "candidates": 2,
    "future_window": 2,
    "num_iterations": 2,
    "max_steps": 4,
    "beta": 0.1,
    "max_completion_length": 12,
    "validation_users": 6,
    "validate_every": 0.25,
    "patience": 9,
}


class Killed(Exception):
    pass


class KillAfter(TrainerCallback):  # type: ignore[misc]
    """Raises when a step is over, after whatever was saved at its end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(
    "changed",
    [
        EVERYTHING,
        {"max_steps": 4, "trainable": "lora", "lora_rank": 2, "beta": 0.1, "rollouts": "beam"},
    ],
    ids=["everything", "lora"],
)
def test_what_was_killed_goes_on_as_if_it_had_not_been(
    run_dir: Path,
    names: Names,
    changed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two runs of one seed give the same bytes, and so do two halves of one run."""
    options = {"run_dir": str(run_dir), "max_completion_length": 12, **changed}
    caplog.set_level(logging.INFO, logger="gream")
    srpo.run(settings(**options, output="whole"))
    assert "unfinished" not in caplog.text
    made = srpo_training.Watch
    monkeypatch.setattr(srpo_training, "Watch", lambda: KillAfter(3))
    with pytest.raises(Killed):
        srpo.run(settings(**options, output="cut", save_steps=2))
    assert not (run_dir / "cut").exists()
    monkeypatch.setattr(srpo_training, "Watch", made)
    srpo.run(settings(**options, output="cut", save_steps=2))
    assert "going on after step 2 of" in caplog.text
    whole, cut = (artifacts.read_manifest(run_dir / name).outputs for name in ("whole", "cut"))
    assert whole["model.safetensors"] == cut["model.safetensors"]
    assert whole["srpo_report.json"] == cut["srpo_report.json"]
    assert not list(run_dir.glob(".*checkpoint"))


def test_measuring_both_modes_changes_nothing_of_the_training(run_dir: Path) -> None:
    logs = []
    for users in (0, 6):
        output = f"of-{users}"
        srpo.run(settings(run_dir=str(run_dir), output=output, validation_users=users, validate_every=0.5))
        logs.append(json.loads((run_dir / output / "srpo_report.json").read_text())["log_history"])
    assert [entry["step"] for entry in logs[1] if SCORE in entry] == [0, 1, 2]
    assert [entry for entry in logs[1] if SCORE not in entry] == logs[0]


@pytest.mark.parametrize("trainable", ["full", "lora"])
def test_what_is_computed_again_in_the_backward_pass_is_the_same(
    run_dir: Path, trainable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Activations are kept or not; the same numbers in the same order."""
    logs, weights, asked = [], [], Mock(wraps=modeling_utils.checkpoint)
    monkeypatch.setattr(modeling_utils, "checkpoint", asked)
    for name, again in (("kept", False), ("again", True)):
        config = settings(
            run_dir=str(run_dir), output=name, gradient_checkpointing=again, trainable=trainable, max_steps=3
        )
        srpo.run(config)
        assert asked.called == again
        logs.append(json.loads((run_dir / name / "srpo_report.json").read_text())["log_history"])
        weights.append(load_file(run_dir / name / "model.safetensors"))
    assert [e["reward"] for e in logs[0] if "reward" in e] == [e["reward"] for e in logs[1] if "reward" in e]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name])


def test_adapters_begin_without_divergence_and_become_plain_weights(run_dir: Path, names: Names) -> None:
    options = {
        "run_dir": str(run_dir),
        "trainable": "lora",
        "lora_rank": 4,
        "beta": 0.1,
        "learning_rate": 0.1,
    }
    srpo.run(settings(**options, rollouts="beam", reasoning_share=0.0, max_steps=3))
    log = json.loads((run_dir / "srpo" / "srpo_report.json").read_text())["log_history"]
    assert log[0]["kl"] == 0.0
    start, _ = load_model(run_dir / "sft", names)
    saved, _ = load_model(run_dir / "srpo", names)
    changed = {
        name
        for (name, old), (_, new) in zip(start.named_parameters(), saved.named_parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {name for name, _ in start.named_parameters() if "proj" in name}


def test_a_model_in_bfloat16_is_trained_in_float32_and_saved_as_it_came(
    run_dir: Path, names: Names, model_and_tokenizer: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = model_and_tokenizer
    save_model(run_dir / "half", model.to(torch.bfloat16), tokenizer, names)
    seen: list[torch.dtype] = []
    train = srpo.train

    def watched(model: Any, *rest: Any) -> Any:
        seen.append(model.dtype)
        return train(model, *rest)

    monkeypatch.setattr(srpo, "train", watched)
    srpo.run(settings(run_dir=str(run_dir), model="half", max_steps=1))
    assert seen == [torch.float32]
    assert load_model(run_dir / "srpo", names)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"min_history": 0}, "min_history is 0; give a number of at least 1"),
        ({"num_generations": 1}, "num_generations is 1; give a number of at least 2"),
        ({"bonus_k": 0}, "bonus_k is 0; give a number of at least 1"),
        ({"max_steps": 0}, "max_steps is 0; give a number of at least 1"),
        ({"prompts_per_batch": 0}, "prompts_per_batch is 0; give a number of at least 1"),
        ({"micro_batch_size": 0}, "micro_batch_size is 0; give a number of at least 1"),
        ({"num_iterations": 0}, "num_iterations is 0; give a number of at least 1"),
        ({"refill_rounds": -1}, "refill_rounds is -1; give a number of at least 0"),
        ({"save_steps": -1}, "save_steps is -1; give a number of at least 0"),
        ({"reasoning_share": 1.5}, "reasoning_share is 1.5; give a share between 0 and 1"),
        ({"micro_batch_size": 3}, "8 completions of a batch cannot be split into passes of 3"),
        ({"min_history": 40}, "No user has more than 40 training purchases; lower min_history"),
        ({"advantage": "ppo"}, "advantage is 'ppo'; give one of srpo, grpo, dr_grpo, rloo"),
        ({"rollouts": "tree"}, "rollouts is 'tree'; give one of free, constrained, beam"),
        ({"engine": "jax"}, "engine is 'jax'; give one of torch, vllm"),
        ({"vllm_url": "http://node-b:8000"}, "but engine is 'torch' and rollouts are 'free'"),
        ({"loss_type": "mse"}, "loss_type is 'mse'; give one of grpo, bnpo"),
        ({"trainable": "names"}, "trainable is 'names'; give one of full, lora"),
        ({"rewards": {"recall": 1.0}}, "Unknown rewards: recall"),
        ({"rewards": {"process": 1.0, "exact_hit": 1.0}}, "set `scorer` to the folder of `gream prm`"),
        ({"candidates": 0}, "candidates is 0; give a number of at least 1"),
        ({"patience": 0, "validation_users": 3}, "patience is 0; give at least 1"),
    ],
)
def test_settings_that_cannot_work_are_told(run_dir: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        srpo.run(settings(run_dir=str(run_dir), **changed))
    assert not (run_dir / "srpo").exists()


def test_vllm_without_a_gpu_is_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="engine is 'vllm', but there is no GPU"):
        srpo.run(settings(run_dir=str(run_dir), engine="vllm"))


@pytest.mark.parametrize(("rollouts", "corrected"), [("free", True), ("constrained", False), ("beam", False)])
def test_trl_is_asked_for_a_colocated_engine(tmp_path: Path, rollouts: str, corrected: bool) -> None:
    arguments = srpo_training.trainer_arguments(
        settings(engine="vllm", rollouts=rollouts), tmp_path, [1.0, 0.0]
    )
    assert (arguments.use_vllm, arguments.vllm_mode) == (True, "colocate")
    assert arguments.vllm_importance_sampling_correction == corrected
    assert not srpo_training.trainer_arguments(settings(), tmp_path, [1.0, 0.0]).use_vllm


def test_trl_is_asked_for_the_server_that_was_named(tmp_path: Path) -> None:
    told = settings(engine="vllm", vllm_url="http://node-b:8000")
    arguments = srpo_training.trainer_arguments(told, tmp_path, [1.0, 0.0])
    assert (arguments.use_vllm, arguments.vllm_mode) == (True, "server")
    assert arguments.vllm_server_base_url == "http://node-b:8000"


@pytest.mark.parametrize("rollouts", ["constrained", "beam"])
def test_a_server_writes_free_completions_only(
    run_dir: Path, rollouts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no trie; without the refusal the names would be written as it likes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    told = settings(run_dir=str(run_dir), engine="vllm", vllm_url="http://node-b:8000", rollouts=rollouts)
    with pytest.raises(InputError, match=f"rollouts are '{rollouts}'; a server needs engine 'vllm'"):
        srpo.run(told)


@pytest.mark.gpu
@pytest.mark.parametrize("rollouts", ["free", "constrained", "beam"])
def test_vllm_writes_the_completions_on_a_gpu(run_dir: Path, rollouts: str) -> None:
    options = {"engine": "vllm", "rollouts": rollouts, "max_completion_length": 12, "reasoning_share": 0.5}
    srpo.run(settings(run_dir=str(run_dir), **options))
    log = json.loads((run_dir / "srpo" / "srpo_report.json").read_text())["log_history"]
    assert [entry["step"] for entry in log if "reward" in entry] == [1, 2]


def test_devices_that_cannot_share_a_batch_are_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="2 prompts of a batch cannot be shared by 3 devices"):
        srpo.run(settings(run_dir=str(run_dir)))
