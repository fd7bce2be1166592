"""LVM's tokenizer computes what the published network computes on deterministic weights (golden numbers)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fourm
from fourm import recipes
from fourm.convert.vqgan import published_name, stored
from fourm.errors import CheckpointError
from fourm.recipe.schema import TokenizerRecipe
from fourm.recipe.tokenizer import build_tokenizer
from fourm.tokenizers.network_configs import VQGANConfig
from tests.end_to_end.conftest import run
from tests.parity.rebuild import golden, values

NAME = "lvm_vqgan_small"


@pytest.fixture(scope="module")
def converted(hub, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "vqgan"
    assert run("convert", "vqgan", hub(NAME), folder) == 0
    return folder


def test_ids_and_decoded_values_are_the_published_ones(converted):
    facts, tokenizer = golden(NAME), fourm.load_tokenizer(converted)
    expected, size = facts["expected"], facts["config"]["resolution"]
    image = torch.sigmoid(values(f"input.{NAME}", [1, 3, size, size], "normal:1.0"))
    published = torch.tensor(expected["token_ids"]).reshape(1, tokenizer.grid.height, tokenizer.grid.width)
    assert (tokenizer.encode(image) == published).float().mean() >= 0.995
    found = tokenizer.decode(published, raw=True)
    assert list(found.shape) == expected["decoded_shape"]
    at, numbers = expected["decoded"]["flat_index"], torch.tensor(expected["decoded"]["values"])
    torch.testing.assert_close(found.flatten()[at], numbers, rtol=0, atol=2e-3)
    assert torch.equal(tokenizer.decode(published), found.clamp(0, 1))


def test_a_published_folder_opens_without_conversion(hub, converted):
    here, there = fourm.load_tokenizer(hub(NAME)), fourm.load_tokenizer(converted)
    assert here.hash == there.hash
    assert here.modality == there.modality
    assert here.modality.name == "rgb_unit@64"


def test_weights_in_a_file_of_torch_are_the_same(hub, converted, tmp_path):
    torch.save(load_file(hub(NAME) / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((hub(NAME) / "config.json").read_text())
    assert fourm.load_tokenizer(tmp_path).hash == fourm.load_tokenizer(converted).hash


def test_every_published_tensor_has_one_place(converted):
    tokenizer = fourm.load_tokenizer(converted)
    assert {published_name(name) for name in stored(tokenizer)} == golden(NAME)["tensors"].keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_channels": 64}, r"encoder.conv_out.weight has shape"),
        ({"attn_resolutions": []}, r"without a place: decoder.up.4.attn"),
        ({"attn_resolutions": [4, 8]}, r"missing: decoder.up.3.attn"),
        ({"ch_mult": [1, 2]}, r"the config holds ch_mult; expected the keys"),
        ({"num_channels": 1}, r"num_channels is 1; expected 3"),
        ({"resolution": 72}, r"resolution is 72; expected a multiple of 16"),
        ({"resample_with_conv": False}, r"resample_with_conv is false"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(hub, tmp_path, change, message):
    (tmp_path / "model.safetensors").symlink_to(hub(NAME) / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**golden(NAME)["config"], **change}))
    with pytest.raises(CheckpointError, match=message):
        fourm.load_tokenizer(tmp_path)


def test_tokenizers_of_4m_are_told_apart(tmp_path, capsys):
    save_file({"quantize._codebook.embed": torch.zeros(1, 4, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert run("convert", "vqgan", tmp_path, tmp_path / "out") == 1
    assert "use fourm convert ml4m" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def expected_size(network: VQGANConfig, channels: int, codes: int, dim: int) -> int:
    """Numbers in the tensors of the published layout, codebook included, from its formula."""

    def conv(before: int, after: int, side: int = 3) -> int:
        return before * after * side * side + after

    def block(before: int, after: int) -> int:
        shortcut = conv(before, after, 1) if before != after else 0
        return 2 * before + conv(before, after) + 2 * after + conv(after, after) + shortcut

    def attention(width: int) -> int:
        return 2 * width + 4 * conv(width, width, 1)

    widths, latent = network.widths, network.latent_dim
    total, last = 0, len(widths) - 1
    for blocks, neighbour in ((network.num_blocks, -1), (network.num_blocks + 1, 1)):
        middle = 2 * block(widths[-1], widths[-1]) + attention(widths[-1])
        outer = widths[-1] if neighbour < 0 else widths[0]
        ends = [conv(channels, widths[0]), conv(widths[-1], latent)]
        if neighbour > 0:
            ends = [conv(latent, widths[-1]), conv(widths[0], channels)]
        total += middle + sum(ends) + 2 * outer
        for level, width in enumerate(widths):
            before = widths[min(max(level + neighbour, 0), last)]
            total += block(before, width) + (blocks - 1) * block(width, width)
            total += blocks * attention(width) if level in network.attention_levels else 0
        total += sum(conv(width, width) for width in (widths[:-1] if neighbour < 0 else widths[1:]))
    return total + conv(latent, dim, 1) + conv(dim, latent, 1) + codes * dim


def test_the_formula_counts_the_golden_network(converted):
    config = fourm.load_tokenizer(converted).config
    count = sum(torch.Size(shape).numel() for shape, _ in golden(NAME)["tensors"].values())
    assert expected_size(config.encoder, 3, 512, 32) == count


def test_the_shipped_recipe_has_the_published_size():
    with torch.device("meta"):
        model = build_tokenizer(recipes.load("vqgan_lvm_f16", TokenizerRecipe, folder="tokenizers"))
    assert (model.grid.num_tokens, model.vocab_size) == (256, 8192)
    assert sum(value.numel() for value in stored(model).values()) == expected_size(VQGANConfig(), 3, 8192, 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == 71_879_555
