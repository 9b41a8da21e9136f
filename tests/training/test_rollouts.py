"""Completions under the trie on the toy model (L = 3, 24 items), and on scripted engines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gream.decoding.beam import beam_search
from gream.decoding.chains import chain_seed
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.language.prompting import Prompter
from gream.semantic_ids.constraint_file import constraint_of
from gream.semantic_ids.layout import Names, SidLayout
from gream.training import rollouts
from gream.training.completions import read_completions
from gream.training.rollouts import RolloutWriter, Written
from tests.decoding.scripted import ScriptedBackend
from tests.training.trie_reference import (
    ScriptedChains,
    legal_next,
    name_logps,
    sequences,
    sharpen,
    unordered,
    whole_logps,
)

P, G, L = 2, 4, 3
HISTORIES = [[3, 1], [7, 2, 9, 4]]


@pytest.fixture(params=["ordered", "unordered", "disambiguated"])
def any_prompter(request: pytest.FixtureRequest, model_and_tokenizer: Any, names: Names) -> Prompter:
    """The toy prompter with names of every kind."""
    kinds = {
        "ordered": names,
        "unordered": unordered(names),
        "disambiguated": unordered(names, disambiguation=True),
    }
    return Prompter(model_and_tokenizer[1], kinds[request.param], max_history=5)


@pytest.fixture
def model(model_and_tokenizer: tuple[Any, Any]) -> Any:
    sharpen(model_and_tokenizer[0])
    return model_and_tokenizer[0]


@pytest.fixture
def writer(model: Any) -> Callable[..., RolloutWriter]:
    """Build a writer over the toy model; with `chains` these come in turn."""

    def build(prompter: Prompter, chains: list[list[int]] | None = None, **changed: Any) -> RolloutWriter:
        backend = TorchBackend(model, 0) if chains is None else ScriptedChains(model, 0)
        if isinstance(backend, ScriptedChains):
            backend.chains = chains or []
        options = {"kind": "constrained", "num_generations": G, "temperature": 0.7, "max_tokens": 20}
        return RolloutWriter(backend, prompter, constraint_of(prompter.names), **{**options, **changed})

    return build


def direct(prompter: Prompter) -> list[list[int]]:
    return [prompter.direct(history) for history in HISTORIES]


def reasoning(prompter: Prompter) -> list[list[int]]:
    return [prompter.reasoning(history) for history in HISTORIES]


def a_chain(prompter: Prompter, words: str) -> list[int]:
    return prompter.encode(f"{words}\n</think>\n<answer>")


def item_of(prompter: Prompter, ids: list[int]) -> int:
    """The item of a name in any order of its codes."""
    items = [item for item in range(24) if sorted(prompter.name_ids(item)) == sorted(ids)]
    assert len(items) == 1
    return items[0]


def test_sampled_answers_are_real_items_in_groups_of_their_prompts(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter
) -> None:
    written = writer(any_prompter).write(direct(any_prompter), seed=3)
    assert len(written) == P * G
    answers = read_completions(
        [w.ids for w in written], any_prompter, constraint_of(any_prompter.names), ["direct"] * (P * G)
    )
    assert answers.valid.all()
    assert len({tuple(w.ids) for w in written}) > 1


def test_codes_are_as_probable_as_a_walk_over_all_names_says(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter, model: Any
) -> None:
    chains = [a_chain(any_prompter, words) for words in ("more ink", "tents", "good lamps for every day")]
    prompts = [*direct(any_prompter), *reasoning(any_prompter)]
    written = writer(any_prompter, chains).write(prompts, seed=1)
    for row, completion in enumerate(written):
        ids, behind = completion.ids, 1 if row < P * G else 2
        name, context = ids[-behind - L : -behind], prompts[row // G] + ids[: -behind - L]
        expected = name_logps(model, any_prompter, context, name, 0.7)
        np.testing.assert_allclose(completion.code_logps, expected.detach(), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_names_are_drawn_with_their_probabilities(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter, model: Any, temperature: float
) -> None:
    """Chi-square over all names that can be written, those with few expected draws taken together."""
    prompt, draws = direct(any_prompter)[0], 6000
    many = writer(any_prompter, num_generations=40, temperature=temperature)
    written = many.write([prompt] * (draws // 40), seed=0)
    counts = Counter(tuple(w.ids[:L]) for w in written)
    every = sorted(sequences(any_prompter))
    assert set(counts) <= set(every)
    with torch.no_grad():
        probabilities = np.array(
            [float(name_logps(model, any_prompter, prompt, s, temperature).sum().exp()) for s in every]
        )
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert probabilities.max() > 2 / len(every)  # else a draw that ignores the model would do
    expected, seen = draws * probabilities, np.array([counts[s] for s in every], dtype=float)
    rare = expected < 5
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    seen = np.append(seen[~rare], seen[rare].sum())
    statistic, freedom = ((seen - expected) ** 2 / expected).sum(), len(expected) - 1
    # The quantile .9999 of chi-square, by Wilson and Hilferty.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * np.sqrt(2 / (9 * freedom))) ** 3


def test_a_sample_depends_on_seed_prompt_and_place_alone(
    writer: Callable[..., RolloutWriter], prompter: Prompter, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains = [a_chain(prompter, words) for words in ("ink", "tents", "lamps", "paper")]  # one for each place
    prompts = [direct(prompter)[0], *reasoning(prompter), direct(prompter)[1]]
    whole = writer(prompter, chains).write(prompts, seed=5)
    assert whole == writer(prompter, chains).write(prompts, seed=5)
    assert [w.ids for w in whole] != [w.ids for w in writer(prompter, chains).write(prompts, seed=6)]
    monkeypatch.setattr(rollouts, "AT_ONCE", 3)
    for row, prompt in enumerate(prompts):
        alone = writer(prompter, chains).write([prompt], seed=5, first_prompt=row)
        assert [w.ids for w in alone] == [w.ids for w in whole[row * G : row * G + G]]
    fewer = writer(prompter, chains, num_generations=2).write(prompts[:1], seed=5)
    assert [w.ids for w in fewer] == [w.ids for w in whole[:2]]


def test_the_weights_of_the_moment_are_used(
    writer: Callable[..., RolloutWriter], prompter: Prompter, model: Any
) -> None:
    ours = writer(prompter)
    before = ours.write(direct(prompter), seed=0)
    sharpen(model, seed=1)
    after = ours.write(direct(prompter), seed=0)
    assert before != after
    assert after == writer(prompter).write(direct(prompter), seed=0)


def test_chains_are_asked_for_with_room_for_the_answer_and_seeds_of_their_own(
    writer: Callable[..., RolloutWriter], prompter: Prompter
) -> None:
    ours = writer(prompter, [a_chain(prompter, "ink")])
    ours.write(reasoning(prompter), seed=8, first_prompt=3)
    asked: Any = ours._backend.asked  # type: ignore[attr-defined]
    assert asked["max_tokens"] == 20 - L - 2
    assert asked["stop"] == prompter.answer_start
    assert asked["seeds"] == [[chain_seed(8, number, place) for place in range(G)] for number in (3, 4)]


def test_a_whole_chain_gets_an_answer_and_a_cut_one_stays_as_it_is(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter
) -> None:
    """A chain that ended the turn stops there: what comes after is nobody's answer."""
    whole = a_chain(any_prompter, "more ink")
    cut = any_prompter.encode("ink ink ink ink")
    ended = [*any_prompter.encode("ink"), any_prompter.end_of_turn]
    chains = [whole, cut, [*ended, *whole], whole]
    written = writer(any_prompter, chains).write(reasoning(any_prompter)[:1], seed=0)
    assert written[1] == Written(cut)
    assert written[2] == Written(ended)
    for completion in (written[0], written[3]):
        assert completion.ids[: len(whole)] == whole
        assert len(completion.ids) == len(whole) + L + 2
    answers = read_completions(
        [w.ids for w in written], any_prompter, constraint_of(any_prompter.names), ["reasoning"] * G
    )
    assert answers.valid.tolist() == [True, False, False, True]


