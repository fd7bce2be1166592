"""Presets have the published sizes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from fourm import catalog, config
from fourm.errors import ConfigError
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


@pytest.mark.parametrize(
    ("preset", "vocab_size", "millions"),
    [
        # The sizes of LVM's code with its 8,192 codes and 100 special ids
        ("lvm_100m", 8292, 117), ("lvm_300m", 8292, 291), ("lvm_600m", 8292, 648), ("lvm_1b", 8292, 1147),
        ("lvm_3b", 8292, 3275), ("lvm_7b", 8292, 6544),
    ],
)  # fmt: skip
def test_language_models_have_the_published_sizes(preset: str, vocab_size: int, millions: int) -> None:
    import torch

    from fourm.modality import Discrete, Modality, ModalitySet, Sequence
    from fourm.models.multimodal import Multimodal

    row = Modality("visual", Sequence(4097, 4097), Discrete(vocab_size), "visual", "tokens")
    with torch.device("meta"):
        model = Multimodal(ModalitySet([row]), MultimodalConfig(**MultimodalConfig.expand({"preset": preset})))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
