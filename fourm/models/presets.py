"""Sizes and options of published models that are no 4M, by name; free of torch."""

from __future__ import annotations

from typing import Any

LLAMA: dict[str, Any] = {
    "activation": "swiglu",
    "norm": "rmsnorm",
    "norm_bias": False,
    "position_tables": False,
    "modality_embeddings": False,
}
"""What all language models of this family have (Touvron et al. 2023)."""


def _llama(dim: int, hidden: int, depth: int, num_heads: int) -> dict[str, Any]:
    """LLaMA's (Touvron et al. 2023) and LVM's (Bai et al. 2023)."""
    return {
        **LLAMA,
        "dim": dim,
        "encoder_depth": 0,
        "decoder_depth": depth,
        "num_heads": num_heads,
        "mlp_hidden_dim": hidden,
        "norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_heads": False,
        "init_std": 0.02,
        "head_std": 0.02,
    }


def _internlm(dim: int, hidden: int, depth: int, num_heads: int) -> dict[str, Any]:
    """DeLVM's (Guo et al. 2024). Its code also starts the layers that end a branch smaller with depth."""
    own = {"qkv_bias": True, "proj_bias": True, "norm_eps": 1e-5}
    start = {"init_std": 0.006, "head_std": 0.0052, "embedding_std": 0.0052}
    return {**_llama(dim, hidden, depth, num_heads), **own, **start}


_LVM = {
    "debug": (128, 256, 2, 4),
    "100m": (640, 1664, 22, 10),
    "300m": (1024, 2688, 22, 8),
    "600m": (1536, 4096, 22, 16),
    "1b": (2048, 5504, 22, 16),
    "3b": (3200, 8640, 26, 32),
    "7b": (4096, 11008, 32, 32),
    "13b": (5120, 13824, 40, 40),
    "20b": (6144, 16128, 46, 48),
    "30b": (6656, 17920, 60, 52),
}
_LLAMA = {
    "llama_7b": _llama(*_LVM["7b"]),
    "llama_13b": _llama(*_LVM["13b"]),
    "llama_33b": _llama(*_LVM["30b"]),
    "llama2_7b": {**_llama(*_LVM["7b"]), "norm_eps": 1e-5},
    "llama2_13b": {**_llama(*_LVM["13b"]), "norm_eps": 1e-5},
    "sheared_llama_2.7b": {**_llama(2560, 6912, 32, 20), "norm_eps": 1e-5},
}
_DELVM = {"300m": (1024, 2816, 22, 8), "1b": (2048, 5632, 22, 16)}


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
    # AIM, El-Nouby et al. 2024, and AIMv2, Fini et al. 2024
    "aim_600m": _aim(1536, 24, 12),
    "aim_1b": _aim(2048, 24, 16),
    "aim_3b": _aim(3072, 24, 24),
    "aim_7b": _aim(4096, 32, 32),
    "aimv2_base": _aimv2(768, 2048, 12, 6),
    "aimv2_large": _aimv2(1024, 2816, 24, 8),
    "aimv2_huge": _aimv2(1536, 4096, 24, 12),
    "aimv2_1b": _aimv2(2048, 5632, 24, 16),
    "aimv2_3b": _aimv2(3072, 8192, 24, 24),
    # LLaMA and Llama 2, Touvron et al. 2023, and the one that was cut down to VILA 1.5 3B, Xia et al. 2024
    **_LLAMA,
    # LVM, Bai et al. 2023, and the sizes of its published code
    **{f"lvm_{name}": _llama(*sizes) for name, sizes in _LVM.items()},
    # DeLVM, Guo et al. 2024; train them with `code_dim`, the numbers of a code of the tokenizer
    **{f"delvm_{name}": _internlm(*sizes) for name, sizes in _DELVM.items()},
}
