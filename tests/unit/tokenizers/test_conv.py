"""The convolutional networks fold and unfold patches."""

from __future__ import annotations

import pytest
import torch

from fourm.layouts import Grid
from fourm.tokenizers.conv import Decoder, Encoder, ResidualBlock
from fourm.tokenizers.network_configs import ConvConfig

GRID = Grid(4, 2, 8)


@pytest.mark.parametrize("config", [ConvConfig((16,), 8, (1,)), ConvConfig((16, 32), 4, (0, 2))])
def test_a_token_covers_one_patch(config: ConvConfig) -> None:
    assert config.patch_size == 8
    encoder, decoder = Encoder(config, 3, GRID), Decoder(config, 5, GRID)

    features = encoder(torch.randn(2, 3, 32, 16))

    assert features.shape == (2, encoder.out_dim, 4, 2)
    assert encoder.out_dim == decoder.in_dim == config.widths[-1]
    assert decoder(features).shape == (2, 5, 32, 16)


def test_a_residual_block_starts_as_the_identity() -> None:
    x = torch.randn(1, 16, 4, 4)
    assert torch.equal(ResidualBlock(16, 8)(x), x)


def test_without_blocks_a_patch_is_read_alone() -> None:
    encoder = Encoder(ConvConfig((16, 32), 4, (0, 0)), 1, GRID)
    image = torch.randn(1, 1, 32, 16)
    changed = image.clone()
    changed[..., :8, :8] += 1

    difference = (encoder(image) - encoder(changed)).abs().sum(1)[0]

    assert difference[0, 0] > 0
    assert difference.flatten()[1:].sum() == 0
