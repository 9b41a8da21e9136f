"""Gradients through a choice of code, the losses around it, and codes that died."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

from gream.semantic_ids import mpq, rqvae
from gream.semantic_ids.codebook_training import (
    Training,
    as_layers,
    batches,
    choose,
    codebook_loss,
    network,
    quantise,
    restart_dead,
    train,
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


def test_batches_hold_every_item_once_in_another_order_each_time() -> None:
    generator = np.random.default_rng(0)
    passes = [list(batches(23, 10, generator)) for _ in range(2)]
    assert [len(rows) for rows in passes[0]] == [10, 10, 3]
    orders = [torch.cat(rows).tolist() for rows in passes]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(23))
    assert orders[0] != orders[1] != list(range(23))


def test_training_reports_the_end_of_every_epoch() -> None:
    module, ended, sizes = torch.nn.Linear(1, 1), [], []

    def loss(rows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(rows))
        return module(torch.ones(len(rows), 1)).square().mean()

    training = Training(
        hidden=[], latent_dim=1, epochs=3, batch_size=4, learning_rate=0.1, gradient="rotation", seed=0
    )
    train(
        module, 6, loss, training,
        epochs=3, generator=np.random.default_rng(0), after_epoch=lambda: ended.append(len(sizes)), title="x",
    )  # fmt: skip
    assert (sizes, ended) == ([4, 2] * 3, [2, 4, 6])


@pytest.mark.parametrize("module", [rqvae, mpq])
def test_dead_codes_restart_after_every_epoch_but_the_last_tenth(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart, used = module._Model.restart, []

    def watched(model: torch.nn.Module, *rest: object) -> None:
        before = [int(counts.sum()) for counts in model.used]
        restart(model, *rest)
        used.append((before, [int(counts.sum()) for counts in model.used]))

    monkeypatch.setattr(module._Model, "restart", watched)
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    training = Training(
        hidden=[], latent_dim=3, epochs=20, batch_size=10, learning_rate=1e-3, gradient="rotation", seed=0
    )
    if module is rqvae:
        rqvae.fit_rqvae(vectors, (4, 3), training)
    else:
        mpq.fit_mpq(vectors, (4, 3), training, orthogonality=1.0)
    # 4 epochs warm up, 16 have codebooks, the last 2 of them restart nothing; counts begin anew each time.
    assert used == [([30, 30], [0, 0])] * 14
