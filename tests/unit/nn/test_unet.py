from __future__ import annotations

import pytest
import torch

from fourm.errors import ConfigError
from fourm.nn.configs import UNetConfig
from fourm.nn.unet import UNet

SMALL = UNetConfig(patch_size=2, width=8, multipliers=(1, 2), num_blocks=1, attention_levels=(1,), groups=4)


def make(config: UNetConfig = SMALL, *, opened: bool = True) -> UNet:
    torch.manual_seed(0)
    net = UNet(config, 3, 5)
    if opened:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def test_the_output_has_the_shape_of_the_image_at_any_size() -> None:
    for size in ((8, 8), (16, 8)):
        out = make()(torch.randn(2, 3, *size), torch.tensor([0, 999]), torch.randn(2, 5, 2, 2))
        assert out.shape == (2, 3, *size)


def test_it_starts_by_saying_nothing() -> None:
    net = make(opened=False)
    out = net(torch.randn(2, 3, 8, 8), torch.tensor([0, 999]), torch.randn(2, 5, 2, 2))
    assert torch.equal(out, torch.zeros_like(out))


def test_it_looks_at_image_time_and_condition() -> None:
    net = make()
    noisy, timestep, condition = torch.randn(1, 3, 8, 8), torch.tensor([5]), torch.randn(1, 5, 2, 2)
    out = net(noisy, timestep, condition)
    for other in (
        net(noisy + 1, timestep, condition),
        net(noisy, timestep + 500, condition),
        net(noisy, timestep, condition + 1),
    ):
        assert not torch.allclose(out, other)


def test_hidden_conditions_do_not_matter() -> None:
    net = make()
    noisy, timestep, condition = torch.randn(1, 3, 8, 8), torch.tensor([5]), torch.randn(1, 5, 2, 2)
    keep = torch.tensor([[[True, False], [True, True]]])
    changed = condition.clone()
    changed[:, :, 0, 1] = 7.0
    assert torch.equal(net(noisy, timestep, condition, keep), net(noisy, timestep, changed, keep))


def test_a_condition_reaches_the_place_it_lies_at_first() -> None:
    """Left and right, above and below are not exchanged between the codes and the pixels."""
    config = UNetConfig(patch_size=2, width=8, multipliers=(1,), num_blocks=1, attention_levels=(), groups=4)
    net = make(config)
    noisy, timestep = torch.zeros(1, 3, 32, 32), torch.tensor([5])
    condition = torch.zeros(1, 5, 4, 4)
    moved = condition.clone()
    moved[:, :, 0, 3] = 10.0
    change = (net(noisy, timestep, moved) - net(noisy, timestep, condition)).abs().sum(1)[0]
    assert change[:8, 24:].mean() > 3 * change[16:, :16].mean()


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="12 x 10 pixels does not divide by the denoiser's 4"):
        make()(torch.randn(1, 3, 12, 10), torch.tensor([0]), torch.randn(1, 5, 2, 2))


def test_the_published_network_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        net = UNet(UNetConfig(), 3, 32)
    assert sum(p.numel() for p in net.parameters()) == 196_350_256


@pytest.mark.parametrize(
    ("values", "message"),
    [({"width": 100}, "not multiples of groups"), ({"attention_levels": (4,)}, "are not levels; there are 4")],
)
def test_contradictions_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UNetConfig(**values)  # type: ignore[arg-type]
