"""The scorer on a policy's hidden states: formula, padding, files, and the search that hands them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.beam import Guide, beam_search
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_context import ScorerContext
from gream.decoding.scorer_file import load_scorer, save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.collisions import name_new_items
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names
from gream.semantic_ids.quantiser import SumQuantiser

SHAPE = ScorerShape(hidden_size=8, dropout=0.2, max_history=6, policy_size=5)


class States:
    """A session that only knows hidden states."""

    def __init__(self, states: torch.Tensor, real: torch.Tensor) -> None:
        self.states, self.real = states, real

    def prompt_states(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.states, self.real

    def first(self, block: range) -> torch.Tensor:
        raise NotImplementedError

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        raise NotImplementedError


def new_scorer(names: Names, shape: ScorerShape = SHAPE) -> PrefixPathScorer:
    """A scorer whose every weight matters: large random ones, also where training starts at zero."""
    torch.manual_seed(0)
    scorer = PrefixPathScorer(TrieConstraint(names), shape)
    for weight in scorer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return scorer.eval()


def states_of(lengths: Sequence[int], width: int, *, right: bool = False) -> States:
    """Random states of prompts of these lengths; padding, on the left or right, holds large numbers."""
    states = torch.full((len(lengths), width, 5), 1e3)
    real = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(0, length) if right else slice(width - length, width)
        states[row, place] = torch.randn(length, 5, generator=torch.Generator().manual_seed(row))
        real[row, place] = True
    return States(states, real)


def every_score(
    scorer: PrefixPathScorer, histories: list[list[int]], session: States, level: int = 2
) -> torch.Tensor:
    context = scorer.context(histories, session)
    nodes = torch.tensor(scorer.level_nodes[level]).expand(len(histories), -1)
    return scorer.score(context, level, nodes)


def test_a_score_equals_the_formula_written_out(names: Names) -> None:
    scorer, history = new_scorer(names), [3, 0, 11]
    node = int(scorer.item_nodes[0, 1])  # items 3 and 0 lie below it, item 11 does not
    first = int(scorer.ancestors[node, 0])
    session = states_of([4], 6)
    context = scorer.context([history], session)
    with torch.inference_mode():
        row = scorer.rows.weight[first] + scorer.rows.weight[node]
        path = scorer.path(row)
        states = scorer.reader(session.states[0, 2:])  # (4, 8), the padding left out
        logits = torch.stack([scorer.query(path) @ scorer.key(s) / 4**0.5 for s in states])
        path = path + sum(w * scorer.value(s) for w, s in zip(logits.softmax(0), states, strict=True))
        path = path + scorer.feed_forward(path)
        returns = scorer.return_ages.weight[2, 1] + scorer.return_ages.weight[1, 1]  # 0 is the newest's
        expected = scorer.head(path)[0] + row @ scorer.state(states[-1]) + returns
    torch.testing.assert_close(scorer.score(context, 1, torch.tensor([[node]]))[0, 0], expected)


@pytest.mark.parametrize("right", [False, True])
def test_padding_on_either_side_is_never_seen(names: Names, right: bool) -> None:
    scorer, histories = new_scorer(names), [[1, 2], [], [5, 6, 7, 8]]
    beside = every_score(scorer, histories, states_of([2, 1, 4], 7, right=right))
    for row, length in enumerate([2, 1, 4]):
        whole = states_of([2, 1, 4], 4, right=True)
        alone = States(whole.states[row : row + 1, :length], whole.real[row : row + 1, :length])
        torch.testing.assert_close(
            beside[row : row + 1], every_score(scorer, [histories[row]], alone), rtol=1e-5, atol=1e-5
        )  # other matrix shapes, other rounding


def test_states_of_half_precision_give_float32_scores(names: Names) -> None:
    session = states_of([3], 3)
    scores = every_score(new_scorer(names), [[1]], States(session.states.bfloat16(), session.real))
    assert scores.dtype == torch.float32


def test_the_states_of_a_model_of_another_width_are_refused(names: Names) -> None:
    """As when a sweep searches a smaller model with the scorer of the larger one."""
    wider = States(torch.zeros(1, 3, 7), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(InputError, match="reads hidden states of width 5, but this model's have 7; give the"):
        new_scorer(names).context([[1]], wider)


def test_a_saved_scorer_is_read_back_with_its_context(names: Names, tmp_path: Path) -> None:
    scorer, session = new_scorer(names), states_of([2, 4], 5)
    save_scorer(tmp_path, scorer, names)
    loaded = load_scorer(tmp_path, names)
    assert loaded.shape == SHAPE
    assert loaded.reads_states
    histories = [[1, 2, 3], [4]]
    assert torch.equal(every_score(loaded, histories, session), every_score(scorer, histories, session))


def test_a_saved_scorer_goes_on_with_items_that_were_named_later(
    tmp_path: Path, names: Names, codebooks: list[np.ndarray]
) -> None:
    save_scorer(tmp_path, new_scorer(names), names)
    vectors = np.random.default_rng(7).normal(size=(9, 8)).astype(np.float32)
    longer = name_new_items(vectors, SumQuantiser("residual_kmeans", codebooks), names)
    session, histories = states_of([3, 2], 3), [[0, 3, 5], [7]]
    scores = []
    for owner in (names, longer):
        scorer = load_scorer(tmp_path, owner)
        leaves = scorer.item_nodes[:, -1].expand(2, -1)
        scores.append(scorer.score(scorer.context(histories, session), 2, leaves))
    torch.testing.assert_close(scores[1][:, : len(names)], scores[0])
    assert torch.isfinite(scores[1]).all()
    assert scores[1].shape[1] == len(names) + 9


def test_the_search_hands_the_policys_states_to_the_scorer(
    model_and_tokenizer: tuple[Any, Any], prompter: Prompter, names: Names
) -> None:
    """What the search found is scored by the states of a plain pass of the model over each prompt alone."""
    model, tokenizer = model_and_tokenizer
    scorer = new_scorer(names, ScorerShape(hidden_size=8, max_history=6, policy_size=32))
    histories = [[3], [5, 9, 1, 7], [2, 2]]
    prompts = [prompter.direct(history) for history in histories]
    contexts: list[ScorerContext] = []
    guide = Guide(scorer, 9, lambda s: contexts.append(scorer.context(histories, s)) or contexts[0])
    results = beam_search(
        TorchBackend(model, tokenizer.pad_token_id, batch_size=2),
        prompts,
        TrieConstraint(names),
        prompter.search_blocks(),
        num_beams=5,
        guide=guide,
    )
    assert len(contexts) == 1  # once for all levels
    for history, prompt, result in zip(histories, prompts, results, strict=True):
        with torch.inference_mode():
            states = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1]
        session = States(states, torch.ones(1, len(prompt), dtype=torch.bool))
        leaves = scorer.item_nodes[result.items, -1][None]
        expected = scorer.score(scorer.context([history], session), 2, leaves)[0]
        assert result.scores is not None
        torch.testing.assert_close(torch.tensor(result.scores), expected, rtol=1e-3, atol=1e-4)