def test_chains_of_the_model_itself_keep_to_their_budget(
    writer: Callable[..., RolloutWriter], prompter: Prompter
) -> None:
    """A model that was taught nothing hardly writes `<answer>` at all."""
    written = writer(prompter, max_tokens=12, temperature=4.0).write(reasoning(prompter), seed=0)
    assert len(written) == P * G
    assert all(len(w.ids) <= 12 for w in written)
    cut = [w for w in written if not w.code_logps]
    assert cut and all(len(w.ids) == 7 or w.ids[-1] == prompter.end_of_turn for w in cut)
    assert len({tuple(w.ids) for w in cut}) == len(cut)


def test_beams_are_the_best_items_of_the_search_with_its_scores(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter, model: Any
) -> None:
    written = writer(any_prompter, kind="beam").write(direct(any_prompter), seed=0)
    constraint, blocks = constraint_of(any_prompter.names), any_prompter.search_blocks()
    found = beam_search(TorchBackend(model, 0), direct(any_prompter), constraint, blocks, num_beams=G)
    for row, result in enumerate(found):
        group = written[row * G : row * G + G]
        assert [item_of(any_prompter, w.ids[:L]) for w in group] == result.items.tolist()
        assert [w.score for w in group] == result.logps.tolist()
        assert all(tuple(w.ids[:L]) in sequences(any_prompter) for w in group)
        assert all(w.ids[L:] == [any_prompter.end_of_turn] and w.code_logps == () for w in group)
        assert len({item_of(any_prompter, w.ids[:L]) for w in group}) == G


