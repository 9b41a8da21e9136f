"""The torch engine against full forward passes, one item at a time, and against transformers' own search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PreTrainedModel,
)

from gream.decoding import torch_backend
from gream.decoding.beam import beam_search
from gream.decoding.torch_backend import TorchBackend
from gream.errors import InputError
from gream.semantic_ids.constraint import TrieConstraint
from gream.semantic_ids.layout import Names, SidLayout
from gream.semantic_ids.postings import PostingConstraint
from tests.decoding.scripted import ScriptedBackend
from tests.decoding.tiny import VOCAB, tiny_model

PAD = 0
BLOCKS = [range(40, 44), range(44, 47), range(47, 52)]
PROMPTS = [[3, 9, 4], [5], [11, 2, 30, 8, 1, 6, 21], [12, 13], [14, 15]]


def other_model(name: str) -> PreTrainedModel:
    """Models that differ in their positions, in a bias of the logits, and in what is done to the logits."""
    if name == "qwen3":
        return tiny_model()
    sizes = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "initializer_range": 0.4, "pad_token_id": PAD}
    torch.manual_seed(0)
    if name == "llama":
        return AutoModelForCausalLM.from_config(LlamaConfig(**sizes))
    if name == "gpt2":
        return AutoModelForCausalLM.from_config(
            GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4)
        )
    if name == "phi":
        model = AutoModelForCausalLM.from_config(PhiConfig(**sizes))
        torch.nn.init.normal_(model.lm_head.bias)
        return model
    if name == "granite":
        return AutoModelForCausalLM.from_config(GraniteConfig(**sizes, logits_scaling=3.0))
    kinds = {"layer_types": ["full_attention"] * 2, "attn_implementation": "eager"}
    return AutoModelForCausalLM.from_config(
        Gemma2Config(**sizes, **kinds, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0)
    )


class FullForward(ScriptedBackend):
    """The script is the model itself: one forward pass over prompt and path for every number asked."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(seed=0)
        self.model = model

    def draw(self, prompt: tuple[int, ...], path: tuple[int, ...], block: range) -> np.ndarray:
        with torch.no_grad():
            logits = self.model(torch.tensor([[*prompt, *path]])).logits[0, -1]
        return logits.log_softmax(-1)[block.start : block.stop].numpy()


@pytest.mark.parametrize("num_beams", [3, 40])
def test_unordered_names_are_found_as_with_one_full_forward_pass_for_each_path(num_beams: int) -> None:
    codes = np.stack(np.meshgrid(range(4), range(3), range(5), indexing="ij"), -1).reshape(-1, 3)
    chosen = np.random.default_rng(0).permutation(len(codes))[:31].astype(np.int32)
    names = Names(SidLayout((4, 3, 5), ordered=False), codes[chosen].astype(np.int32))
    model, whole = tiny_model().eval(), [range(40, 52)] * 3
    constraint = PostingConstraint(names)
    found = beam_search(TorchBackend(model, PAD), PROMPTS, constraint, whole, num_beams=num_beams)
    slow = beam_search(FullForward(model), PROMPTS, constraint, whole, num_beams=num_beams)
    for a, b in zip(found, slow, strict=True):
        assert a.items.tolist() == b.items.tolist()
        np.testing.assert_allclose(a.logps, b.logps, atol=1e-4)
        for left, right in zip(a.kept, b.kept, strict=True):
            np.testing.assert_array_equal(left, right)


