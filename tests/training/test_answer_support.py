"""The learner's log-probabilities in TRL's trainer: against the sampler's, and a walk over all names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import GraniteConfig, GraniteForCausalLM
from trl import GRPOConfig, GRPOTrainer

from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names
from gream.training.adapters import NAMES, adapt, plain_model
from gream.training.answer_support import AnswerSupport, mode_of
from gream.training.rollouts import RolloutWriter, Written
from tests.training.trie_reference import (
    ScriptedChains,
    legal_next,
    name_logps,
    sharpen,
    unordered,
    whole_logps,
)

G, L, TEMPERATURE = 3, 3, 0.7
HISTORIES = [[3, 1], [7, 2, 9, 4]]


@pytest.fixture(params=["ordered", "unordered"])
def any_prompter(request: pytest.FixtureRequest, model_and_tokenizer: Any, names: Names) -> Prompter:
    """The toy prompter with names of either kind."""
    given = names if request.param == "ordered" else unordered(names)
    return Prompter(model_and_tokenizer[1], given, max_history=5)


@pytest.fixture
def model(model_and_tokenizer: tuple[Any, Any]) -> Any:
    sharpen(model_and_tokenizer[0])
    return model_and_tokenizer[0]


class SupportingTrainer(GRPOTrainer):
    """TRL's trainer with the support in its place, as `srpo` has it."""

    support: AnswerSupport | None = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        ask = super()._get_per_token_logps_and_entropies
        if self.support is None:
            return ask(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        plain = self.accelerator.unwrap_model(model)
        with self.support.watch(plain, input_ids, attention_mask, logits_to_keep) as watched:
            logps, entropies, loss = ask(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        return *watched.put(logps, entropies), loss


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., SupportingTrainer]:
    """Build a trainer around a model, with the support of a prompter's names."""

    def build(model: Any, prompter: Prompter, temperature: float = TEMPERATURE) -> SupportingTrainer:
        built = SupportingTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", temperature=temperature,
                num_generations=G, per_device_train_batch_size=G, gradient_checkpointing=False, beta=0.0,
            ),
            train_dataset=Dataset.from_list([{"prompt": "x"}]),
            processing_class=prompter.tokenizer,
        )  # fmt: skip
        built.support = AnswerSupport(model, prompter, constraint_of(prompter.names), temperature=temperature)
        return built

    return build


def chain(prompter: Prompter, words: str) -> list[int]:
    return prompter.encode(f"{words}\n</think>\n<answer>")


def prompts_of(prompter: Prompter) -> list[list[int]]:
    """Direct and reasoning prompts of unequal lengths."""
    return [
        prompter.direct(HISTORIES[0]),
        prompter.reasoning(HISTORIES[0]),
        prompter.direct(HISTORIES[1]),
        prompter.reasoning(HISTORIES[1]),
    ]


def written_by(
    model: Any, prompter: Prompter, kind: str = "constrained", temperature: float = TEMPERATURE
) -> list[Written]:
    backend = ScriptedChains(model, 0)
    backend.chains = [
        chain(prompter, "more ink"),
        chain(prompter, f"as {prompter.name(3)} and tents"),
        [5, 6],
    ]
    options: dict[str, Any] = {"num_generations": G, "temperature": temperature, "max_tokens": 40}
    writer = RolloutWriter(backend, prompter, constraint_of(prompter.names), kind=kind, **options)
    return writer.write(prompts_of(prompter), seed=4)


