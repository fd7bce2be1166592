from __future__ import annotations

import subprocess
import sys

import pytest

from fourm.config import build
from fourm.errors import ConfigError
from fourm.tokenizers.configs import DECODERS, ENCODERS, QUANTIZERS, TOKENIZERS, VQVAEConfig
from fourm.tokenizers.network_configs import ConvConfig, ViTConfig


def test_every_kind_names_an_existing_config_and_implementation():
    import importlib

    for registry in (TOKENIZERS, QUANTIZERS, ENCODERS, DECODERS):
        for kind in registry:
            module, _, name = registry.resolve(kind).target.partition(":")
            assert not name or hasattr(importlib.import_module(module), name)


def test_configs_come_without_torch(checkout):
    modules = "fourm.tokenizers.configs, fourm.tokenizers.saved, fourm.tokenizers.base"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=checkout).returncode == 0


def test_a_preset_fills_sizes_and_leaves_room_for_changes():
    vit = build(ViTConfig, {"preset": "base", "depth": 3, "patch_size": 14})
    assert (vit.dim, vit.depth, vit.num_heads, vit.patch_size) == (768, 3, 12, 14)


def test_conv_tokens_cover_the_stem_times_two_per_further_level():
    assert ConvConfig(widths=(8, 16, 32), stem=2, num_blocks=(1, 1, 1)).patch_size == 8
    assert ConvConfig(widths=(8,), stem=4, num_blocks=(1,)).patch_size == 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": {"kind": "vit", "preset": "huge"}}, "preset 'huge' is not known. Known: base, large, small"),
        ({"encoder": {"kind": "conv", "widths": [8, 16]}, "quantizer": {"kind": "emma"}}, "Did you mean 'ema'"),
        ({"encoder": {"kind": "conv", "widths": [8, 16, 32]}}, "widths has 3 levels and num_blocks 2"),
        ({"encoder": {"kind": "conv", "widths": [12, 16]}}, r"widths \[12\] are not multiples of groups 8"),
        ({"quantizer": {"kind": "ema", "decay": 1.0}}, "decay is 1.0"),
        ({"quantizer": {"kind": "ema", "codebook_size": 1}}, "codebook_size 1"),
        ({"quantizer": {"kind": "ema", "codebok_size": 4}}, "quantizer.codebok_size is not a known key.*codebook_size"),
        ({"quantizer": {"kind": "ema", "kmeans_steps": -1}}, "kmeans_steps is -1; expected 0 or more"),
        ({"quantizer": {"kind": "fsq", "levels": [8, 2]}}, r"levels is \[8, 2\]; expected .* at least 3 each"),
        ({"quantizer": {"kind": "fsq", "levels": []}}, r"levels is \[\]"),
        ({"quantizer": {"kind": "memcodes", "num_heads": 3}}, "dim 256 must be a multiple of num_heads 3"),
        ({"quantizer": {"kind": "memcodes", "num_heads": 0}}, "num_heads is 0"),
        ({"quantizer": {"kind": "memcodes", "temperature": 0.0}}, "temperature is 0.0"),
        ({"encoder": {"kind": "mlp", "width": 0}}, "encoder: width is 0; expected 1 or more"),
        ({"encoder": {"kind": "conv", "groups": 0}}, "groups is 0; expected 1 or more"),
        ({"encoder": {"kind": "conv", "widths": [8, -8]}}, r"widths\[1\] is -8"),
        ({"encoder": {"kind": "vit", "preset": "base", "num_heads": 0}}, "num_heads is 0"),
        ({"encoder": {"kind": "vit", "preset": "base", "patch_size": 0}}, "patch_size is 0"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(VQVAEConfig, values)


@pytest.mark.parametrize(
    "quantizer",
    [
        {"kind": "ema", "codebook_size": 2**31 + 1},
        {"kind": "fsq", "levels": [256, 256, 256, 129]},
        {"kind": "memcodes", "codebook_size": 2**31 + 1},
    ],
    ids=lambda quantizer: quantizer["kind"],
)
def test_a_vocabulary_that_token_files_cannot_hold_is_an_error_of_the_config(quantizer):
    with pytest.raises(ConfigError, match="quantizer: 2,1.*codes are more than token files can hold: .* 32 bits"):
        build(VQVAEConfig, {"quantizer": quantizer})


def test_the_largest_vocabulary_that_fits_is_allowed():
    largest = build(VQVAEConfig, {"quantizer": {"kind": "fsq", "levels": [256, 256, 256, 128]}}).quantizer
    assert largest.codebook_size == 2**31