def test_an_ordered_beam_is_as_probable_as_the_model_says(
    writer: Callable[..., RolloutWriter], prompter: Prompter, model: Any
) -> None:
    for prompt in direct(prompter):
        for completion in writer(prompter, kind="beam").write([prompt], seed=0):
            with torch.no_grad():
                expected = whole_logps(model, prompt, completion.ids[:L], 1.0).sum()
            assert completion.score == pytest.approx(float(expected), abs=1e-4)


def test_a_beam_without_order_is_written_as_the_search_chose_it(any_prompter: Prompter) -> None:
    """The engine is sure of the last codebook first, then of the first one, as far as the names allow."""
    layout = any_prompter.names.layout
    first_choice = 0 if layout.ordered else 1 if layout.disambiguation else 2

    class Sure(ScriptedBackend):
        device = torch.device("cpu")

        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            numbers = super().draw(prompt, path, block) - 5
            for level, bonus in zip((first_choice, 0), (4, 2), strict=True):
                codebook = any_prompter.level_block(level)
                if codebook.start in block:
                    numbers[codebook.start - block.start : codebook.stop - block.start] += bonus
            return numbers

    writer = RolloutWriter(
        Sure(0, coarse=False), any_prompter, constraint_of(any_prompter.names),
        kind="beam", num_generations=2, temperature=1.0, max_tokens=20,
    )  # fmt: skip
    for completion in writer.write([[1], [2]], seed=0):
        levels = [
            next(level for level in range(L) if token in any_prompter.level_block(level))
            for token in completion.ids[:L]
        ]
        assert levels[0] == first_choice
        assert completion.ids[1] in legal_next(any_prompter, completion.ids[:1])


