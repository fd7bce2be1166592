from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fourm.train.configs import OptimizerConfig
from fourm.train.muon import Muon, _iterate, _iterate_on_products, orthogonalise
from fourm.train.optimizer import Updater, build_optimizer
from tests.unit.train.toy import toy_config


class Blocks(nn.Module):
    """An embedding and two matrices, one of them a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(5, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 8)])

    def forward(self, ids: Tensor) -> Tensor:
        return self.blocks[1](self.blocks[0](self.embed(ids)))


def muon(parameter: nn.Parameter, **options: Any) -> Muon:
    group = {"params": [parameter], "orthogonal": True}
    return Muon([group], **{"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, **options})


@pytest.mark.parametrize("shape", [(8, 8), (32, 8), (8, 32)])
def test_all_directions_get_about_the_same_length_and_keep_their_place(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    made = orthogonalise(matrices)
    lengths = torch.linalg.svdvals(made)
    assert 0.6 < lengths.min() <= lengths.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    # The same singular vectors: in their basis the result is close to diagonal, with ones on it.
    inside = u.transpose(1, 2) @ made @ v.transpose(1, 2)
    torch.testing.assert_close(inside, torch.eye(inside.shape[-1]).expand_as(inside), rtol=0, atol=0.35)


def test_long_matrices_take_a_shorter_way_to_the_same_result() -> None:
    torch.manual_seed(0)
    u, v = torch.linalg.qr(torch.randn(16, 16))[0], torch.linalg.qr(torch.randn(200, 16))[0]
    for smallest in (0.0, -6.0):  # evenly strong directions, and some that are almost absent
        x = (u * torch.logspace(0, smallest, 16)) @ v.T
        x = (x / x.norm())[None]
        torch.testing.assert_close(_iterate_on_products(x), _iterate(x), rtol=0, atol=2e-3)


def test_a_step_is_momentum_made_orthogonal() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 4))
    before, gradients = weight.detach().clone(), torch.randn(2, 4, 4)
    optimizer = muon(weight, weight_decay=0.5)
    mean = torch.zeros(4, 4)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        mean = 0.9 * mean + gradient
        before = before * (1 - 0.1 * 0.5) - 0.1 * orthogonalise((gradient + 0.9 * mean)[None])[0]
        torch.testing.assert_close(weight.detach(), before)


def test_a_convolution_is_a_matrix_with_a_row_per_channel() -> None:
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(4, 3, 2, 2))
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn_like(kernel)
    flat.grad = kernel.grad.flatten(1)
    for parameter in (kernel, flat):
        muon(parameter, weight_decay=0.1).step()
    torch.testing.assert_close(kernel.detach().flatten(1), flat.detach())


def test_fused_projections_are_several_matrices() -> None:
    torch.manual_seed(0)
    gradient = torch.randn(12, 4)
    gradient[4:8] *= 100  # one part must not drown the others
    weight = nn.Parameter(torch.zeros(12, 4))
    weight.grad = gradient
    muon(weight).step()
    for part in weight.detach().split(4):
        lengths = torch.linalg.svdvals(part) / 0.1
        assert 0.6 < lengths.min() <= lengths.max() < 1.3


def test_only_matrices_of_the_named_blocks_take_such_steps() -> None:
    model = Blocks()
    optimizer = build_optimizer(model, toy_config(optimizer=OptimizerConfig("muon", lr=1e-3, matrix_lr=0.02)))
    kinds = {id(p): (g["orthogonal"], g["lr_scale"]) for g in optimizer.param_groups for p in g["params"]}
    found = {name: kinds[id(p)] for name, p in model.named_parameters()}
    assert found["blocks.0.weight"] == found["blocks.1.weight"] == (True, pytest.approx(20.0))
    assert found["embed.weight"] == found["blocks.0.bias"] == (False, 1.0)


def test_an_update_that_is_skipped_changes_nothing() -> None:
    model = Blocks()
    optimizer = build_optimizer(model, toy_config(optimizer=OptimizerConfig("muon", lr=1e-3)))
    updater = Updater(optimizer, None)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.arange(5)).square().sum().backward()
    updater.step(1e-3, leaves_out=lambda norm: norm > 1e-9)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_it_learns() -> None:
    model = Blocks()
    updater = Updater(build_optimizer(model, toy_config(optimizer=OptimizerConfig("muon", lr=1e-2))), None)
    torch.manual_seed(1)
    target = torch.randn(5, 8)
    losses = []
    for step in range(80):
        loss = (model(torch.arange(5)) - target).square().sum()
        loss.backward()
        updater.step(1e-2 * (1 - step / 80))
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
