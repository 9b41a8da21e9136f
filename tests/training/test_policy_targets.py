"""Targets for a scorer on the policy's states: nothing leaks, both losses arrive, serving sees the same."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gream.data.store import VALIDATION, Case, Interactions
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext
from gream.decoding.torch_backend import TorchBackend
from gream.language.prompting import Prompter
from gream.semantic_ids.layout import Names
from gream.training import prm
from gream.training.path_loss import draw_negatives, path_loss
from gream.training.policy_targets import PolicyTargets
from gream.training.prm import PrmConfig
from tests.training.planted import aucs, new_scorer

CASES = [Case(0, np.array([3]), 7), Case(1, np.array([5, 9, 1, 7]), 2), Case(2, np.array([2, 2]), 11)]


@pytest.fixture
def scorer(names: Names) -> PrefixPathScorer:
    """A scorer for the toy model whose every weight matters."""
    scorer = new_scorer(names, policy_size=32)
    for weight in scorer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return scorer.eval()


def new_targets(
    model: Any, prompter: Prompter, sequences: list[np.ndarray], *, train: bool = False, each: int = 2
) -> PolicyTargets:
    return PolicyTargets(model, prompter, sequences, 16, per_sequence=each, train_policy=train)


def same(left: ScorerContext, right: ScorerContext) -> bool:
    pairs = zip(vars(left).values(), vars(right).values(), strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b == () for a, b in pairs)


def test_other_targets_leave_contexts_and_scores_bit_identical(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, scorer: PrefixPathScorer
) -> None:
    targets = new_targets(model_and_tokenizer[0], prompter, [])
    others = [replace(case, target=target) for case, target in zip(CASES, (20, 13, 5), strict=True)]
    contexts = [targets.contexts(scorer, cases) for cases in (CASES, others)]
    assert same(*contexts)
    nodes = torch.tensor(scorer.level_nodes[2]).expand(3, -1)
    assert torch.equal(*(scorer.score(context, 2, nodes) for context in contexts))
    shorter = [replace(case, history=case.history[:1]) for case in CASES]
    assert not same(contexts[0], targets.contexts(scorer, shorter))


def test_no_gradient_of_a_score_reaches_the_targets_tokens(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, scorer: PrefixPathScorer
) -> None:
    model = model_and_tokenizer[0]
    targets = new_targets(model, prompter, [], train=True)
    inputs: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.retain_grad()
        inputs.append(output)

    handle = model.get_input_embeddings().register_forward_hook(keep)
    context, _ = targets.read(scorer, targets.collate(CASES))
    handle.remove()
    nodes = torch.tensor(scorer.level_nodes[1]).expand(3, -1)
    scorer.logits(context, 1, nodes, scorer.affinities(context, 1)).sum().backward()
    gradient = inputs[0].grad  # (B, T, H)
    assert gradient is not None
    assert gradient[:, -3:].abs().max() == 0  # the three tokens of the target's name
    assert (gradient[:, :-3].abs().amax(dim=2) > 0).sum(dim=1).tolist() == [
        len(prompter.direct(case.history)) for case in CASES
    ]


def test_training_reads_what_serving_reads(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, scorer: PrefixPathScorer
) -> None:
    model, tokenizer = model_and_tokenizer
    histories = [case.history.tolist() for case in CASES]
    backend = TorchBackend(model, tokenizer.pad_token_id)
    session = backend.start([prompter.direct(h) for h in histories], keep_states=True)
    served = scorer.context(histories, session)
    trained = new_targets(model, prompter, []).contexts(scorer, CASES)
    for level, nodes in enumerate(scorer.level_nodes):
        wanted = torch.tensor(nodes).expand(3, -1)
        torch.testing.assert_close(
            scorer.score(trained, level, wanted), scorer.score(served, level, wanted), rtol=1e-4, atol=1e-4
        )


def test_the_joint_loss_adds_the_next_token_loss_of_the_names(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, scorer: PrefixPathScorer
) -> None:
    """The policy's part by hand: every row alone, without padding."""
    model = model_and_tokenizer[0]
    targets = new_targets(model, prompter, [], train=True)
    batch = targets.collate(CASES)
    loss = targets.loss(scorer, batch, 1000, torch.Generator())
    expected = 0.0
    for case in CASES:
        tokens = prompter.direct(case.history) + prompter.name_ids(case.target)
        with torch.no_grad():
            logps = model(torch.tensor([tokens])).logits[0, -4:-1].log_softmax(-1)
        expected -= logps[torch.arange(3), tokens[-3:]].sum().item()
    with torch.no_grad():
        alone = path_loss(
            scorer,
            targets.contexts(scorer, CASES),
            batch.targets,
            draw_negatives(scorer, batch.targets, 1000, torch.Generator()),
        )
    assert loss.item() == pytest.approx(expected + alone.item(), rel=1e-4)
    loss.backward()
    for module in (model, scorer.reader, scorer.rows):
        assert all(weight.grad is not None and weight.grad.any() for weight in module.parameters())


def test_a_policy_that_is_not_trained_along_stays_as_it_is(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, interactions: Interactions, names: Names
) -> None:
    model = model_and_tokenizer[0]
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = PrmConfig(context="policy", model="m", epochs=1, learning_rate=0.01)
    for train in (False, True):
        targets = new_targets(model, prompter, interactions.training_sequences(), train=train)
        prm.train(new_scorer(names, policy_size=32), targets, CASES, config)
        unchanged = all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
        assert unchanged != train


