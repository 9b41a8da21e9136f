"""SRPO's trainer on a toy policy: GRPO where nothing is added, and what each addition does to a batch."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from gream.data.store import Catalogue, Interactions
from gream.language.prompting import Prompter
from gream.language.vocab import save_model
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.training.advantages import advantages_of
from gream.training.answer_support import AnswerSupport
from gream.training.prompt_pool import mode_of_batch
from gream.training.srpo import LOSSES
from gream.training.srpo_trainer import SRPOTrainer
from gream.training.srpo_training import trainer_arguments
from tests.training.policies import G, P, Policy, ToyTerms, even_first, even_share, settings, steps_of


@pytest.fixture
def policy(
    tmp_path: Path,
    model_and_tokenizer: tuple[Any, Any],
    names: Names,
    catalogue: Catalogue,
    interactions: Interactions,
) -> Policy:
    """A model folder; the reference model of GRPO is loaded from it."""
    save_model(tmp_path, *model_and_tokenizer, names)
    return Policy(tmp_path, names, catalogue, interactions)


@pytest.mark.parametrize("loss_type", LOSSES)
def test_with_grpo_advantages_and_nothing_added_it_is_grpo(policy: Policy, loss_type: str) -> None:
    """Both modes and the divergence with the default loss; each loss of TRL once."""
    whole = {"beta": 0.1, "max_steps": 2} if loss_type == "dapo" else {"beta": 0.0, "max_steps": 1}
    config = settings(advantage="grpo", reasoning_share=0.5, loss_type=loss_type, **whole)
    model, parts = policy.parts(config)
    modes = [mode_of_batch(batch, 0.5) for batch in range(config.max_steps)]
    rows = [row for mode in modes for row in parts.pool.draw(P, mode)]
    plain = GRPOTrainer(
        model=model,
        reward_funcs=[even_share, even_first],
        args=trainer_arguments(config, policy.folder / "trainer", [1.0, 0.0]),
        train_dataset=Dataset.from_list(rows),
        processing_class=parts.prompter.tokenizer,
    )
    expected, found = steps_of(plain), steps_of(policy.trainer(config))
    assert len(expected) == len(found) == config.max_steps
    for theirs, mine in zip(expected, found, strict=True):
        assert theirs["reward_std"] > 0  # else both would be zero
        assert mine["reward"] == theirs["reward"]
        # TRL divides by the deviation plus 1e-4, we mask instead.
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=5e-3, abs=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=5e-3)


def test_the_bonus_reaches_the_loss(policy: Policy) -> None:
    without = steps_of(policy.trainer(settings(beta=0.0, advantage="grpo")))
    bonus = steps_of(policy.trainer(settings(beta=0.0, advantage="srpo")))
    assert bonus[0]["reward"] == without[0]["reward"]
    assert bonus[0]["grad_norm"] != pytest.approx(without[0]["grad_norm"], rel=5e-3)


class Watched(SRPOTrainer):
    """Keeps every batch as it is trained on."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seen: list[dict[str, Any]] = []

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self.seen.append({**output, "logged": list(self._logs["advantages"])})
        return output


@pytest.mark.parametrize("kind", ["srpo", "grpo", "dr_grpo", "rloo"])
def test_advantages_of_a_batch_are_those_of_the_recipe(policy: Policy, kind: str) -> None:
    trainer = policy.trainer(settings(advantage=kind), kind=Watched)
    log = steps_of(trainer)
    assert len(trainer.seen) == 2
    for batch, entry in zip(trainer.seen, log, strict=True):
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        rewards, hits = torch.tensor(even_share(ids)).view(P, G), torch.tensor(even_first(ids)).view(P, G)
        expected = advantages_of(kind, rewards, hits, 2)
        torch.testing.assert_close(batch["advantages"].view(P, G), expected)
        assert batch["logged"] == batch["advantages"].tolist()
        assert entry["live_groups"] == (expected != 0).any(dim=1).float().mean().item()


def test_process_advantages_are_added_at_the_tokens_of_their_level(policy: Policy) -> None:
    scores = torch.randn(P * G, 3, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, -1]]).repeat(P * G, 1)
    terms = ToyTerms(process_weight=0.5, process_scores=scores, positions=positions)
    trainer = policy.trainer(settings(advantage="grpo", max_steps=1), terms, Watched)
    steps_of(trainer)
    (batch,) = trainer.seen
    outcome = torch.tensor(batch["logged"])
    by_token = batch["advantages"]
    assert by_token.shape == batch["completion_ids"].shape
    torch.testing.assert_close(by_token[:, 2], outcome)
    for level in (0, 1):
        grouped = scores[:, level].view(P, G)
        z = (grouped - grouped.mean(1, keepdim=True)) / grouped.std(1, keepdim=True)
        torch.testing.assert_close(by_token[:, level], outcome + 0.5 * z.flatten())


def test_prompt_ids_are_those_of_the_prompter(policy: Policy, prompter: Prompter) -> None:
    """Strings go in, and the trainer must tokenise them to the very prompts of serving."""
    trainer = policy.trainer(settings(beta=0.0))
    for mode in ("direct", "reasoning"):
        rows = policy.parts(settings())[1].pool.draw(6, mode)
        ids, _, _ = trainer._tokenize_prompts([row["prompt"] for row in rows])
        assert ids == [getattr(prompter, mode)(row["history"]) for row in rows]


