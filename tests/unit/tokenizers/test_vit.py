"""The transformer networks of tokenizers."""

from __future__ import annotations

import pytest
import torch

from fourm.layouts import Grid
from fourm.tokenizers.network_configs import ViTConfig
from fourm.tokenizers.vit import ConvNextBlock, Decoder, Encoder, PostMlp

GRID = Grid(4, 2, 8)


def config(**options: object) -> ViTConfig:
    return ViTConfig(dim=16, depth=1, num_heads=2, patch_size=8, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"post_mlp": False}, {"output_blocks": 1}])
def test_a_token_covers_one_patch(options: dict[str, object]) -> None:
    encoder, decoder = Encoder(config(**options), 3, GRID), Decoder(config(**options), 5, GRID)

    features = encoder(torch.randn(2, 3, 32, 16))

    assert features.shape == (2, 16, 4, 2)
    assert decoder(features).shape == (2, 5, 32, 16)


def test_every_token_sees_the_whole_image() -> None:
    encoder = Encoder(config(), 1, GRID)
    image = torch.randn(1, 1, 32, 16)
    changed = image.clone()
    changed[..., :8, :8] += 1

    difference = (encoder(image) - encoder(changed)).abs().sum(1)

    assert (difference > 0).all()


def test_patches_are_told_apart_by_their_place() -> None:
    features = Encoder(config(), 1, GRID)(torch.ones(1, 1, 32, 16))[0].flatten(1).T
    assert len(features.unique(dim=0)) == 8


def test_the_position_table_is_saved_and_fits_other_sizes_of_images() -> None:
    encoder = Encoder(config(grid_size=3), 1, GRID)

    assert encoder.state_dict()["blocks.pos_emb"].shape == (1, 16, 3, 3)
    assert encoder(torch.randn(1, 1, 48, 24)).shape == (1, 16, 6, 3)


def test_the_last_mlp_runs_in_float32_under_autocast() -> None:
    encoder = Encoder(config(), 1, GRID)
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(torch.randn(1, 1, 32, 16)).dtype == torch.float32


def test_the_mlp_behind_the_blocks_squashes_with_tanh() -> None:
    mlp = PostMlp(3, 4)
    torch.nn.init.constant_(mlp.fc1.weight, 1e3)
    torch.nn.init.zeros_(mlp.fc1.bias)

    expected = mlp.fc2(torch.ones(4))

    torch.testing.assert_close(mlp(torch.ones(3)), expected)


def test_output_blocks_start_near_the_identity() -> None:
    x = torch.randn(1, 8, 9, 9)
    torch.testing.assert_close(ConvNextBlock(8)(x), x, atol=1e-4, rtol=0)