def test_a_policy_that_is_trained_along_has_a_learning_rate_of_its_own(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, scorer: PrefixPathScorer
) -> None:
    model = model_and_tokenizer[0]
    config = PrmConfig(context="policy", model="m", learning_rate=0.1, policy_learning_rate=0.001)
    targets = new_targets(model, prompter, [], train=True)
    ours, theirs = prm._optimizer(scorer, targets, config).param_groups
    assert ours["lr"] == 0.1 and ours["params"][0] is next(scorer.parameters())
    assert theirs["lr"] == 0.001 and theirs["params"][0] is next(model.parameters())


def test_an_epoch_cuts_every_sequence_anew_before_other_purchases(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter
) -> None:
    sequences = [
        np.array([4]),
        np.array([5, 6]),
        np.arange(10, 20),
        np.array([], dtype=int),
        np.array([1, 2, 3]),
    ]
    targets = PolicyTargets(
        model_and_tokenizer[0], prompter, sequences, 2, per_sequence=2, train_policy=False
    )
    epochs = []
    for seed in (0, 0, 1):
        batches = list(targets.batches(torch.Generator().manual_seed(seed)))
        assert len(batches) == targets.num_batches == 3
        pairs = [
            (tuple(history), target)
            for batch in batches
            for history, target in zip(batch.histories, batch.targets.tolist(), strict=True)
        ]
        assert len(set(pairs)) == len(pairs) == len(targets) == 5
        for history, target in pairs:
            (sequence,) = (s.tolist() for s in sequences if len(s) and s[0] == history[0])
            assert sequence[: len(history) + 1] == [*history, target]
        epochs.append(pairs)
    assert epochs[0] == epochs[1] != epochs[2]


class TellingPolicy(torch.nn.Module):
    """A causal policy whose state at a position counts the item tokens so far."""

    device = torch.device("cpu")

    def __init__(self, block: range) -> None:
        super().__init__()
        self.block = block

    def forward(self, tokens: torch.Tensor, *, logits_to_keep: int, **_: object) -> SimpleNamespace:
        seen = (tokens[:, :, None] == torch.tensor(self.block)).float().cumsum(dim=1)
        return SimpleNamespace(logits=torch.zeros(len(tokens), logits_to_keep, 500), hidden_states=[seen])


def test_the_policy_is_run_without_its_padding(prompter: Prompter, scorer: PrefixPathScorer) -> None:
    """A model with rotary positions hides a wrong mask or wrong positions; the engine gives these."""
    asked: dict[str, torch.Tensor] = {}

    class Asked(TellingPolicy):
        def forward(self, tokens: torch.Tensor, **options: Any) -> SimpleNamespace:
            asked.update(mask=options["attention_mask"], positions=options["position_ids"])
            states = torch.zeros(*tokens.shape, 32)
            return SimpleNamespace(logits=super().forward(tokens, **options).logits, hidden_states=[states])

    new_targets(Asked(prompter.item_block), prompter, []).contexts(scorer, CASES)
    for case, mask, positions in zip(CASES, asked["mask"], asked["positions"], strict=True):
        length = len(prompter.direct(case.history)) + 3  # and the name of the target
        assert mask.tolist() == [0] * (len(mask) - length) + [1] * length
        assert positions[-length:].tolist() == list(range(length))


def test_a_planted_rule_is_learnt_at_every_depth_and_is_personal(prompter: Prompter, names: Names) -> None:
    """What is bought next follows from the last name; every item is bought as often as any other."""
    order = np.lexsort(names.codes.T[::-1])
    pairs = [
        (a, b)
        for a, b in zip(order, np.roll(order, -8), strict=True)
        if names.codes[a, 0] != names.codes[b, 0]
    ]
    sequences = [np.array(pair) for pair in pairs]
    cases = [Case(user, s[:1], int(s[1])) for user, s in enumerate(sequences)]
    targets = new_targets(TellingPolicy(prompter.item_block), prompter, sequences * 8)
    scorer = new_scorer(names, policy_size=len(prompter.item_block))
    config = PrmConfig(context="policy", model="m", epochs=7, num_negatives=7, learning_rate=0.03)
    figures = prm.train(scorer, targets, cases, config)
    assert figures[-1]["loss"] < figures[0]["loss"] / 2
    assert min(aucs(scorer, targets.contexts(scorer, cases), cases)) > 0.95
    strangers = [replace(case, history=cases[case.user - 5].history) for case in cases]
    assert max(aucs(scorer, targets.contexts(scorer, strangers), cases)) < 0.7  # popularity gives 0.5


def test_validation_cases_are_read_as_they_are(
    model_and_tokenizer: tuple[Any, Any],
    prompter: Prompter,
    interactions: Interactions,
    scorer: PrefixPathScorer,
) -> None:
    """A case scores the same alone and beside others, and no dropout is left on."""
    cases = interactions.cases(VALIDATION)
    model_and_tokenizer[0].train()
    targets = new_targets(model_and_tokenizer[0], prompter, [], train=True)
    together = prm.ranks_by_scorer(scorer.train(), targets, cases)
    assert not model_and_tokenizer[0].training and not scorer.training
    alone = [int(prm.ranks_by_scorer(scorer, targets, [case])[0]) for case in cases]
    assert together.tolist() == alone
