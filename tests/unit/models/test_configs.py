"""Presets have the published sizes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from fourm import catalog, config
from fourm.errors import ConfigError
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import SIZES, VARIANTS, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import Trunk


def build(**values: Any) -> MultimodalConfig:
    return config.build(MultimodalConfig, values)


# Millions of parameters of encoder and decoder together, and of each; the decoder's projection of the context included.
PUBLISHED = {
    "tiny": (24.9,),
    "small": (59.0,),
    "base": (198.8, 84.95, 113.87),
    "large": (705.7, 301.99, 403.75),
    "xlarge": (2823, 1208, 1615),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_encoder_and_decoder_have_the_published_number_of_parameters(preset: str) -> None:
    with torch.device("meta"):
        model = Multimodal(catalog.resolve(["caption"]), build(preset=preset))
    encoder = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    decoder = sum(p.numel() for part in (model.context_projection, model.decoder) for p in part.parameters()) / 1e6
    total, *apart = PUBLISHED[preset]
    assert encoder + decoder == pytest.approx(total, abs=0.05 if total < 1000 else 0.5)
    for size, expected in zip((encoder, decoder), apart):
        assert size == pytest.approx(expected, abs=0.005 if expected < 1000 else 0.5)


@pytest.mark.parametrize("preset", [f"{size}_{variant}" for size in SIZES for variant in VARIANTS])
def test_every_preset_builds_on_the_meta_device(preset: str) -> None:
    modalities = catalog.resolve(["rgb@224", "tok_depth@224", "caption"])
    with torch.device("meta"):
        model = Multimodal(modalities, build(preset=preset))
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("size", SIZES)
def test_heads_have_64_channels(size: str) -> None:
    assert SIZES[size]["dim"] // SIZES[size]["num_heads"] == 64


def biases(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters() if name.endswith("bias")]


def trunk(preset: str) -> Trunk:
    with torch.device("meta"):
        return Trunk(build(preset=preset).trunk(1, cross_attention=True))


def test_variants_have_the_published_options() -> None:
    names = [name for name, _ in trunk("tiny_gelu").named_parameters()]
    assert all(name.replace("weight", "bias") in names for name in names if name.endswith("weight"))
    assert not any("fc3" in name or "q_norm" in name for name in names)
    assert not biases(trunk("tiny_swiglu_nobias"))
    assert not biases(trunk("tiny_swiglu_qknorm_nobias"))
    assert {n.split(".")[-3] for n, _ in trunk("tiny_swiglu_qknorm_nobias").named_parameters() if "k_norm" in n} == {
        "attn",
        "cross_attn",
    }


def test_no_variant_means_gated_without_biases() -> None:
    assert build(preset="base") == build(preset="base_swiglu_nobias")


def test_own_keys_override_a_preset() -> None:
    options = build(preset="base", encoder_depth=3, activation="relu")
    assert (options.dim, options.encoder_depth, options.decoder_depth, options.activation) == (768, 3, 12, "relu")


def test_a_preset_is_gone_from_the_resolved_config() -> None:
    assert "preset" not in asdict(build(preset="tiny"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "bsae"}, "preset 'bsae' is not known.*Did you mean 'base'"),
        ({"preset": "base_silu"}, "preset 'base_silu' is not known"),
        ({"preset": "tiny", "num_heads": 5}, "dim 384 is not a multiple of num_heads 5"),
        ({"dim": 6, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 1}, "dim is 6.*multiple of 4"),
        ({"dim": 8}, "encoder_depth is missing"),
        ({"preset": "tiny", "num_heads": 0}, "num_heads is 0; expected 1 or more"),
        ({"preset": "tiny", "num_heads": -1}, "num_heads is -1"),
        ({"preset": "tiny", "dim": 0}, "dim is 0"),
        ({"preset": "tiny", "encoder_depth": -1}, "encoder_depth is -1"),
        ({"preset": "tiny", "decoder_depth": 0}, "decoder_depth is 0"),
        ({"preset": "tiny", "num_register_tokens": -3}, "num_register_tokens is -3; expected 0 or more"),
        ({"preset": "tiny", "drop_path": 2}, "drop_path is 2.0; expected 0 or more and below 1"),
        ({"preset": "tiny", "mlp_ratio": 0}, "mlp_ratio is 0.0; expected a number above 0"),
        ({"preset": "tiny", "mlp_ratio": 0.001}, "mlp_dim is 0"),
        ({"preset": "tiny", "embedding_std": -1}, "embedding_std is -1.0; expected a number above 0"),
        (
            {"preset": "tiny", "activation": "swish"},
            "activation is 'swish'.*Known: gelu, gelu_tanh, relu, silu, swiglu",
        ),
    ],
)
def test_wrong_configs_are_explained(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**values)


# Width, hidden width, blocks, heads; and, where known, millions of parameters with 8,192 codes and 100 special ids.
LVM = {
    "debug": (128, 256, 2, 4),
    "100m": (640, 1664, 22, 10, 117),
    "300m": (1024, 2688, 22, 8, 291),
    "600m": (1536, 4096, 22, 16, 648),
    "1b": (2048, 5504, 22, 16, 1147),
    "3b": (3200, 8640, 26, 32, 3275),
    "7b": (4096, 11008, 32, 32, 6544),
    "13b": (5120, 13824, 40, 40),
    "20b": (6144, 16128, 46, 48),
    "30b": (6656, 17920, 60, 52),
}
DELVM = {"300m": (1024, 2816, 22, 8), "1b": (2048, 5632, 22, 16)}


def language_model(vocab_size: int, **values: Any) -> Multimodal:
    row = Modality("visual", Sequence(4097, 4097), Discrete(vocab_size), "visual", "tokens")
    with torch.device("meta"):
        return Multimodal(ModalitySet([row]), build(**values))


def blocks_of(dim: int, hidden: int, depth: int) -> int:
    """Numbers in blocks without biases, and the last norm."""
    return depth * (4 * dim**2 + 3 * dim * hidden + 2 * dim) + dim


@pytest.mark.parametrize("size", LVM)
def test_language_models_have_the_published_sizes(size: str) -> None:
    dim, hidden, depth, heads, *millions = LVM[size]
    model = language_model(8292, preset=f"lvm_{size}")
    count = sum(p.numel() for p in model.parameters())
    assert count == blocks_of(dim, hidden, depth) + 2 * 8292 * dim
    assert [round(count / 1e6)] == millions or not millions
    assert model.config.num_heads == heads
    assert (model.config.norm, model.config.norm_eps, model.config.rope_theta) == ("rmsnorm", 1e-6, 10_000)
    assert (model.config.init_std, model.config.head_std, model.config.embedding_std) == (0.02, 0.02, 0.02)
    assert not biases(model)


@pytest.mark.parametrize("size", DELVM)
def test_delvm_has_the_published_sizes_and_biases(size: str) -> None:
    dim, hidden, depth, heads = DELVM[size]
    model = language_model(8192, preset=f"delvm_{size}", code_dim=32)
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count == blocks_of(dim, hidden, depth) + depth * 4 * dim + 32 * dim + 8192 * dim
    assert dim // heads == 128
    assert model.config.norm_eps == 1e-5
    assert (model.config.init_std, model.config.head_std, model.config.embedding_std) == (0.006, 0.0052, 0.0052)
    assert {name.split(".", 3)[3] for name in biases(model)} == {"attn.qkv.bias", "attn.proj.bias"}