def count_forwards(model: PreTrainedModel) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of the tokens of every forward pass from now on."""
    fed: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, args: fed.append(tuple(args[0].shape)))
    return fed


def random_names(num_items: int) -> Names:
    every = np.stack(np.meshgrid(*[np.arange(len(b)) for b in BLOCKS], indexing="ij"), -1).reshape(-1, 3)
    chosen = np.random.default_rng(0).permutation(len(every))[:num_items]
    return Names(SidLayout(tuple(len(b) for b in BLOCKS)), every[chosen].astype(np.int32))


def obvious_logps(model: torch.nn.Module, prompt: list[int], names: Names) -> np.ndarray:
    """One full forward pass for each item, without cache, padding or mask."""
    model.eval()
    totals = []
    for codes in names.codes:
        path = [block[code] for block, code in zip(BLOCKS, codes.tolist(), strict=True)]
        with torch.no_grad():
            logps = model(torch.tensor([prompt + path])).logits[0].float().log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(path) - 1)
        totals.append(sum(logps[place, token].item() for place, token in zip(places, path, strict=True)))
    return np.array(totals)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_equal_one_full_forward_pass_for_each_item(attention: str) -> None:
    model, names = tiny_model(attn_implementation=attention), random_names(23)
    backend = TorchBackend(model, PAD, batch_size=3)  # two batches, sorted by length, out of order
    results = beam_search(backend, PROMPTS, TrieConstraint(names), BLOCKS, num_beams=23)
    for prompt, result in zip(PROMPTS, results, strict=True):
        expected = obvious_logps(model, prompt, names)
        assert sorted(result.items.tolist()) == list(range(23))
        # float32 sums over other shapes of the same matrices
        np.testing.assert_allclose(result.logps, expected[result.items], atol=1e-5)


@pytest.mark.parametrize("num_beams", [2, 5])
def test_narrow_beams_give_exact_scores_too(num_beams: int) -> None:
    model, names = tiny_model(1), random_names(40)
    backend = TorchBackend(model, PAD)
    results = beam_search(backend, PROMPTS, TrieConstraint(names), BLOCKS, num_beams=num_beams)
    for prompt, result in zip(PROMPTS, results, strict=True):
        expected = obvious_logps(model, prompt, names)
        np.testing.assert_allclose(result.logps, expected[result.items], atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "granite", "gemma2"])
def test_another_architecture_with_other_positions_or_logits_works_the_same(name: str) -> None:
    model, names = other_model(name), random_names(11)
    results = beam_search(TorchBackend(model, PAD), PROMPTS, TrieConstraint(names), BLOCKS, num_beams=11)
    for prompt, result in zip(PROMPTS, results, strict=True):
        np.testing.assert_allclose(result.logps, obvious_logps(model, prompt, names)[result.items], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "own"), [("llama", 0), ("gpt2", 0), ("phi", 0), ("granite", 3), ("gemma2", 3)]
)
def test_only_models_that_change_their_logits_make_those_of_the_whole_vocabulary(name: str, own: int) -> None:
    """Granite scales its logits and Gemma 2 caps them, so that their output embedding does not tell them."""
    model, names = other_model(name), random_names(11)
    backend, made = TorchBackend(model, PAD), []
    model.lm_head.register_forward_hook(lambda *_: made.append(1))
    beam_search(backend, PROMPTS, TrieConstraint(names), BLOCKS, num_beams=11)
    assert len(made) == own


def test_an_output_embedding_that_starts_to_do_more_in_training_is_heard() -> None:
    class Adapted(torch.nn.Linear):
        added = 0.0

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return super().forward(states) + self.added * states[..., :1] * torch.arange(VOCAB)

    model, names = tiny_model(), random_names(11)
    model.lm_head.__class__ = Adapted
    backend = TorchBackend(model, PAD)
    model.lm_head.added = 0.1
    results = beam_search(backend, PROMPTS, TrieConstraint(names), BLOCKS, num_beams=11)
    for prompt, result in zip(PROMPTS, results, strict=True):
        np.testing.assert_allclose(result.logps, obvious_logps(model, prompt, names)[result.items], atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
@pytest.mark.parametrize("logits", [1, 45, 5 * 63, 5 * 64])
def test_slices_of_the_vocabulary_give_the_same_scores_wherever_they_end(
    name: str, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token a slice, slices that end within a block, a last slice of one token, and one slice."""
    monkeypatch.setattr(torch_backend, "_SLICE_LOGITS", logits)
    model, names = other_model(name), random_names(23)
    results = beam_search(TorchBackend(model, PAD), PROMPTS, TrieConstraint(names), BLOCKS, num_beams=23)
    for prompt, result in zip(PROMPTS, results, strict=True):
        np.testing.assert_allclose(result.logps, obvious_logps(model, prompt, names)[result.items], atol=1e-5)


