"""SRPO on the toy model: what it asks, what it learns from, and what it needs of TRL."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from gream import artifacts
from gream.data.store import Catalogue, Interactions, save_dataset
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.language.vocab import load_model, save_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout, save_names
from gream.training import srpo
from gream.training.advantages import bonus_calibrated_advantages
from gream.training.srpo import SRPOConfig, SRPOTrainer, reward_functions, trainer_arguments
from gream.training.srpo_prompts import training_prompts

G, P = 4, 2  # generations, prompts of a batch


def settings(**changed: Any) -> SRPOConfig:
    values: dict[str, Any] = {
        "num_generations": G,
        "prompts_per_batch": P,
        "micro_batch_size": G,
        "max_steps": 2,
        "max_completion_length": 6,
        "max_history": 5,
        "min_history": 2,
        "learning_rate": 1e-3,
        "bonus_k": 2,
    }
    return SRPOConfig(**{**values, **changed})


def count_rewards(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Any reward with spread will do: the share of even token ids."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


def even_first(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [float(ids[0] % 2 == 0) for ids in completion_ids]


@pytest.fixture
def folder(tmp_path: Path, model_and_tokenizer: tuple[Any, Any], names: Names) -> Path:
    """A model folder; the reference model of GRPO is loaded from it."""
    save_model(tmp_path, *model_and_tokenizer, names)
    return tmp_path


def losses(
    trainer_class: type[GRPOTrainer], folder: Path, names: Names, interactions: Interactions, **options: Any
) -> list[dict[str, float]]:
    model, tokenizer = load_model(folder, names)
    config = settings(beta=0.1)
    prompts = training_prompts(interactions, Prompter(tokenizer, names, max_history=5), config)
    trainer = trainer_class(
        model=model,
        reward_funcs=[count_rewards, even_first],
        args=trainer_arguments(config, folder / "trainer"),
        train_dataset=Dataset.from_list(prompts.rows),
        processing_class=tokenizer,
        **options,
    )
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_without_the_bonus_it_is_grpo(folder: Path, names: Names, interactions: Interactions) -> None:
    plain = losses(GRPOTrainer, folder, names, interactions)
    ours = losses(SRPOTrainer, folder, names, interactions, bonus_k=2, bonus_weight=0.0)
    assert len(plain) == len(ours) == 2
    for theirs, mine in zip(plain, ours, strict=True):
        assert theirs["reward_std"] > 0  # else both would be zero
        assert mine["reward"] == theirs["reward"]
        # TRL divides by the deviation plus 1e-4, we mask instead.
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-3, abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=5e-3)


def test_the_bonus_reaches_the_loss(folder: Path, names: Names, interactions: Interactions) -> None:
    without = losses(SRPOTrainer, folder, names, interactions, bonus_k=2, bonus_weight=0.0)
    bonus = losses(SRPOTrainer, folder, names, interactions, bonus_k=2, bonus_weight=1.0)
    assert bonus[0]["reward"] == without[0]["reward"]
    assert bonus[0]["grad_norm"] != pytest.approx(without[0]["grad_norm"], rel=5e-3)


def test_advantages_of_a_batch_are_the_calibrated_ones(
    folder: Path, names: Names, interactions: Interactions
) -> None:
    seen: list[dict[str, Any]] = []

    class Watched(SRPOTrainer):
        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = super()._generate_and_score_completions(inputs)
            ids = [
                row[mask.bool()].tolist()
                for row, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
            ]
            rewards = torch.tensor(count_rewards(ids)).view(P, G)
            hits = torch.tensor(even_first(ids)).view(P, G)
            seen.append({"expected": bonus_calibrated_advantages(rewards, hits, 2, 0.5), **output})
            assert list(self._logs["advantages"]) == output["advantages"].tolist()
            return output

    log = losses(Watched, folder, names, interactions, bonus_k=2, bonus_weight=0.5)
    assert len(seen) == 2
    for batch, entry in zip(seen, log, strict=True):
        torch.testing.assert_close(batch["advantages"].view(P, G), batch["expected"])
        assert entry["live_groups"] == (batch["expected"] != 0).any(dim=1).float().mean().item()


def test_prompt_ids_are_those_of_the_prompter(
    folder: Path, names: Names, interactions: Interactions, prompter: Prompter
) -> None:
    """Strings go in, and the trainer must tokenise them to the very prompts of serving."""
    config = settings(reasoning_share=0.5, max_steps=6, beta=0.0)
    prompts = training_prompts(interactions, prompter, config)
    trainer = SRPOTrainer(
        model=load_model(folder, names)[0],
        reward_funcs=reward_functions(prompter, TrieConstraint(names)),
        args=trainer_arguments(config, folder / "trainer"),
        train_dataset=Dataset.from_list(prompts.rows),
        processing_class=prompter.tokenizer,
        bonus_k=2,
        bonus_weight=1.0,
    )
    ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in prompts.rows])
    sequences = interactions.training_sequences()
    histories = [s[:t] for s in sequences for t in range(1, len(s))]
    asked = {m: [getattr(prompter, m)(h) for h in histories] for m in ("direct", "reasoning")}
    assert {row["mode"] for row in prompts.rows} == {"direct", "reasoning"}
    for row, found in zip(prompts.rows, ids, strict=True):
        assert found in asked[row["mode"]]


def test_a_tokenizer_that_adds_a_token_of_its_own_does_not_change_the_prompt(
    folder: Path, names: Names, interactions: Interactions, prompter: Prompter
) -> None:
    """Llama's tokenizer puts a BOS before every text; its chat template has one already."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = prompter.tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.pad_token_id)]
    )
    text = prompter.direct_text([1, 2])
    assert tokenizer(text=[text])["input_ids"][0][0] == tokenizer.pad_token_id  # what the parent would do
    prompts = training_prompts(interactions, prompter, settings())
    trainer = SRPOTrainer(
        model=load_model(folder, names)[0],
        reward_funcs=reward_functions(prompter, TrieConstraint(names)),
        args=trainer_arguments(settings(beta=0.0), folder / "trainer"),
        train_dataset=Dataset.from_list(prompts.rows),
        processing_class=tokenizer,
        bonus_k=2,
        bonus_weight=1.0,
    )
    assert trainer._tokenize_prompts([text])[0] == [prompter.direct([1, 2])]


