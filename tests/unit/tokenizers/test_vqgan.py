"""VQGAN's networks: sizes, reach of the padding, and what a training step changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fourm import catalog
from fourm.errors import ConfigError
from fourm.layouts import Grid
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import VQGANConfig
from fourm.tokenizers.quantizer_configs import EmaConfig
from fourm.tokenizers.vqgan import Decoder, Encoder, Level, _Halve
from fourm.tokenizers.vqvae import VQVAE

SMALL = VQGANConfig(widths=(8, 8, 16, 16), num_blocks=1, attention_levels=(3,), latent_dim=6, groups=4)
GRID = Grid(2, 3, 8)


def test_every_level_but_the_first_halves_the_map() -> None:
    encoder, decoder = Encoder(SMALL, 3, GRID), Decoder(SMALL, 3, GRID)
    latents = encoder(torch.rand(2, 3, 16, 24))
    assert latents.shape == (2, 6, 2, 3)
    assert decoder(latents).shape == (2, 3, 16, 24)
    assert SMALL.patch_size == 8


def test_the_decoder_has_one_block_more_per_level() -> None:
    encoder, decoder = Encoder(SMALL, 3, GRID), Decoder(SMALL, 3, GRID)

    def levels(network: torch.nn.Module) -> list[Level]:
        return [module for module in network.modules() if isinstance(module, Level)]

    assert [len(level.blocks) for level in levels(encoder)] == [1, 1, 1, 1]
    assert [len(level.blocks) for level in levels(decoder)] == [2, 2, 2, 2]
    assert [len(level.attentions) for level in levels(encoder)] == [0, 0, 0, 1]
    assert [len(level.attentions) for level in levels(decoder)] == [0, 0, 0, 2]


def test_halving_pads_on_the_right_and_below_alone() -> None:
    halve = _Halve(1)
    with torch.no_grad():
        halve.weight.zero_()
        halve.weight[0, 0, 0, 0] = 1.0  # the upper left of what a place sees
        halve.bias.zero_()  # type: ignore[union-attr]
        image = torch.arange(16.0).reshape(1, 1, 4, 4)
        assert halve(image).flatten().tolist() == [0.0, 2.0, 8.0, 10.0]


def test_a_training_step_moves_networks_and_codebook() -> None:
    torch.manual_seed(0)
    quantizer = EmaConfig(codebook_size=16, dim=4, cosine=False, normalize_latents=False)
    model = VQVAE(catalog.get("rgb@64"), VQVAEConfig(encoder=SMALL, decoder=SMALL, quantizer=quantizer)).train()
    before = model.quantizer.codebook.clone()
    result = model(torch.rand(2, 3, 64, 64))
    (result.output.square().mean() + result.commitment.mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not torch.equal(before, model.quantizer.codebook)
    assert result.ids.shape == (2, 8, 8)


def test_the_finest_level_of_the_encoder_may_be_wider_than_its_first_convolution() -> None:
    config = replace(SMALL, stem_width=4)
    encoder, decoder = Encoder(config, 3, GRID), Decoder(config, 3, GRID)
    assert encoder.conv_in.weight.shape == (4, 3, 3, 3)
    assert encoder.levels[0].blocks[0].shortcut.weight.shape == (8, 4, 1, 1)
    assert decoder.conv_out.weight.shape == (3, 8, 3, 3)
    assert decoder(encoder(torch.rand(2, 3, 16, 24))).shape == (2, 3, 16, 24)


def test_tokenizers_from_before_the_key_stem_width_keep_their_hash() -> None:
    quantizer = EmaConfig(codebook_size=16, dim=4, cosine=False, normalize_latents=False)

    def blank(network: VQGANConfig) -> VQVAE:
        model = VQVAE(catalog.get("rgb@64"), VQVAEConfig(encoder=network, decoder=network, quantizer=quantizer))
        for value in model.state_dict().values():
            value.zero_()
        return model

    assert blank(SMALL).hash == "58ac8686dabfc697ce355b45b6faac05eeeb39f78463d4657dc0c7f0bcd68c5f"
    assert blank(replace(SMALL, stem_width=8)).hash != blank(SMALL).hash


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": ()}, "widths is empty"),
        ({"widths": (30,), "attention_levels": ()}, r"widths \[30\] are not multiples of groups 32"),
        ({"attention_levels": (5,)}, "attention_levels holds 5; expected numbers of levels, from 0 to 4"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"stem_width": 48}, "stem_width is 48; expected a multiple of groups 32"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VQGANConfig(**options)  # type: ignore[arg-type]
