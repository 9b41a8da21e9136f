"""Gradients through a choice of code, the losses around it, and codes that died."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gream.semantic_ids.codebook_training import (
    as_layers,
    choose,
    codebook_loss,
    network,
    quantise,
    restart_dead,
)


def test_the_nearest_code_is_chosen_and_ties_go_to_the_lower() -> None:
    codebook = torch.tensor([[0.0], [4.0], [4.0]])
    assert choose(torch.tensor([[1.0], [2.0], [3.0]]), codebook).tolist() == [0, 0, 1]


@pytest.mark.parametrize("gradient", ["straight_through", "rotation"])
def test_the_value_is_the_codeword(gradient: str) -> None:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(6, 5, generator=generator)
    codewords = torch.randn(6, 5, generator=generator)
    torch.testing.assert_close(quantise(latents, codewords, gradient), codewords)


def test_straight_through_copies_the_gradient() -> None:
    latents = torch.tensor([[1.0, 2.0]], requires_grad=True)
    quantise(latents, torch.tensor([[5.0, 5.0]]), "straight_through").backward(torch.tensor([[3.0, -1.0]]))
    assert latents.grad is not None
    assert latents.grad.tolist() == [[3.0, -1.0]]


def test_the_rotation_trick_turns_and_scales_the_gradient() -> None:
    # From (2, 0) to (0, 4): a quarter turn, twice as long. Backwards (0, 1) becomes 2 (1, 0).
    latents = torch.tensor([[2.0, 0.0]], requires_grad=True)
    quantise(latents, torch.tensor([[0.0, 4.0]]), "rotation").backward(torch.tensor([[0.0, 1.0]]))
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, torch.tensor([[2.0, 0.0]]))


def test_the_rotation_trick_survives_zeros() -> None:
    latents = torch.zeros(1, 3, requires_grad=True)
    quantise(latents, torch.zeros(1, 3), "rotation").sum().backward()
    assert latents.grad is not None
    assert torch.isfinite(latents.grad).all()


def test_the_codebook_loss_draws_codewords_more_than_latents() -> None:
    latents = torch.tensor([[1.0]], requires_grad=True)
    codewords = torch.tensor([[3.0]], requires_grad=True)
    loss = codebook_loss(latents, codewords)
    loss.backward()
    assert loss.item() == pytest.approx(4 + 0.25 * 4)
    assert codewords.grad is not None and latents.grad is not None
    assert (codewords.grad.item(), latents.grad.item()) == (4.0, -1.0)


def test_only_dead_codes_restart_and_on_real_latents() -> None:
    codebook = torch.tensor([[0.0], [1.0], [2.0]])
    latents = torch.tensor([[7.0], [8.0], [9.0]])
    assert restart_dead(codebook, torch.tensor([0, 5, 0]), latents, np.random.default_rng(0)) == 2
    assert codebook[1].item() == 1.0
    assert {codebook[0].item(), codebook[2].item()} < {7.0, 8.0, 9.0}
    assert codebook[0] != codebook[2]  # drawn without putting back


def test_more_dead_codes_than_latents_share_them() -> None:
    codebook = torch.zeros(3, 1)
    restart_dead(codebook, torch.zeros(3), torch.tensor([[7.0]]), np.random.default_rng(0))
    assert codebook.flatten().tolist() == [7.0] * 3


def test_the_matrices_of_a_network_do_what_it_does() -> None:
    torch.manual_seed(3)
    module = network([5, 4, 3, 2])
    inputs = torch.randn(6, 5)
    np.testing.assert_allclose(as_layers(module)(inputs.numpy()), module(inputs).detach().numpy(), atol=1e-5)