def test_reward_columns_are_graded_reward_and_exact_hit(prompter: Prompter, names: Names) -> None:
    end, logged = prompter.end_of_turn, {}
    codes = names.codes
    near = next(i for i in range(1, len(codes)) if codes[i][0] == codes[0][0] and codes[i][1] != codes[0][1])
    completions = [[*prompter.name_ids(0), end], [*prompter.name_ids(near), end], [end]]
    options = {
        "completion_ids": completions,
        "target": [codes[0].tolist()] * 3,
        "mode": ["direct", "direct", "reasoning"],
        "log_metric": lambda name, value: logged.update({name: value}),
        "trainer_state": None,
    }
    graded, exact = reward_functions(prompter, TrieConstraint(names))
    assert graded(**options) == pytest.approx([1.0, np.sqrt(1 / 3), 0.0])
    assert exact(**options) == [1.0, 0.0, 0.0]
    share = pytest.approx(2 / 3)
    assert (logged["well_formed"], logged["valid"]) == (share, share)
    assert logged["reward_direct"] == pytest.approx((1 + np.sqrt(1 / 3)) / 2)
    assert logged["reward_reasoning"] == 0.0


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


def test_stage_writes_a_changed_model_and_its_report(run_dir: Path, names: Names) -> None:
    config = settings(run_dir=str(run_dir), reasoning_share=0.5)
    srpo.run(config)
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
    assert counts["reasoning_prompts"] == P
    assert counts["completions"] == 2 * P * G
    assert {path.name for path in (run_dir / "srpo").iterdir()} >= {"model.safetensors", "srpo_report.json"}


def test_names_without_an_order_are_rewarded_by_codebook(prompter: Prompter, names: Names) -> None:
    """A hit spelled backwards, and an item that shares only its last code: sqrt(1 / 3)."""
    unordered = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    reader = Prompter(prompter.tokenizer, unordered, max_history=5)
    same = (names.codes == names.codes[0]).tolist()
    item = same.index([False, False, True])
    target = names.codes[0].tolist()
    options = {
        "completion_ids": [[*prompter.name_ids(i)[::-1], prompter.end_of_turn] for i in (0, item)],
        "target": [target, target],
        "mode": ["direct", "direct"],
    }
    graded, exact = reward_functions(reader, constraint_of(unordered))
    assert graded(**options, log_metric=lambda *_: None) == pytest.approx([1.0, np.sqrt(1 / 3)])
    assert exact(**options) == [1.0, 0.0]


def test_a_disambiguation_code_alone_earns_nothing(prompter: Prompter, names: Names) -> None:
    """The item shares only its last code with the target, which numbers the items that share all others."""
    unordered = Names(SidLayout((3, 4, 5), ordered=False, disambiguation=True), names.codes)
    reader = Prompter(prompter.tokenizer, unordered, max_history=5)
    item = (names.codes == names.codes[0]).tolist().index([False, False, True])
    graded, _ = reward_functions(reader, constraint_of(unordered))
    completion = [*prompter.name_ids(item), prompter.end_of_turn]
    options = {"completion_ids": [completion], "target": [names.codes[0].tolist()], "mode": ["direct"]}
    valid: dict[str, float] = {}
    assert graded(**options, log_metric=lambda name, value: valid.update({name: value})) == [0.0]
    assert valid["valid"] == 1.0


