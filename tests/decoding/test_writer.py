"""Free text of the torch engine: against full forward passes, one text at a time, and what is fed when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import DynamicCache, Qwen3ForCausalLM

from gream.decoding.torch_backend import TorchBackend
from gream.decoding.writer import GrowingLayer, choose
from tests.decoding.tiny import VOCAB, tiny_model

PAD, STOP = 0, 7
PROMPTS = [[3, 9, 4], [5], [11, 2, 30, 8, 1, 6, 21], [12, 13], [14, 15]]
SEEDS = [[1, 2, 3], [4], [5, 6], [], [1, 9, 10, 11]]
NEVER = VOCAB  # a stop token that no model writes


def obvious_text(
    model: Qwen3ForCausalLM, prompt: list[int], seed: int, *, stop: int, max_tokens: int, temperature: float
) -> list[int]:
    """One full forward pass for each token, without cache, padding or mask."""
    draws = torch.rand(max_tokens, generator=torch.Generator().manual_seed(seed)).tolist()
    text: list[int] = []
    for draw in draws:
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt + text])).logits[0, -1]
        if temperature == 0:
            text.append(int(logits.argmax()))
        else:
            cumulated = np.cumsum((logits / temperature).softmax(-1).double().numpy())
            text.append(int(np.searchsorted(cumulated, draw * cumulated[-1], side="right")))
        if text[-1] == stop:
            break
    return text


def record_shapes(model: Qwen3ForCausalLM) -> list[tuple[int, ...]]:
    fed: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, args: fed.append(tuple(args[0].shape)))
    return fed


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_texts_equal_one_full_forward_pass_for_each_token(attention: str, temperature: float) -> None:
    model = tiny_model(1, attn_implementation=attention)
    options = {"stop": STOP, "max_tokens": 20, "temperature": temperature}
    texts = TorchBackend(model, PAD, batch_size=3).complete(PROMPTS, seeds=SEEDS, **options)
    expected = [
        [obvious_text(model, prompt, seed, **options) for seed in of_user]
        for prompt, of_user in zip(PROMPTS, SEEDS, strict=True)
    ]
    assert texts == expected
    if temperature == 1.3:  # some stopped early and left, some ran to the limit: both ways were compared
        ended = {text[-1] == STOP for of_user in texts for text in of_user}
        assert ended == {True, False}


@pytest.mark.parametrize("num_texts", [1, 4])
def test_a_prompt_is_fed_once_for_all_its_texts(num_texts: int) -> None:
    model = tiny_model()
    backend, fed = TorchBackend(model, PAD), record_shapes(model)
    seeds = [list(range(user, user + num_texts)) for user in range(len(PROMPTS))]
    backend.complete(PROMPTS, seeds=seeds, stop=NEVER, max_tokens=6, temperature=1.0)
    # prompts, then 5 steps: the last token of a text is never fed
    assert fed == [(5, 7)] + [(5, num_texts)] * 5


def test_finished_texts_and_finished_users_are_not_fed_again() -> None:
    model = tiny_model(1)
    backend, fed = TorchBackend(model, PAD), record_shapes(model)
    texts = backend.complete(PROMPTS, seeds=SEEDS, stop=STOP, max_tokens=90, temperature=1.3)
    lengths = [[len(text) - (text[-1] == STOP) for text in of_user] for of_user in texts]
    expected = []
    for step in range(89):
        counts = [sum(length > step for length in of_user) for of_user in lengths]
        if any(counts):
            expected.append((sum(count > 0 for count in counts), max(counts)))
    assert fed == [(5, 7), *expected]
    assert len({users for users, _ in expected}) > 1 and len({width for _, width in expected}) > 1


def test_sampled_tokens_have_the_frequencies_of_the_models_probabilities() -> None:
    model, temperature, num_texts = tiny_model(2).eval(), 0.8, 4000
    texts = TorchBackend(model, PAD).complete(
        [PROMPTS[0]], seeds=[list(range(num_texts))], stop=STOP, max_tokens=1, temperature=temperature
    )
    found = np.bincount([text[0] for text in texts[0]], minlength=VOCAB)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1].double()
    expected = num_texts * (logits / temperature).softmax(-1).numpy()
    common = expected >= 5  # the test is made for cells of at least 5; the rare tokens share one
    cells = [np.append(counts[common], counts[~common].sum()) for counts in (found, expected)]
    assert common.sum() > 20
    assert chisquare(*cells).pvalue > 0.01


def test_texts_of_one_user_differ_and_equal_seeds_give_equal_texts() -> None:
    options = {"stop": STOP, "max_tokens": 12, "temperature": 1.0}
    one, other = TorchBackend(tiny_model(), PAD).complete(
        [[3, 4], [3, 4]], seeds=[[1, 2, 3, 4], [9, 2]], **options
    )
    assert len({tuple(text) for text in one}) == 4
    assert other[1] == one[1]


def test_a_user_alone_gets_the_texts_of_the_batch() -> None:
    backend = TorchBackend(tiny_model(3), PAD)
    options = {"stop": STOP, "max_tokens": 25, "temperature": 1.0}
    together = backend.complete(PROMPTS, seeds=SEEDS, **options)
    for prompt, seeds, texts in zip(PROMPTS, SEEDS, together, strict=True):
        assert backend.complete([prompt], seeds=[seeds], **options) == [texts]
        for seed, text in zip(seeds, texts, strict=True):
            assert backend.complete([prompt], seeds=[[seed]], **options) == [[text]]


def test_no_prompts_and_no_seeds_give_no_texts() -> None:
    backend = TorchBackend(tiny_model(), PAD)
    options = {"stop": STOP, "max_tokens": 5, "temperature": 1.0}
    assert backend.complete([], seeds=[], **options) == []
    assert backend.complete([[3], [4, 5]], seeds=[[], []], **options) == [[], []]


def test_a_model_in_training_writes_without_dropout_and_is_left_in_training() -> None:
    model = tiny_model(attention_dropout=0.5).train()
    backend, before = TorchBackend(model, PAD), torch.random.get_rng_state()
    options = {"seeds": SEEDS, "stop": STOP, "max_tokens": 10, "temperature": 1.0}
    first = backend.complete(PROMPTS, **options)
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), before)
    model.eval()
    assert first == backend.complete(PROMPTS, **options)


def test_a_token_without_probability_is_never_chosen() -> None:
    """Tokens 0, 2 and 4 have none; the smallest and the largest draw end at 1 and 3."""
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]).expand(1, 2, -1)
    largest = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    draws = torch.stack([torch.tensor(0.0), largest])[None]
    assert choose(logits, 1.0, draws).tolist() == [[1, 3]]


def test_rare_tokens_of_a_large_vocabulary_are_drawn_where_their_probability_is() -> None:
    """One token has nearly all of it, and 2**16 others less each than the steps of float32 below 1."""
    logits = torch.zeros(1, 1, 2**16 + 1)
    logits[..., 0] = 19.0  # the others together have 2**16 / exp(19) = 4e-4
    draws = 1 - torch.arange(1, 1200, 7)[None] * 2**-20 / 4
    found = choose(logits.expand(1, draws.shape[1], -1), 1.0, draws)[0].numpy()
    cumulated = np.cumsum(logits[0, 0].softmax(-1).double().numpy())
    expected = np.searchsorted(cumulated, draws[0].double().numpy() * cumulated[-1], side="right")
    np.testing.assert_array_equal(found, expected)
    assert (found > 0).all() and len(set(found.tolist())) == draws.shape[1]


@pytest.mark.parametrize("num_texts", [1, 4])
def test_a_batch_is_bounded_by_the_texts_that_are_written_together(num_texts: int) -> None:
    """Four texts for every user of a batch: 8 users with one text each, or 2 users with four."""
    model = tiny_model()
    backend, fed = TorchBackend(model, PAD, batch_size=2), record_shapes(model)
    seeds = [list(range(num_texts))] * 5
    backend.complete(PROMPTS, seeds=seeds, stop=NEVER, max_tokens=1, temperature=1.0)
    assert fed == ([(5, 7)] if num_texts == 1 else [(2, 2), (2, 3), (1, 7)])


def test_the_growing_cache_is_seldom_copied() -> None:
    layer, places = GrowingLayer(), []
    for _ in range(300):
        layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))
        places.append(layer.keys.data_ptr())  # the old room still stands when the new one is made
    assert sum(one != other for one, other in zip(places, places[1:], strict=False)) < 30


def test_the_growing_cache_holds_what_the_cache_of_transformers_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    model = tiny_model()
    theirs, ours = DynamicCache(config=model.config).layers[0], GrowingLayer()
    rows = 5
    for width in (7, 3, 3, 1, 20, 2):
        states = torch.randn(2, rows, 2, width, 4, generator=generator)
        for expected, found in zip(theirs.update(*states), ours.update(*states.clone()), strict=True):
            torch.testing.assert_close(found, expected, atol=0, rtol=0)
        kept = torch.tensor([0, 2, 3, 4][: rows - 1] if width != 3 else range(rows))
        theirs.batch_select_indices(kept)
        ours.batch_select_indices(kept)
        rows = len(kept)
        assert ours.get_seq_length() == theirs.get_seq_length()
