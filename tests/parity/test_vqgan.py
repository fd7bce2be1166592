"""LVM's tokenizer computes what the published network computes on deterministic weights (golden numbers)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

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


WIDENED = {
    "resolution": 8, "hidden_channels": 32, "channel_mult": [2], "num_res_blocks": 1, "attn_resolutions": [],
    "no_attn_mid_block": True, "z_channels": 4, "num_embeddings": 16, "quantized_embed_dim": 4,
}  # fmt: skip
_CONVOLUTIONS = {
    "quant_conv": (4, 4, 1), "post_quant_conv": (4, 4, 1),
    "encoder.conv_in": (32, 3, 3), "encoder.conv_out": (4, 64, 3), "encoder.down.0.block.0.nin_shortcut": (64, 32, 1),
    "encoder.down.0.block.0.conv1": (64, 32, 3), "encoder.down.0.block.0.conv2": (64, 64, 3),
    "decoder.conv_in": (64, 4, 3), "decoder.conv_out": (3, 64, 3),
}  # fmt: skip
_PLAIN = (
    *(f"encoder.mid.block_{n}" for n in (1, 2)), *(f"decoder.mid.block_{n}" for n in (1, 2)),
    *(f"decoder.up.0.block.{n}" for n in (0, 1)),
)  # fmt: skip


def widened_state() -> dict[str, torch.Tensor]:
    """A published state dict whose finest level has twice the channels of the first convolution."""
    convolutions = _CONVOLUTIONS | {f"{block}.conv{n}": (64, 64, 3) for block in _PLAIN for n in (1, 2)}
    norms = {f"{block}.norm{n}": 64 for block in (*_PLAIN, "encoder.down.0.block.0") for n in (1, 2)}
    norms |= {"encoder.down.0.block.0.norm1": 32, "encoder.norm_out": 64, "decoder.norm_out": 64}
    state = {"quantize.embedding.weight": values("codes", [16, 4], "normal:1.0")}
    for name, (after, before, side) in convolutions.items():
        scale = (before * side * side) ** -0.5
        state[f"{name}.weight"] = values(f"{name}.weight", [after, before, side, side], f"normal:{scale}")
        state[f"{name}.bias"] = values(f"{name}.bias", [after], "normal:0.1")
    for name, width in norms.items():
        state[f"{name}.weight"] = values(f"{name}.weight", [width], "gain:0.1")
        state[f"{name}.bias"] = values(f"{name}.bias", [width], "normal:0.1")
    return state


def test_a_finest_level_wider_than_the_first_convolution_has_a_shortcut(tmp_path):
    state = widened_state()
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(WIDENED))
    assert run("convert", "vqgan", tmp_path, tmp_path / "out") == 0
    tokenizer = fourm.load_tokenizer(tmp_path / "out")

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def normed(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.silu(F.group_norm(x, 32, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6))

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        hidden = conv(f"{name}.conv1", normed(f"{name}.norm1", x))
        hidden = conv(f"{name}.conv2", normed(f"{name}.norm2", hidden))
        return hidden + (conv(f"{name}.nin_shortcut", x) if f"{name}.nin_shortcut.weight" in state else x)

    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    x = block("encoder.down.0.block.0", conv("encoder.conv_in", image))
    x = block("encoder.mid.block_2", block("encoder.mid.block_1", x))
    latents = conv("quant_conv", conv("encoder.conv_out", normed("encoder.norm_out", x))).permute(0, 2, 3, 1)
    ids = torch.cdist(latents.flatten(0, 2), state["quantize.embedding.weight"]).argmin(-1).view(2, 8, 8)
    assert len(ids.unique()) > 3
    assert torch.equal(tokenizer.encode(image), ids)

    x = conv("post_quant_conv", state["quantize.embedding.weight"][ids].permute(0, 3, 1, 2))
    x = block("decoder.mid.block_2", block("decoder.mid.block_1", conv("decoder.conv_in", x)))
    x = block("decoder.up.0.block.1", block("decoder.up.0.block.0", x))
    painted = conv("decoder.conv_out", normed("decoder.norm_out", x))
    torch.testing.assert_close(tokenizer.decode(ids, raw=True), painted, rtol=0, atol=1e-4)


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