def test_beams_that_were_orders_of_one_item_are_searched_wider(model_and_tokenizer: tuple[Any, Any]) -> None:
    """Three beams hold the three codes of item 0, then its three pairs, then item 0 alone."""
    codes = np.array([[0, 0, 0], [1, 1, 1], [2, 2, 2], [1, 3, 4]], dtype=np.int32)
    names = Names(SidLayout((3, 4, 5), ordered=False), codes)
    prompter = Prompter(model_and_tokenizer[1], names)
    favourites = set(prompter.name_ids(0))

    class Sure(ScriptedBackend):
        device = torch.device("cpu")

        def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
            return np.array([-1 if token in favourites else -9 - token / 999 for token in block], np.float32)

    constraint, blocks = constraint_of(names), prompter.search_blocks()
    assert len(beam_search(Sure(0), [[1]], constraint, blocks, num_beams=3)[0].items) == 1
    options: dict[str, Any] = {"kind": "beam", "temperature": 1.0, "max_tokens": 20}
    for size in (3, 4):
        writer = RolloutWriter(Sure(0), prompter, constraint, num_generations=size, **options)
        written = writer.write([[1], [2]], seed=0)
        for group in (written[:size], written[size:]):
            assert len({tuple(sorted(w.ids[:L])) for w in group}) == size
            assert set(group[0].ids[:L]) == favourites


def test_a_chain_is_followed_by_beams_of_its_own(
    writer: Callable[..., RolloutWriter], any_prompter: Prompter, model: Any
) -> None:
    """Two chains with two items each; a cut chain takes the places of both its items."""
    whole, other = a_chain(any_prompter, "more ink"), a_chain(any_prompter, "tents and stoves")
    cut = any_prompter.encode("ink ink")
    prompts = reasoning(any_prompter)
    written = writer(any_prompter, [whole, other, cut, whole], kind="beam").write(prompts, seed=0)
    assert [len(w.ids) for w in written[4:6]] == [len(cut)] * 2
    assert written[4].score is None
    constraint, blocks = constraint_of(any_prompter.names), any_prompter.search_blocks()
    for prompt, chain, pair in [
        (prompts[0], whole, written[:2]),
        (prompts[0], other, written[2:4]),
        (prompts[1], whole, written[6:]),
    ]:
        result = beam_search(TorchBackend(model, 0), [prompt + chain], constraint, blocks, num_beams=2)[0]
        assert all(w.ids[: len(chain)] == chain for w in pair)
        names = [w.ids[len(chain) : -2] for w in pair]
        assert [item_of(any_prompter, name) for name in names] == result.items.tolist()
        np.testing.assert_allclose([w.score for w in pair], result.logps, atol=1e-5)
        assert all(w.ids[-2:] == [any_prompter.answer_end, any_prompter.end_of_turn] for w in pair)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"kind": "greedy"}, "rollouts is 'greedy'; give one of free, constrained, beam"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"temperature": 0.0}, "temperature is 0.0; give a number above 0"),
        ({"max_tokens": 5}, "5 tokens .* need 6 at least; raise max_completion_length"),
        ({"kind": "beam", "num_generations": 26}, "has 24 items, .* 26 different ones; lower num_gen"),
        ({"kind": "beam", "num_generations": 5}, "5 completions .* two answers .* an even number"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    writer: Callable[..., RolloutWriter], prompter: Prompter, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        writer(prompter, **changed)


def test_too_few_items_left_end_the_search_with_a_sentence(model: Any, any_prompter: Prompter) -> None:
    constraint: Any = constraint_of(any_prompter.names).without(range(3, 24))  # type: ignore[attr-defined]
    writer = RolloutWriter(
        TorchBackend(model, 0), any_prompter, constraint,
        kind="beam", num_generations=4, temperature=1.0, max_tokens=20,
    )  # fmt: skip
    with pytest.raises(InputError, match="Fewer than 4 items can be recommended; lower num_generations"):
        writer.write(direct(any_prompter), seed=0)


def test_broken_weights_are_noticed(
    writer: Callable[..., RolloutWriter], prompter: Prompter, model: Any
) -> None:
    with torch.no_grad():
        model.get_output_embeddings().weight[prompter.item_block.start] = torch.nan
    with pytest.raises(ValueError, match="weights are broken"):
        writer(prompter).write(direct(prompter), seed=0)