def test_a_tokenizer_that_adds_a_token_of_its_own_does_not_change_the_prompt(policy: Policy) -> None:
    """Llama's tokenizer puts a BOS before every text; its chat template has one already."""
    from tokenizers.processors import TemplateProcessing

    trainer = policy.trainer(settings(beta=0.0))
    tokenizer: Any = trainer.processing_class
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.pad_token_id)]
    )
    prompter = Prompter(tokenizer, policy.names, max_history=5)
    text = prompter.direct_text([1, 2])
    assert tokenizer(text=[text])["input_ids"][0][0] == tokenizer.pad_token_id  # what the parent would do
    assert trainer._tokenize_prompts([text])[0] == [prompter.direct([1, 2])]


def test_training_makes_rewarded_completions_likelier(policy: Policy) -> None:
    config = settings(
        max_steps=8,
        beta=0.0,
        num_generations=32,
        micro_batch_size=64,
        max_completion_length=1,
        learning_rate=2e-2,
        reasoning_share=0.0,
    )
    trainer = policy.trainer(config, ToyTerms([even_first, even_first]))
    prompt = torch.tensor([policy.parts(config)[1].prompter.direct([1, 2])])

    def even_mass() -> float:
        with torch.no_grad():
            return float(trainer.model(prompt).logits[0, -1].softmax(-1)[::2].sum())

    before = even_mass()
    trainer.train()
    assert even_mass() > before + 0.15


@pytest.mark.parametrize("kind", ["constrained", "beam"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_held_to_names_every_answer_is_an_item_and_the_first_ratio_is_one(
    policy: Policy, kind: str, share: float
) -> None:
    config = settings(rollouts=kind, reasoning_share=share, max_completion_length=12, beta=0.1, max_steps=3)
    model, parts = policy.parts(config)
    assert parts.writer is not None
    trainer = Watched(
        terms=parts.terms,
        pool=parts.pool,
        reasoning_share=share,
        advantage="srpo",
        bonus_k=2,
        refill_rounds=0,
        model=model,
        args=trainer_arguments(config, policy.folder / "trainer", parts.terms.weights),
        processing_class=parts.prompter.tokenizer,
    )
    support = AnswerSupport(model, parts.prompter, TrieConstraint(policy.names), temperature=1.0)
    trainer.hold_to_names(parts.writer, support)
    log = steps_of(trainer)
    end = parts.prompter.end_of_turn
    for batch, entry in zip(trainer.seen, log, strict=True):
        if share == 0.0:
            assert entry["valid"] == 1.0
            assert (batch["completion_ids"][:, -1] == end).all()
        assert entry["kl"] == pytest.approx(0.0, abs=1e-6) or entry["step"] > 1
        assert entry["clip_ratio/region_mean"] == 0.0
    if share == 0.0 and kind == "beam":
        for batch in trainer.seen:
            rows = batch["completion_ids"].view(P, G, -1)
            assert all(len(group.unique(dim=0)) == G for group in rows)


def test_trl_still_has_what_srpo_stands_on() -> None:
    """When this fails, TRL has moved: compare each name with the trainer's source before raising the pin."""
    overridden = {
        "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
        "_generate_and_score_completions": ["self", "inputs"],
        "_tokenize_prompts": ["self", "prompts"],
        "_generate_single_turn": [
            "self", "prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images",
        ],
    }  # fmt: skip
    for method, parameters in overridden.items():
        found = list(inspect.signature(getattr(GRPOTrainer, method)).parameters)
        assert found == parameters, f"GRPOTrainer.{method} now takes {found}; SRPOTrainer overrides it."
    logps = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert logps[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"], (
        f"GRPOTrainer._get_per_token_logps_and_entropies begins with {logps[:5]}; SRPOTrainer overrides it."
    )
    scoring = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for used in ('"advantages": advantages', 'self._logs["advantages"]', "self._metrics[mode]"):
        assert used in scoring, f"GRPOTrainer no longer uses `{used}`, which SRPOTrainer rewrites or extends."
    grading = inspect.getsource(GRPOTrainer._calculate_rewards)
    assert "gather(rewards_per_func)" in grading, (
        "GRPOTrainer._calculate_rewards no longer gathers; SRPOTrainer takes its result as all devices' rows."
    )
    assert '"log_metric"' in grading, "Reward functions no longer receive log_metric."
    assert "return prompt_ids, images, multimodal_fields" in inspect.getsource(
        GRPOTrainer._tokenize_prompts
    ), "GRPOTrainer._tokenize_prompts returns something else than ids, images and fields."
    loss = inspect.getsource(GRPOTrainer._compute_loss)
    assert 'inputs.get("old_per_token_logps")' in loss, (
        "GRPOTrainer._compute_loss no longer takes a batch's old log-probabilities, as refilled groups need."
    )
    assert "fused_lm_head=True" in inspect.getsource(GRPOTrainer._get_per_token_logps_and_entropies), (
        "GRPOTrainer no longer scores by one pass over the decoder, which AnswerSupport watches."
    )
    fields = GRPOConfig.__dataclass_fields__
    passed = inspect.signature(GRPOConfig).parameters
    for name in ("generation_batch_size", "shuffle_dataset", "reward_weights", "loss_type", "num_iterations"):
        assert name in fields and name in passed, f"GRPOConfig no longer has {name}."
