"""Heads turn the tokens of a backbone into answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fourm.errors import ConfigError
from fourm.transfer.backbone import Backbone
from fourm.transfer.head_configs import AttentiveConfig, ConvNeXtConfig, LinearConfig, UPerNetConfig
from fourm.transfer.network import TransferNetwork

Make = Callable[..., Backbone]
CONVNEXT = ConvNeXtConfig(dim=32, unfold=2, depth=1)
UPERNET = UPerNetConfig(dim=8, bins=(1, 2), dropout=0.0)


@pytest.mark.parametrize(
    ("head", "options", "dense", "shape"),
    [
        (LinearConfig(), {}, False, (5,)),
        (AttentiveConfig(num_heads=2, num_queries=3), {}, False, (5,)),
        (LinearConfig(), {}, True, (5, 4, 6)),
        (LinearConfig(), {"pyramid": "simple", "out_channels": 8}, True, (5, 16, 24)),
        (CONVNEXT, {}, True, (5, 8, 12)),
        (CONVNEXT, {"out_layers": [0, 1, 2, 3]}, True, (5, 8, 12)),
        (UPERNET, {"pyramid": "simple", "out_channels": 8}, True, (5, 16, 24)),
        (UPERNET, {"out_layers": [0, 1, 2, 3]}, True, (5, 4, 6)),
    ],
)
def test_every_weight_of_a_head_learns(
    make: Make, head: Any, options: dict[str, Any], dense: bool, shape: tuple[int, ...]
) -> None:
    network = TransferNetwork(make("rgb", **options), head, 5, dense)

    output = network({"rgb": torch.randn(2, 3, 16, 24)})
    output.square().sum().backward()

    assert output.shape == (2, *shape)
    assert all(p.grad is not None for p in network.head.parameters())


@torch.no_grad()
@pytest.mark.parametrize("head", [LinearConfig(), AttentiveConfig(num_heads=2)])
def test_what_a_sample_lacks_changes_nothing(make: Make, head: Any) -> None:
    network = TransferNetwork(make("rgb", "tok_depth"), head, 5, False).eval()
    torch.nn.init.normal_(network.head.linear.weight)
    images, depth = torch.randn(2, 3, 16, 16), torch.randint(0, 11, (2, 16))

    output = network({"rgb": images, "tok_depth": depth}, {"tok_depth@16": torch.tensor([False, True])})

    torch.testing.assert_close(output[:1], network({"rgb": images[:1]}))
    torch.testing.assert_close(output[1:], network({"rgb": images[1:], "tok_depth": depth[1:]}))


@pytest.mark.parametrize(
    ("head", "options", "dense", "message"),
    [
        (AttentiveConfig(), {}, True, "for maps take linear, convnext or upernet"),
        (AttentiveConfig(num_heads=3), {}, False, "does not divide the width of 16"),
        (CONVNEXT, {}, False, "for one answer per image take linear or attentive"),
        (CONVNEXT, {"pyramid": "simple"}, True, "set backbone.pyramid to null"),
        (UPERNET, {}, True, "reads 4 maps, but the backbone gives 1"),
    ],
)
def test_heads_that_do_not_fit_are_told(
    make: Make, head: Any, options: dict[str, Any], dense: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TransferNetwork(make("rgb", **options), head, 5, dense)


def test_rates_fall_from_the_head_to_the_embedders(make: Make) -> None:
    scales = TransferNetwork(make("rgb"), LinearConfig(), 5, False).layer_scales(0.5)

    assert scales["backbone.encoder.blocks.3.*"] == 0.5
    assert scales["backbone.encoder.blocks.0.*"] == 0.5**4
    assert scales["backbone.stems.rgb@16.*"] == 0.5**5
    assert not any("head" in name for name in scales)
