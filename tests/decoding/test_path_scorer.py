"""The scorer's network: what it sees and must not see, what it refuses, and that it steers the search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gream.decoding.backend import Session
from gream.decoding.beam import Guide, beam_search
from gream.decoding.neighbours import copurchased, lookalikes
from gream.decoding.path_scorer import PrefixPathScorer
from gream.decoding.scorer_file import SHAPE_FILE, WEIGHTS_FILE, load_scorer, save_scorer
from gream.decoding.scorer_shape import ScorerShape
from gream.errors import InputError
from gream.semantic_ids.collisions import name_new_items
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.quantiser import SumQuantiser

SHAPE = ScorerShape(hidden_size=8, num_layers=2, num_heads=2, dropout=0.2, max_history=6)
NUM_ITEMS = 24  # of the fixture `names`


def new_scorer(names: Names, **most: int) -> PrefixPathScorer:
    """A scorer whose every weight matters: large random ones, also where training starts at zero."""
    torch.manual_seed(0)
    scorer = PrefixPathScorer(TrieConstraint(names), replace(SHAPE, **most))
    for weight in scorer.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    rng = np.random.default_rng(2)
    if "neighbours" in most:
        bought = [rng.integers(NUM_ITEMS, size=rng.integers(9)) for _ in range(40)]
        scorer.sources["copurchases"].fill(copurchased(bought, NUM_ITEMS, most["neighbours"]))
    if "lookalikes" in most:
        texts = rng.normal(size=(NUM_ITEMS, 5)).astype(np.float32)
        scorer.sources["lookalikes"].fill(lookalikes(texts, most["lookalikes"]))
    return scorer.eval()


@pytest.fixture
def scorer(names: Names) -> PrefixPathScorer:
    return new_scorer(names)


def every_score(scorer: PrefixPathScorer, histories: list[list[int]], level: int = 2) -> torch.Tensor:
    nodes = torch.tensor(scorer.level_nodes[level]).expand(len(histories), -1)
    return scorer.score(scorer.context(histories), level, nodes)


def test_a_score_equals_the_formula_written_out(scorer: PrefixPathScorer) -> None:
    history = [3, 0, 11]
    node = int(scorer.item_nodes[0, 1])  # items 3 and 0 lie below it, item 11 does not
    assert scorer.item_nodes[history, 1].eq(node).tolist() == [True, True, False]
    context = scorer.context([history])
    first = int(scorer.ancestors[node, 0])
    assert scorer.ancestors[node].tolist() == [first, node, 0]
    with torch.inference_mode():
        row = scorer.rows.weight[first] + scorer.rows.weight[node]
        path = scorer.path(row)
        ages = [6, 2, 1, 0]  # the start state's own bias, then 2, 1, 0 purchases after it
        leaves = scorer.item_nodes[history, 2] - scorer.level_nodes[2].start
        states = scorer.encoder(scorer.level_rows(2)[leaves][None])[0]  # (4, 8)
        logits = torch.stack([scorer.query(path) @ scorer.key(s) / 4**0.5 for s in states])
        weights = (logits + scorer.path_ages.weight[ages, 0]).softmax(0)
        path = path + sum(w * scorer.value(s) for w, s in zip(weights, states, strict=True))
        path = path + scorer.feed_forward(path)
        returns = scorer.return_ages.weight[2, 1] + scorer.return_ages.weight[1, 1]  # 0 is the newest's
        expected = scorer.head(path)[0] + row @ scorer.state(states[-1]) + returns
    torch.testing.assert_close(scorer.score(context, 1, torch.tensor([[node]]))[0, 0], expected)


@pytest.mark.parametrize("most", [{}, {"neighbours": 5}, {"neighbours": 5, "lookalikes": 4}])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_is_served_equals_what_is_trained(names: Names, level: int, most: dict[str, int]) -> None:
    scorer = new_scorer(names, **most)
    context = scorer.context([[5, 9, 5], [], [1, 2, 3, 4, 5, 6, 7]])
    nodes = torch.tensor(scorer.level_nodes[level])
    drawn = nodes[torch.randint(len(nodes), (3, 9), generator=torch.Generator().manual_seed(level))]
    drawn[1, 4] = -1
    with torch.inference_mode():
        trained = scorer.logits(context, level, drawn, scorer.affinities(context, level))
    torch.testing.assert_close(scorer.score(context, level, drawn), trained, rtol=1e-5, atol=1e-5)


def test_padding_gets_minus_infinity_and_changes_no_other_score(scorer: PrefixPathScorer) -> None:
    context = scorer.context([[1, 2], [3]])
    nodes = torch.tensor(scorer.level_nodes[2])[:3]
    whole = scorer.score(context, 2, nodes.expand(2, -1))
    padded = scorer.score(context, 2, torch.stack([nodes, torch.tensor([-1, int(nodes[1]), -1])]))
    assert padded[1, [0, 2]].tolist() == [-torch.inf, -torch.inf]
    torch.testing.assert_close(padded[0], whole[0])
    torch.testing.assert_close(padded[1, 1], whole[1, 1])
    assert padded.dtype == torch.float32


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_user_scores_the_same_beside_longer_histories(scorer: PrefixPathScorer, level: int) -> None:
    alone = every_score(scorer, [[5, 9]], level)
    beside = every_score(scorer, [[1, 2, 3, 4, 5, 6], [5, 9], []], level)
    torch.testing.assert_close(
        beside[1:2], alone, rtol=1e-5, atol=1e-5
    )  # other matrix shapes, other rounding


def test_paths_do_not_see_each_other(scorer: PrefixPathScorer) -> None:
    together = every_score(scorer, [[5, 9, 2]])
    context = scorer.context([[5, 9, 2]])
    alone = [scorer.score(context, 2, torch.tensor([[node]])) for node in scorer.level_nodes[2]]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-5, atol=1e-5)


def test_order_and_age_of_purchases_matter(scorer: PrefixPathScorer) -> None:
    scores = every_score(scorer, [[5, 9, 2], [9, 5, 2], [5, 9], []])
    for other in (1, 2, 3):
        assert (scores[0] - scores[other]).abs().max() > 1e-3


def test_only_the_newest_purchases_count(scorer: PrefixPathScorer) -> None:
    newest = [4, 8, 15, 16, 23, 2]
    scores = every_score(scorer, [[7, 1, *newest], [9, *newest]])
    assert torch.equal(scores[0], scores[1])


def test_a_context_inside_a_sequence_is_that_of_its_first_purchases(scorer: PrefixPathScorer) -> None:
    """One pass over training sequences gives what serving gives for every cut of them."""
    sequences = [[5, 9, 2, 7, 1], [3, 3, 20, 0, 0]]
    cuts = [(0, 0), (0, 3), (1, 2), (0, 5)]
    users, counts = torch.tensor(cuts).T
    with torch.inference_mode():
        inside = scorer.contexts_at(torch.tensor(sequences), users, counts)
    nodes = torch.tensor(scorer.level_nodes[2]).expand(len(cuts), -1)
    served = every_score(scorer, [sequences[user][:count] for user, count in cuts])
    torch.testing.assert_close(scorer.score(inside, 2, nodes), served, rtol=1e-5, atol=1e-5)


def test_the_target_and_later_purchases_leave_earlier_scores_bit_identical(scorer: PrefixPathScorer) -> None:
    users, counts = torch.zeros(3, dtype=torch.long), torch.tensor([0, 1, 2])
    nodes = torch.tensor(scorer.level_nodes[2]).expand(3, -1)
    with torch.inference_mode():
        one = scorer.score(scorer.contexts_at(torch.tensor([[5, 9, 2, 7]]), users, counts), 2, nodes)
        two = scorer.score(scorer.contexts_at(torch.tensor([[5, 9, 13, 1]]), users, counts), 2, nodes)
        other = scorer.score(scorer.contexts_at(torch.tensor([[5, 8, 2, 7]]), users, counts), 2, nodes)
    assert torch.equal(one, two)
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])


def test_no_gradient_reaches_the_target(scorer: PrefixPathScorer) -> None:
    """Item 7 is the target: its own row must not feel the score of another item's path."""
    context = scorer.contexts_at(torch.tensor([[5, 9, 7]]), torch.tensor([0]), torch.tensor([2]))
    nodes = scorer.item_nodes[[[4]], -1]
    scorer.logits(context, 2, nodes, scorer.affinities(context, 2)).sum().backward()
    gradient = scorer.rows.weight.grad
    assert gradient is not None
    assert gradient[scorer.item_nodes[7, -1]].abs().max() == 0
    assert gradient[scorer.item_nodes[9, -1]].abs().max() > 0


