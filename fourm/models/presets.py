"""Sizes and options of published models that are no 4M, by name; free of torch."""

from __future__ import annotations

from typing import Any

_NO_BIAS = {"qkv_bias": False, "proj_bias": False, "mlp_bias": False}
_PATCHES = {"encoder_depth": 0, "modality_embeddings": False, "patch_bias": True, "patch_norm": True, **_NO_BIAS}
_AIM = {**_PATCHES, "activation": "gelu", "norm": "layernorm", "norm_bias": True}
_AIMV2 = {**_PATCHES, "activation": "swiglu", "norm": "rmsnorm", "norm_bias": False, "norm_eps": 1e-5}


def _aim(dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    """AIM (El-Nouby et al. 2024, table 1). Epsilon of the norms: 1e-6 as released, 1e-5 in the training code."""
    return {**_AIM, "dim": dim, "decoder_depth": depth, "num_heads": num_heads}


def _aimv2(dim: int, mlp_hidden_dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    """The vision encoders of AIMv2 (Fini et al. 2024, table 1)."""
    return {**_AIMV2, "dim": dim, "mlp_hidden_dim": mlp_hidden_dim, "decoder_depth": depth, "num_heads": num_heads}


PRESETS: dict[str, dict[str, Any]] = {
    "aim_600m": _aim(1536, 24, 12),
    "aim_1b": _aim(2048, 24, 16),
    "aim_3b": _aim(3072, 24, 24),
    "aim_7b": _aim(4096, 32, 32),
    "aimv2_base": _aimv2(768, 2048, 12, 6),
    "aimv2_large": _aimv2(1024, 2816, 24, 8),
    "aimv2_huge": _aimv2(1536, 4096, 24, 12),
    "aimv2_1b": _aimv2(2048, 5632, 24, 16),
    "aimv2_3b": _aimv2(3072, 8192, 24, 24),
}
