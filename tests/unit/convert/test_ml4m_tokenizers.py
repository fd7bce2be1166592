"""Published tokenizers are converted completely: key listings of the published files, without their weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm import catalog
from fourm.convert.ml4m_tokenizer_configs import tokenizer_config
from fourm.convert.ml4m_tokenizer_export import published_config
from fourm.convert.ml4m_tokenizer_modality import tokenizer_modality
from fourm.convert.ml4m_tokenizers import complete_state, key_map, rules, stored
from fourm.convert.rules import read, write
from fourm.errors import CheckpointError
from fourm.nn.configs import UNetConfig, UViTConfig
from fourm.nn.unet import UNet
from fourm.registry import implementation
from fourm.tokenizers.configs import DiVAEConfig, VQVAEConfig
from fourm.tokenizers.network_configs import ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig

RGB_1K = {
    "enc_type": "vit_b_enc", "dec_type": "uvit_b_p4_f16", "quant_type": "lucid", "patch_size": 16, "norm_codes": True,
    "prediction_type": "v_prediction", "beta_schedule": "shifted_cosine:0.5", "conditioning": "concat",
    "dec_transformer_dropout": 0.2, "epochs": 50,
}  # fmt: skip
Listing = Iterator[tuple[str, tuple[int, ...]]]


def layer(name: str, *weight: int, out: int | None = None) -> Listing:
    yield f"{name}.weight", weight
    yield f"{name}.bias", (out or weight[0],)


def block(name: str, dim: int) -> Listing:
    for part in ("norm1", "norm2"):
        yield from layer(f"{name}.{part}", dim)
    yield from layer(f"{name}.attn.qkv", 3 * dim, dim)
    yield from layer(f"{name}.attn.proj", dim, dim)
    yield from layer(f"{name}.mlp.fc1", 4 * dim, dim)
    yield from layer(f"{name}.mlp.fc2", dim, 4 * dim)


def encoding_half(codes: int, positions: int = 28) -> Listing:
    yield "encoder.pos_emb", (1, 768, positions, positions)
    yield from layer("encoder.proj", 768, 3, 16, 16)
    for number in range(12):
        yield from block(f"encoder.blocks.{number}", 768)
    yield from layer("encoder.norm_mlp", 768)
    yield from layer("encoder.post_mlp.fc1", 3072, 768)
    yield from layer("encoder.post_mlp.fc2", 768, 3072)
    yield from layer("quant_proj", 32, 768, 1, 1)
    yield "quantize._codebook.initted", (1,)
    yield "quantize._codebook.cluster_size", (codes,)
    yield "quantize._codebook.embed", (codes, 32)


def resnet(name: str, wide: int, narrow: int) -> Listing:
    yield from layer(f"{name}.norm1", wide)
    yield from layer(f"{name}.conv1", narrow, wide, 3, 3)
    yield from layer(f"{name}.time_emb_proj", narrow, 512)
    yield from layer(f"{name}.norm2", narrow)
    yield from layer(f"{name}.conv2", narrow, narrow, 3, 3)
    if wide != narrow:
        yield from layer(f"{name}.conv_shortcut", narrow, wide, 1, 1)


def uvit() -> Listing:
    """`decoder.` of the published rgb_1k tokenizer."""
    yield from layer("conv_in", 128, 3, 4, 4)
    yield from layer("time_embedding.linear_1", 512, 128)
    yield from layer("time_embedding.linear_2", 512, 512)
    yield from resnet("down_blocks.0.resnets.0", 128, 128)
    yield from resnet("down_blocks.0.resnets.1", 128, 128)
    yield from layer("down_blocks.0.downsamplers.0.conv", 128, 128, 3, 3)
    yield from resnet("down_blocks.1.resnets.0", 128, 256)
    yield from resnet("down_blocks.1.resnets.1", 256, 256)
    for name in ("downsample_mid.Conv2d_0", "downsample_mid.conv", "upsample_mid.conv"):
        yield from layer(name, 256, 256, 3, 3)
    yield "mid_block.mid_pos_emb", (1, 768, 32, 32)
    yield "mid_block.mask_token", (768,)
    for number in range(12):
        name = f"mid_block.mid_block.{number}"
        yield from block(name, 768)
        yield from layer(f"{name}.adaLN_modulation", 3072, 512)
        yield from layer(f"{name}.adaLN_gate", 1536, 512)
    yield from layer("mid_block.mid_cond_proj", 768, 32)
    yield from layer("mid_block.mid_proj_in", 768, 256)
    yield from layer("mid_block.mid_proj_out", 256, 768)
    for number, wide in enumerate((512, 512, 384)):
        yield from resnet(f"up_blocks.0.resnets.{number}", wide, 256)
    yield from layer("up_blocks.0.upsamplers.0.conv", 256, 256, 3, 3)
    for number, wide in enumerate((384, 256, 256)):
        yield from resnet(f"up_blocks.1.resnets.{number}", wide, 128)
    yield from layer("conv_norm_out", 128)
    yield from layer("conv_out", 128, 3, 4, 4, out=3)


def tensors(listing: Listing) -> dict[str, Tensor]:
    """Tensors of these shapes that need no memory."""
    return {key: torch.zeros(1).expand(shape) for key, shape in listing}


@pytest.fixture
def rgb_1k() -> dict[str, Tensor]:
    published = tensors(encoding_half(1024)) | {f"decoder.{k}": v for k, v in tensors(uvit()).items()}
    assert len(published) == 492
    return published


def convert(facts: dict[str, Any], published: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    config = tokenizer_config(facts, published)
    with torch.device("meta"):
        model = implementation(config.target)(catalog.get("rgb_half@224"), config)
    return model, complete_state(read(rules(model), published, stored(model)).state, config)


def test_the_published_config_becomes_ours(rgb_1k):
    config = tokenizer_config(RGB_1K, rgb_1k)
    assert config.encoder == ViTConfig(768, 12, 12, 16, grid_size=28)
    assert config.quantizer == EmaConfig(1024, 32, normalize_latents=False)
    assert isinstance(config, DiVAEConfig)
    assert config.denoiser == UViTConfig(768, 12, 12, dropout=0.2)
    noise = config.noise
    assert (noise.prediction, noise.schedule, noise.shift) == ("v", "shifted_cosine", 0.5)


def test_every_key_has_its_place_and_every_weight_is_filled(rgb_1k):
    model, state = convert(RGB_1K, rgb_1k)
    assert state.keys() == model.state_dict().keys()
    assert all(state[name].shape == weight.shape for name, weight in model.state_dict().items())


def test_the_second_name_of_a_layer_may_be_there_or_not(rgb_1k):
    for name in ("weight", "bias"):
        del rgb_1k[f"decoder.downsample_mid.Conv2d_0.{name}"]
    convert(RGB_1K, rgb_1k)


def test_two_names_of_one_layer_have_to_agree(rgb_1k):
    rgb_1k["decoder.downsample_mid.Conv2d_0.bias"] = torch.ones(256)
    with pytest.raises(CheckpointError, match="decoder.downsample.conv.bias different values"):
        convert(RGB_1K, rgb_1k)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("decoder.extra.weight", (3,), "without a place: decoder.extra.weight"),
        ("stray", (3,), "without a place: stray"),
        ("quant_proj.weight", (32, 768, 2, 2), "quant_proj.weight has shape \\(32, 768, 2, 2\\)"),
        ("quant_proj.weight", (768, 32, 1, 1), "quant_proj.weight has shape \\(768, 32, 1, 1\\)"),
    ],
)
def test_what_does_not_fit_is_named(rgb_1k, name, shape, message):
    rgb_1k[name] = torch.zeros(shape)
    with pytest.raises(CheckpointError, match=message):
        convert(RGB_1K, rgb_1k)


def test_what_is_missing_is_named(rgb_1k):
    del rgb_1k["decoder.mid_block.mask_token"]
    with pytest.raises(CheckpointError, match=r"missing: decoder\.mid_block\.mask_token"):
        convert(RGB_1K, rgb_1k)


def test_training_goes_on_from_the_published_codes(rgb_1k):
    """A codebook that began afresh would throw the codes away in its first step."""
    rgb_1k["quantize._codebook.embed"] = torch.nn.functional.normalize(torch.randn(1024, 32), dim=-1)
    rgb_1k["quantize._codebook.cluster_size"] = torch.rand(1024) + 1
    model, state = convert(RGB_1K, rgb_1k)
    quantizer = type(model.quantizer)(model.config.quantizer)
    prefix = "quantizer."
    quantizer.load_state_dict({k.removeprefix(prefix): v.clone() for k, v in state.items() if k.startswith(prefix)})
    quantizer.train()
    quantizer(rgb_1k["quantize._codebook.embed"].view(1, 32, 32, 32))
    torch.testing.assert_close(quantizer.codebook, rgb_1k["quantize._codebook.embed"])


def test_guided_diffusion_names_reach_every_weight_of_the_unet():
    """Their numbers run through; the golden numbers check that each names the right block."""
    config = DiVAEConfig(encoder=ViTConfig(768, 12, 12), denoiser=UNetConfig())
    with torch.device("meta"):
        ours = {name.rpartition(".")[0] for name in UNet(UNetConfig(), 3, 32).state_dict()}
    named: list[str] = []
    for target in key_map(config).values():
        named += [target] if isinstance(target, str) else target
    reached = [name.removeprefix("decoder.") for name in named]
    assert ours <= set(reached)
    assert len(reached) == len(set(reached))


def test_older_names_and_feature_maps_are_understood():
    published = tensors(encoding_half(8192)) | {
        key.replace("encoder", "decoder"): value for key, value in tensors(encoding_half(1)).items() if "encoder" in key
    }
    published["encoder.proj.weight"] = torch.zeros(1).expand(768, 512, 1, 1)  # of which the arguments may not speak
    facts = {"encoder_type": "vit_b_enc", "decoder_type": "vit_b_dec", "quantizer_type": "lucid", "enc_type": None}
    config = tokenizer_config({**facts, "quantizer_ema_decay": 0.9}, published)
    assert isinstance(config, VQVAEConfig)
    assert config.encoder.patch_size == config.decoder.patch_size == 1
    assert config.quantizer.decay == 0.9


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"dec_type": None}, "lacks dec_type"),
        ({"dec_type": "gan"}, "dec_type is 'gan'; known: unet_patched"),
        ({"enc_type": "resnet"}, "encoder 'resnet' is not known"),
        ({"quant_type": "fsq"}, "quant_type is 'fsq'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'"),
        ({"conditioning": "film"}, "conditioning is 'film'; known: concat, xattn"),
    ],
    ids=str,
)
def test_unknown_families_are_named(rgb_1k, facts, message):
    with pytest.raises(CheckpointError, match=message):
        tokenizer_config({**RGB_1K, **facts}, rgb_1k)


@pytest.mark.parametrize(
    ("name", "depth", "widths", "tokens"),
    [
        ("uvit_l_p4_f16", 24, (128, 256), 16),
        ("uvit_h_p4_f16", 32, (128, 256), 16),
        ("uvit_b_p4_f8", 12, (128, 256), 8),
        ("uvit_b_p4_f16_longskip", 13, (128, 256), 16),
        ("uvit_l_p4_f16_extraconv", 24, (128, 256, 512), 16),
    ],
)
def test_the_relatives_of_a_decoder_are_told_apart(rgb_1k, name, depth, widths, tokens):
    denoiser = tokenizer_config({**RGB_1K, "dec_type": name}, rgb_1k).denoiser
    assert (denoiser.depth, denoiser.widths, denoiser.stride) == (depth, widths, tokens)
    assert denoiser.long_skips == name.endswith("longskip")


def test_the_config_comes_back(rgb_1k):
    model, _ = convert(RGB_1K, rgb_1k)
    again = published_config(model)
    assert {key: value for key, value in RGB_1K.items() if key != "epochs"}.items() <= again.items()
    assert tokenizer_config(again, rgb_1k) == model.config
    assert again["domain"] == "rgb" or again["domain"] == "rgb_half"


def test_every_tensor_of_ours_is_written_under_the_published_name(rgb_1k):
    rgb_1k["quantize._codebook.initted"] = torch.ones(1)
    model, state = convert(RGB_1K, rgb_1k)
    again = write(rules(model), state)
    assert {key: value.shape for key, value in again.items()} == {key: value.shape for key, value in rgb_1k.items()}


@pytest.mark.parametrize(
    ("facts", "source", "expected"),
    [
        ({"domain": "normal"}, "somewhere", "normal@224"),
        ({"domain": "rgb@448"}, "somewhere", "rgb_half@224"),
        ({}, "EPFL-VILAB/4M_tokenizers_normal_8k_224-448", "normal@224"),
        ({}, "/data/4M_tokenizers_normal_8k_224-448", "normal@224"),
        ({}, "/cache/models--EPFL-VILAB--4M_tokenizers_normal_8k_224-448/snapshots/12", "normal@224"),
        ({}, "somewhere", "rgb_half@224"),  # by its shapes
    ],
)
def test_what_a_tokenizer_encodes_is_found(rgb_1k, facts, source, expected):
    config = tokenizer_config(RGB_1K, rgb_1k)
    assert tokenizer_modality(facts, config, rgb_1k, source).name == expected


def test_another_number_of_channels_makes_a_modality_of_its_own(rgb_1k):
    """As for the nine bands of a satellite."""
    rgb_1k["encoder.proj.weight"] = torch.zeros(1).expand(768, 9, 16, 16)
    config = tokenizer_config(RGB_1K, rgb_1k)
    modality = tokenizer_modality({"image_size": 128}, config, rgb_1k, "mine")
    assert (modality.channels, modality.grid.image_size) == (9, (128, 128))