def test_transformers_own_constrained_beam_search_finds_the_same() -> None:
    model, names, num_beams = tiny_model(2).eval(), random_names(35), 4
    item_of = {tuple(map(int, codes)): item for item, codes in enumerate(names.codes)}
    results = beam_search(
        TorchBackend(model, PAD), PROMPTS, TrieConstraint(names), BLOCKS, num_beams=num_beams
    )
    for prompt, result in zip(PROMPTS, results, strict=True):

        def allowed(_: int, sequence: torch.Tensor, length: int = len(prompt)) -> list[int]:
            path = tuple(
                t - block.start for t, block in zip(sequence[length:].tolist(), BLOCKS, strict=False)
            )
            return sorted({BLOCKS[len(path)][c[len(path)]] for c in item_of if c[: len(path)] == path})

        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=3,
            num_beams=num_beams,
            num_return_sequences=num_beams,
            prefix_allowed_tokens_fn=allowed,
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=PAD,
            return_dict_in_generate=True,
            output_scores=True,
        )
        paths = output.sequences[:, len(prompt) :].tolist()
        items = [item_of[tuple(t - b.start for t, b in zip(path, BLOCKS, strict=True))] for path in paths]
        assert result.items.tolist() == items
        np.testing.assert_allclose(result.logps, output.sequences_scores.numpy(), atol=1e-5)


def test_each_prompt_is_prefilled_once_and_the_last_token_is_never_fed() -> None:
    model, names = tiny_model(), random_names(30)
    backend, fed = TorchBackend(model, PAD), count_forwards(model)
    beam_search(backend, PROMPTS, TrieConstraint(names), BLOCKS, num_beams=6)
    assert fed == [(5, 7), (5, 4), (5, 6)]  # prompts, then 4 first codes, then 6 beams: 2 steps for 3 codes


def test_users_are_fed_in_batches_of_like_length() -> None:
    model = tiny_model()
    backend, fed = TorchBackend(model, PAD, batch_size=2), count_forwards(model)
    session = backend.start(PROMPTS)
    assert fed == [(2, 2), (2, 3), (1, 7)]  # lengths 1 and 2, 2 and 3, 7
    session.step(torch.zeros(5, 4, dtype=torch.long), torch.arange(40, 44).expand(5, 4), BLOCKS[1])
    assert fed[3:] == [(2, 4), (2, 4), (1, 4)]


def test_numbers_are_normalised_over_the_whole_vocabulary_in_float32() -> None:
    backend = TorchBackend(tiny_model().to(torch.bfloat16), PAD)
    logps = backend.start(PROMPTS).first(range(VOCAB))
    assert logps.dtype == torch.float32
    torch.testing.assert_close(logps.exp().sum(-1), torch.ones(len(PROMPTS)), atol=1e-5, rtol=0)


def test_a_bfloat16_model_gives_nearly_the_same_scores() -> None:
    model, names = tiny_model(3), random_names(12)
    constraint = TrieConstraint(names)
    exact = beam_search(TorchBackend(model, PAD), PROMPTS, constraint, BLOCKS, num_beams=12)
    half = beam_search(TorchBackend(model.to(torch.bfloat16), PAD), PROMPTS, constraint, BLOCKS, num_beams=12)
    for a, b in zip(exact, half, strict=True):
        # bfloat16 keeps 8 bits; the logits of this model reach about 10
        np.testing.assert_allclose(a.logps[a.items.argsort()], b.logps[b.items.argsort()], atol=0.5)


def test_a_model_in_training_is_searched_without_dropout_and_left_in_training() -> None:
    model, names = tiny_model(attention_dropout=0.5).train(), random_names(10)
    backend, constraint = TorchBackend(model, PAD), TrieConstraint(names)
    first, second = (beam_search(backend, PROMPTS, constraint, BLOCKS, num_beams=10) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.logps, b.logps)
    assert model.training


def test_models_that_cannot_be_searched_exactly_are_refused() -> None:
    windowed = MistralForCausalLM(
        MistralConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=4,
        )
    )
    with pytest.raises(InputError, match="sliding-window"):
        TorchBackend(windowed, PAD)
    flash = tiny_model()
    flash.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(InputError, match="attn_implementation='sdpa'"):
        TorchBackend(flash, PAD)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    model, names = tiny_model(), random_names(23)
    constraint = TrieConstraint(names)
    on_cpu = beam_search(TorchBackend(model, PAD), PROMPTS, constraint, BLOCKS, num_beams=23)
    on_gpu = beam_search(TorchBackend(model.cuda(), PAD), PROMPTS, constraint, BLOCKS, num_beams=23)
    for a, b in zip(on_cpu, on_gpu, strict=True):
        # other kernels, the same float32
        np.testing.assert_allclose(a.logps[a.items.argsort()], b.logps[b.items.argsort()], atol=1e-4)