def test_a_saved_scorer_is_read_back_equal(scorer: PrefixPathScorer, names: Names, tmp_path: Path) -> None:
    save_scorer(tmp_path, scorer, names)
    loaded = load_scorer(tmp_path, names)
    assert loaded.shape == SHAPE
    assert not loaded.training
    assert torch.equal(every_score(loaded, [[1, 2, 3]]), every_score(scorer, [[1, 2, 3]]))


def test_a_scorer_made_for_other_names_is_refused(
    scorer: PrefixPathScorer, names: Names, tmp_path: Path
) -> None:
    save_scorer(tmp_path, scorer, names)
    swapped = names.codes.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    with pytest.raises(InputError, match="was made for the names .* run `gream prm` again"):
        load_scorer(tmp_path, Names(names.layout, swapped))


def test_a_folder_without_a_scorer_is_refused(names: Names, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no path scorer; run `gream prm`"):
        load_scorer(tmp_path, names)


def test_a_scorer_of_an_older_gream_is_refused(
    scorer: PrefixPathScorer, names: Names, tmp_path: Path
) -> None:
    save_scorer(tmp_path, scorer, names)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    save_file({f"old_{key}": value for key, value in weights.items()}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(InputError, match="written by an older gream; run `gream prm` again"):
        load_scorer(tmp_path, names)


@pytest.mark.parametrize("change", [{"items": None}, {"shape": {"hidden_size": 8, "num_blocks": 2}}])
def test_a_scorer_whose_shape_is_told_in_another_way_is_refused(
    scorer: PrefixPathScorer, names: Names, tmp_path: Path, change: dict[str, object]
) -> None:
    """The first scorers said no number of items, which once ended in a KeyError."""
    save_scorer(tmp_path, scorer, names)
    told = json.loads((tmp_path / SHAPE_FILE).read_text()) | change
    told = {key: value for key, value in told.items() if value is not None}
    (tmp_path / SHAPE_FILE).write_text(json.dumps(told))
    with pytest.raises(InputError, match="written by an older gream; run `gream prm` again"):
        load_scorer(tmp_path, names)


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="`hidden_size` is 9, but must be even"):
        ScorerShape(hidden_size=9, num_heads=3)
    for name in ("hidden_size", "num_layers", "num_heads", "max_history"):
        with pytest.raises(InputError, match=f"`{name}` is 0; a path scorer needs at least 1"):
            ScorerShape(**{name: 0})
    with pytest.raises(InputError, match="`dropout` is 1.0; give a share"):
        ScorerShape(dropout=1.0)


class EvenBackend:
    """A policy without any opinion, except that it dislikes the first code `disliked`."""

    def __init__(self, disliked: int) -> None:
        self.disliked = disliked

    def complete(self, prompts: list[list[int]], **_: object) -> list[list[int]]:
        raise NotImplementedError

    def start(self, prompts: list[list[int]], *, keep_states: bool = False) -> EvenBackend:
        assert not keep_states  # an encoder of its own works with engines that have no states
        self.users = len(prompts)
        return self

    def first(self, block: range) -> torch.Tensor:
        logps = torch.full((self.users, len(block)), -1.0)
        logps[:, self.disliked] = -3.0
        return logps

    def step(self, parents: torch.Tensor, tokens: torch.Tensor, block: range) -> torch.Tensor:
        return torch.full((*parents.shape, len(block)), -1.0)


def test_the_scorer_alone_decides_among_what_the_policy_proposes() -> None:
    """Names 3 x 2. The policy ranks code 2 last; without purchases the scorer wants item 5 = (2, 1).

    Two beams without the scorer, or with nothing else proposed, never see code 2.
    """
    names = Names(SidLayout((3, 2)), np.array([[a, b] for a in range(3) for b in range(2)], dtype=np.int32))
    constraint = TrieConstraint(names)
    scorer = PrefixPathScorer(constraint, ScorerShape(hidden_size=4, max_history=3)).eval()
    for weight in scorer.parameters():
        torch.nn.init.zeros_(weight)
    with (
        torch.no_grad()
    ):  # the inner product alone, with a state of (1, 0, 0, 0) before any purchase, 0 after
        scorer.encoder.start[0] = 1.0
        scorer.encoder.norm.weight.fill_(1.0)
        scorer.state.weight[0, 0] = 0.5  # the norm makes 2 of the 1
        scorer.rows.weight[constraint.item_nodes[4, 0], 0] = 2.0
        scorer.rows.weight[constraint.item_nodes[5, 1], 0] = 1.0
    blocks, prompts = [range(0, 3), range(3, 5)], [[7], [7]]

    def context(session: Session) -> object:
        return scorer.context([[0, 1], []], session)

    searches = [
        beam_search(EvenBackend(2), prompts, constraint, blocks, num_beams=2, guide=guide)
        for guide in (None, Guide(scorer, 2, context), Guide(scorer, 4, context))
    ]
    assert [[r.items.tolist() for r in results] for results in searches] == [
        [[0, 1], [0, 1]],
        [[0, 1], [0, 1]],
        [[0, 1], [5, 4]],
    ]
    guided = searches[2][1]
    assert guided.logps.tolist() == [-4.0, -4.0]
    assert guided.scores is not None
    np.testing.assert_allclose(guided.scores, [3.0, 2.0], rtol=1e-3)


def test_a_saved_scorer_goes_on_with_items_that_were_named_later(
    tmp_path: Path, names: Names, codebooks: list[np.ndarray]
) -> None:
    torch.manual_seed(5)
    scorer = PrefixPathScorer(TrieConstraint(names), SHAPE).eval()
    save_scorer(tmp_path, scorer, names)
    vectors = np.random.default_rng(7).normal(size=(9, 8)).astype(np.float32)
    longer = name_new_items(vectors, SumQuantiser("residual_kmeans", codebooks), names)
    more = load_scorer(tmp_path, longer)
    histories = [[0, 3, 5], [7]]
    old_trie, new_trie = TrieConstraint(names), TrieConstraint(longer)
    for level in range(old_trie.depth):
        scores = [
            s.score(s.context(histories), level, trie.item_nodes[: len(names), level].expand(2, -1))
            for s, trie in ((scorer, old_trie), (more, new_trie))
        ]
        torch.testing.assert_close(scores[0], scores[1])
    new = new_trie.item_nodes[len(names) :, -1].expand(2, -1)
    assert torch.isfinite(more.score(more.context(histories), old_trie.depth - 1, new)).all()


def test_prefixes_that_came_later_stand_for_those_above_them(
    tmp_path: Path, names: Names, codebooks: list[np.ndarray]
) -> None:
    save_scorer(tmp_path, PrefixPathScorer(TrieConstraint(names), SHAPE), names)
    vectors = np.random.default_rng(7).normal(size=(9, 8)).astype(np.float32)
    longer = name_new_items(vectors, SumQuantiser("residual_kmeans", codebooks), names)
    more = load_scorer(tmp_path, longer)
    leaves = TrieConstraint(longer).item_nodes[:, -1]
    assert not more.rows.weight[leaves[len(names) :]].any()
    assert more.rows.weight[leaves[: len(names)]].any(dim=1).all()


def test_a_scorer_of_the_longer_names_is_read_as_it_was_and_refused_for_the_shorter(
    tmp_path: Path, names: Names, codebooks: list[np.ndarray]
) -> None:
    vectors = np.random.default_rng(7).normal(size=(9, 8)).astype(np.float32)
    longer = name_new_items(vectors, SumQuantiser("residual_kmeans", codebooks), names)
    torch.manual_seed(6)
    scorer = PrefixPathScorer(TrieConstraint(longer), SHAPE).eval()
    save_scorer(tmp_path, scorer, longer)
    torch.testing.assert_close(load_scorer(tmp_path, longer).rows.weight, scorer.rows.weight)
    with pytest.raises(InputError, match="was made for the names"):
        load_scorer(tmp_path, names)
