"""The policy's hidden states at prompt positions, against full forward passes without padding."""

from __future__ import annotations

import gc

import pytest
import torch
from transformers import PreTrainedModel

from gream.decoding.torch_backend import TorchBackend
from tests.decoding.test_torch_backend import BLOCKS, PAD, PROMPTS, count_forwards, other_model

LENGTHS = [len(prompt) for prompt in PROMPTS]


def obvious_states(model: PreTrainedModel, prompt: list[int]) -> torch.Tensor:
    """The last hidden states of one forward pass, as the output embedding gets them: (T, H)."""
    got: list[torch.Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, args: got.append(args[0][0]))
    with torch.no_grad():
        model.eval()(torch.tensor([prompt]))
    hook.remove()
    return got[0]


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "gemma2"])
def test_states_of_every_prompt_equal_a_forward_pass_of_its_own(name: str) -> None:
    model = other_model(name)
    session = TorchBackend(model, PAD, batch_size=2).start(PROMPTS, keep_states=True)  # three batches
    states, real = session.prompt_states()
    assert states.shape == (5, 7, 32)
    assert real.tolist() == [[False] * (7 - length) + [True] * length for length in LENGTHS]
    for row, prompt in enumerate(PROMPTS):
        # float32 sums over other shapes of the same matrices
        torch.testing.assert_close(
            states[row, real[row]], obvious_states(model, prompt), atol=1e-5, rtol=1e-5
        )
    assert not states[~real].any()


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_states_come_from_the_one_prefill_and_later_tokens_leave_them_alone(name: str) -> None:
    model = other_model(name)
    backend, fed = TorchBackend(model, PAD), count_forwards(model)
    session = backend.start(PROMPTS, keep_states=True)
    before, _ = session.prompt_states()
    session.first(BLOCKS[0])
    session.step(torch.zeros(5, 3, dtype=torch.long), torch.arange(40, 43).expand(5, 3), BLOCKS[1])
    assert torch.equal(before, session.prompt_states()[0])
    assert fed == [(5, 7), (5, 3)]


def test_a_bfloat16_model_gives_float32_states() -> None:
    states, _ = (
        TorchBackend(other_model("qwen3").to(torch.bfloat16), PAD)
        .start(PROMPTS, keep_states=True)
        .prompt_states()
    )
    assert states.dtype == torch.float32


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_states_take_memory_only_when_they_are_asked_for(name: str) -> None:
    backend = TorchBackend(other_model(name), PAD)
    size = len(PROMPTS) * max(LENGTHS) * 32 * 4  # bytes of B * T * H numbers
    held = {}
    for keep_states in (False, True):
        before = _storages(size)
        session = backend.start(PROMPTS, keep_states=keep_states)
        held[keep_states] = len(_storages(size) - before)
        del session
    assert held == {False: 0, True: 1}


def test_states_that_were_not_kept_are_refused() -> None:
    with pytest.raises(ValueError, match="without keep_states"):
        TorchBackend(other_model("qwen3"), PAD).start(PROMPTS).prompt_states()


def _storages(size: int) -> set[int]:
    """Addresses of what all tensors of the process hold, where it is of this size."""
    storages = [found.untyped_storage() for found in gc.get_objects() if type(found) is torch.Tensor]
    return {storage.data_ptr() for storage in storages if storage.nbytes() == size}