def test_the_stage_runs_with_names_without_an_order(
    run_dir: Path, names: Names, model_and_tokenizer: tuple[Any, Any]
) -> None:
    unordered = Names(SidLayout((3, 4, 5), ordered=False), names.codes)
    with artifacts.writing(run_dir / "free", stage="sids", config={}, inputs={}, seed=0) as draft:
        save_names(draft.path, unordered)
    with artifacts.writing(run_dir / "sft-free", stage="sft", config={}, inputs={}, seed=0) as draft:
        save_model(draft.path, *model_and_tokenizer, unordered)
    srpo.run(settings(run_dir=str(run_dir), sids="free", model="sft-free", output="out", reasoning_share=0.5))
    before, _ = load_model(run_dir / "sft-free", unordered)
    after, _ = load_model(run_dir / "out", unordered)
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)


def test_same_seed_gives_the_same_bytes(run_dir: Path) -> None:
    outputs = []
    for name in ("one", "two"):
        srpo.run(settings(run_dir=str(run_dir), output=name))
        outputs.append(artifacts.read_manifest(run_dir / name).outputs)
    assert outputs[0] == outputs[1]


def test_training_makes_rewarded_completions_likelier(folder: Path, names: Names) -> None:
    model, tokenizer = load_model(folder, names)
    prompter = Prompter(tokenizer, names, max_history=5)
    prompt = torch.tensor([prompter.direct([1, 2])])

    def even_mass() -> float:
        with torch.no_grad():
            return float(model(prompt).logits[0, -1].softmax(-1)[::2].sum())

    before = even_mass()
    config = settings(
        max_steps=16,
        beta=0.0,
        num_generations=32,
        micro_batch_size=64,
        max_completion_length=1,
        learning_rate=1e-2,
    )
    trainer = SRPOTrainer(
        model=model,
        reward_funcs=[even_first, even_first],
        args=trainer_arguments(config, folder / "trainer"),
        train_dataset=Dataset.from_list([{"prompt": prompter.direct_text([1, 2])}] * P * 16),
        processing_class=tokenizer,
        bonus_k=2,
        bonus_weight=1.0,
    )
    trainer.train()
    assert even_mass() > before + 0.15


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
        ({"reasoning_share": 1.5}, "reasoning_share is 1.5; give a share between 0 and 1"),
        ({"micro_batch_size": 3}, "8 completions of a batch cannot be split into passes of 3"),
        ({"min_history": 40}, "No user has more than 40 training purchases; lower min_history"),
    ],
)
def test_settings_that_cannot_work_are_told(run_dir: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        srpo.run(settings(run_dir=str(run_dir), **changed))
    assert not (run_dir / "srpo").exists()


def test_trl_still_has_what_srpo_stands_on() -> None:
    """When this fails, TRL has moved: compare each name with the trainer's source before raising the pin."""
    overridden = {
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_tokenize_prompts": ["self", "prompts"],
    }
    for method, parameters in overridden.items():
        found = list(inspect.signature(getattr(GRPOTrainer, method)).parameters)
        assert found == parameters, f"GRPOTrainer.{method} now takes {found}; SRPOTrainer overrides it."
    scoring = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for used in ('"advantages": advantages', 'self._logs["advantages"]', "self._metrics[mode]"):
        assert used in scoring, f"GRPOTrainer no longer uses `{used}`, which SRPOTrainer rewrites or extends."
    assert "gather(rewards_per_func)" in inspect.getsource(GRPOTrainer._calculate_rewards), (
        "GRPOTrainer._calculate_rewards no longer gathers; SRPOTrainer takes its result as all devices' rows."
    )
    assert '"log_metric"' in inspect.getsource(GRPOTrainer._calculate_rewards), (
        "Reward functions no longer receive log_metric."
    )
    tokenising = inspect.getsource(GRPOTrainer._tokenize_prompts)
    assert "return prompt_ids, images, multimodal_fields" in tokenising, (
        "GRPOTrainer._tokenize_prompts returns something else than ids, images and fields."
    )
    fields = GRPOConfig.__dataclass_fields__
    passed = inspect.signature(GRPOConfig).parameters
    for name in ("generation_batch_size", "shuffle_dataset", "reward_weights", "loss_type", "num_iterations"):
        assert name in fields and name in passed, f"GRPOConfig no longer has {name}."