def batch(prompter: Prompter, completions: list[list[int]]) -> tuple[Tensor, Tensor, int]:
    """Ids, mask and completion size as TRL makes them: prompts end together, completions begin together."""
    prompts = [prompt for prompt in prompts_of(prompter) for _ in range(G)]
    before, size = max(map(len, prompts)), max(map(len, completions))
    rows = [
        [0] * (before - len(p)) + p + c + [0] * (size - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    mask = [
        [0] * (before - len(p)) + [1] * (len(p) + len(c)) + [0] * (size - len(c))
        for p, c in zip(prompts, completions, strict=True)
    ]
    return torch.tensor(rows), torch.tensor(mask), size


def test_the_ratio_of_the_first_step_is_one(
    model: Any, any_prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    """Of codes, in both modes and padded; what stands behind the name has log-probability 0."""
    written = written_by(model, any_prompter)
    ours = trainer(model, any_prompter)
    logps, _, _ = ours._get_per_token_logps_and_entropies(
        model, *batch(any_prompter, [w.ids for w in written])
    )
    answered = 0
    for row, completion in enumerate(written):
        if not completion.code_logps:
            continue
        behind = 1 if row // G % 2 == 0 else 2
        first = len(completion.ids) - behind - L
        torch.testing.assert_close(
            logps[row, first : first + L], torch.tensor(completion.code_logps), atol=1e-5, rtol=0
        )
        assert logps[row, first + L : len(completion.ids)].tolist() == [0.0] * behind
        answered += 1
    assert answered == 2 * G + 2 * (G - 1)  # one chain in three was cut


@pytest.mark.parametrize("temperature", [TEMPERATURE, 1.0])
def test_values_and_gradients_are_those_of_a_walk_over_all_names(
    model: Any, any_prompter: Prompter, trainer: Callable[..., SupportingTrainer], temperature: float
) -> None:
    completions = [w.ids for w in written_by(model, any_prompter, temperature=temperature)]
    ours = trainer(model, any_prompter, temperature)
    ids, mask, size = batch(any_prompter, completions)
    logps, _, _ = ours._get_per_token_logps_and_entropies(model, ids, mask, size)
    prompts = [prompt for prompt in prompts_of(any_prompter) for _ in range(G)]
    expected = []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        values = whole_logps(model, prompt, completion, temperature)
        behind = 1 if row // G % 2 == 0 else 2
        if completion[-1] == any_prompter.end_of_turn:
            first = len(completion) - behind - L
            name = completion[first : first + L]
            own = name_logps(model, any_prompter, [*prompt, *completion[:first]], name, temperature)
            values = torch.cat([values[:first], own, torch.zeros(behind)])
        expected.append(torch.nn.functional.pad(values, (0, size - len(completion))))
    real = mask[:, -size:]
    torch.testing.assert_close(logps * real, torch.stack(expected), atol=1e-5, rtol=0)

    weights = torch.randn(logps.shape, generator=torch.Generator().manual_seed(0)) * real
    gradients = [
        torch.autograd.grad((values * weights).sum(), list(model.parameters()))
        for values in (logps, torch.stack(expected))
    ]
    for mine, slow in zip(*gradients, strict=True):
        # float32 sums over the batch in another order; gradients are of the order of 10
        torch.testing.assert_close(mine, slow, atol=1e-4, rtol=1e-4)


def test_a_batch_in_parts_is_the_batch_at_once(
    model: Any, prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    inputs = batch(prompter, [w.ids for w in written_by(model, prompter)])
    ours = trainer(model, prompter)
    whole = ours._get_per_token_logps_and_entropies(model, *inputs, compute_entropy=True)
    parts = ours._get_per_token_logps_and_entropies(model, *inputs, 5, compute_entropy=True)  # of 12
    torch.testing.assert_close(parts[:2], whole[:2], atol=1e-5, rtol=0)


def test_what_was_sampled_freely_keeps_the_values_of_the_trainer(
    model: Any, prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    """Chains, and completions that hold no whole legal name with its end, in the right mode."""
    name, end, close = prompter.name_ids(7), prompter.end_of_turn, prompter.answer_end
    opened = chain(prompter, "ink")
    absent = next(
        [*name[:2], token] for token in prompter.level_block(2) if token not in legal_next(prompter, name[:2])
    )
    strays = [  # in turn for a direct and a reasoning prompt
        # unreal; without its end; in a wrong order
        [[*absent, end], [*name, 5], [name[1], name[0], name[2], end]],
        # twice without a chain; unreal
        [[*name, end], [*name, close, end], [*opened, *absent, close, end]],
        # two names; a piece; with a chain
        [[*name, *name, end], [*name[:2], end], [*opened, *name, close, end]],
        # without its end; a piece; something before it
        [[*opened, *name, close, 5], [*opened, *name[:2], close, end], [*opened, 5, *name, close, end]],
    ]
    inputs = batch(prompter, [ids for group in strays for ids in group])
    ours = trainer(model, prompter)
    supported = ours._get_per_token_logps_and_entropies(model, *inputs, compute_entropy=True)
    support, ours.support = ours.support, None
    plain = ours._get_per_token_logps_and_entropies(model, *inputs, compute_entropy=True)
    assert torch.equal(supported[0], plain[0]) and torch.equal(supported[1], plain[1])
    # Everything before an answer is the trainer's too.
    inputs = batch(prompter, [w.ids for w in written_by(model, prompter)])
    plain = ours._get_per_token_logps_and_entropies(model, *inputs)
    ours.support = support
    supported = ours._get_per_token_logps_and_entropies(model, *inputs)
    differ = (supported[0] != plain[0]).sum(dim=1).tolist()
    assert differ == [L + 1] * G + [L + 2, L + 2, 0] + [L + 1] * G + [L + 2, L + 2, 0]


def test_the_entropy_of_a_code_is_that_over_the_legal_ones(
    model: Any, any_prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    completions = [w.ids for w in written_by(model, any_prompter)]
    ours = trainer(model, any_prompter)
    _, entropies, _ = ours._get_per_token_logps_and_entropies(
        model, *batch(any_prompter, completions), compute_entropy=True
    )
    prompt, ids = prompts_of(any_prompter)[0], completions[0]
    for place in range(L):
        legal = legal_next(any_prompter, ids[:place])
        scores = model(torch.tensor([[*prompt, *ids[:place]]])).logits[0, -1, legal] / TEMPERATURE
        expected = torch.distributions.Categorical(logits=scores).entropy()
        torch.testing.assert_close(entropies[0, place], expected, atol=1e-5, rtol=0)
    assert entropies[0, L] == 0
    assert torch.autograd.grad(entropies.sum(), model.get_output_embeddings().weight)[0].isfinite().all()


def test_beams_are_learnt_from_over_the_same_choices(
    model: Any, prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    written = written_by(model, prompter, kind="beam")
    logps, _, _ = trainer(model, prompter)._get_per_token_logps_and_entropies(
        model, *batch(prompter, [w.ids for w in written])
    )
    expected = name_logps(model, prompter, prompts_of(prompter)[0], written[0].ids[:L], TEMPERATURE)
    torch.testing.assert_close(logps[0, :L], expected, atol=1e-5, rtol=0)


def test_adapters_learn_over_the_same_choices(
    model: Any, prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    """The engine writes through the adapters, after they have learnt something."""
    wrapped: Any = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    with torch.no_grad():
        for number, (name, parameter) in enumerate(wrapped.named_parameters()):
            if parameter.requires_grad and "lora_A" not in name:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter.add_(0.05 * noise)
    written = written_by(plain_model(wrapped), prompter)
    ours = trainer(wrapped, prompter)
    logps, _, _ = ours._get_per_token_logps_and_entropies(wrapped, *batch(prompter, [w.ids for w in written]))
    for row in range(G):
        torch.testing.assert_close(logps[row, :L], torch.tensor(written[row].code_logps), atol=1e-5, rtol=0)
    logps[0, :L].sum().backward()
    learnt = [p for p in wrapped.parameters() if p.requires_grad]
    assert learnt and all(p.grad is not None for p in learnt)


def test_the_mode_of_a_prompt_is_read_from_its_end(prompter: Prompter) -> None:
    assert [mode_of(p, prompter) for p in prompts_of(prompter)] == ["direct", "reasoning"] * 2


def test_the_model_is_left_as_it_was(
    model: Any, prompter: Prompter, trainer: Callable[..., SupportingTrainer]
) -> None:
    ours = trainer(model.train(), prompter)
    assert model.training
    ids, mask, size = batch(prompter, [w.ids for w in written_by(model, prompter)])
    with pytest.raises(IndexError):
        ours._get_per_token_logps_and_entropies(model, ids + 10_000, mask, size)
    assert not model.get_decoder()._forward_hooks


def test_a_model_that_did_not_run_over_the_batch_is_noticed(model: Any, prompter: Prompter) -> None:
    support = AnswerSupport(model, prompter, constraint_of(prompter.names), temperature=1.0)
    ids, mask, size = batch(prompter, [w.ids for w in written_by(model, prompter)])
    with support.watch(model, ids, mask, size) as watched:
        model(ids[:5], attention_mask=mask[:5])
    with pytest.raises(ValueError, match="ran over 5 rows of a batch of 12"):
        watched.put(torch.zeros(len(ids), size))


def test_a_model_that_scales_its_logits_is_refused(prompter: Prompter) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    scaled = GraniteForCausalLM(GraniteConfig(vocab_size=512, logits_scaling=3.0, **sizes))
    with pytest.raises(InputError, match="scales or caps the logits .* rollouts 'free'"):
        AnswerSupport(scaled, prompter, constraint_of(prompter.names), temperature=1.0)


def test_weights_that_are_elsewhere_are_refused(model: Any, prompter: Prompter) -> None:
    """As ZeRO-3 leaves them: a parameter without numbers."""
    model.get_output_embeddings().weight = torch.nn.Parameter(torch.empty(0))
    with pytest.raises(InputError, match="0 rows here, .* use DDP or ZeRO-2, or rollouts 'free'"):
        AnswerSupport(model, prompter, constraint_of(prompter.names), temperature=1.0)


def test_a_temperature_of_zero_is_refused(model: Any, prompter: Prompter) -> None:
    with pytest.raises(InputError, match="temperature is 0.0; give a number above 0"):
        AnswerSupport(model, prompter, constraint_of(prompter.names), temperature=0.0)


def test_an_adapter_on_the_output_embedding_is_refused(model: Any, prompter: Prompter) -> None:
    wrapped = adapt(model, prompter, NAMES, rank=2, alpha=2, seed=0)  # tied: the rows of both embeddings
    with pytest.raises(InputError, match="is a TrainableTokensWrapper, .* adapters on the layers inside"):
        AnswerSupport(wrapped, prompter, constraint_of(prompter.names), temperature=1.0)
