"""Patches by one product are what the convolution of that kernel and stride gives, in every type, for any channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fourm.nn.patches import PatchConv2d, PatchConvTranspose2d

CHANNELS = [1, 3, 4, 8, 12, 16, 24, 32]


def both(channels: int, patch: int, *, transposed: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """The product, the convolution with its parameters, and what both take."""
    torch.manual_seed(channels)
    ours = PatchConvTranspose2d(20, channels, patch) if transposed else PatchConv2d(channels, 20, patch)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    theirs = kind(ours.in_channels, ours.out_channels, patch, stride=patch)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(2, 20, 3, 5) if transposed else torch.randn(2, channels, 3 * patch, 5 * patch)


def with_gradients(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    out = module(x)
    direction = torch.linspace(-1, 2, out.numel()).reshape(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, [x, *module.parameters()], direction)]


@pytest.mark.parametrize("transposed", [False, True], ids=["to patches", "to an image"])
@pytest.mark.parametrize("patch", [1, 2, 4, 8])
@pytest.mark.parametrize("channels", CHANNELS)
def test_a_product_is_the_convolution(channels: int, patch: int, transposed: bool) -> None:
    ours, theirs, x = both(channels, patch, transposed=transposed)
    exact = with_gradients(theirs, x)
    for found, expected in zip(with_gradients(ours, x), exact, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):  # oneDNN's convolutions fail this on processors with AMX
        halves = with_gradients(ours, x)
    for found, expected in zip(halves, exact, strict=True):
        assert (found.float() - expected).norm() < 0.02 * expected.norm()


def test_pixels_beyond_the_last_whole_patch_are_left_out() -> None:
    ours, theirs, x = both(3, 4, transposed=False)
    torch.testing.assert_close(ours(x[..., :-1, :-3]), theirs(x[..., :-1, :-3]), atol=1e-5, rtol=1e-5)


def test_rectangular_patches_take_the_parameters_of_a_convolution() -> None:
    conv = nn.Conv2d(3, 5, (2, 4), stride=(2, 4), bias=False)
    ours, x = PatchConv2d.of(conv), torch.randn(1, 3, 6, 8)
    assert ours.weight is conv.weight
    torch.testing.assert_close(ours(x), conv(x), atol=1e-5, rtol=1e-5)
