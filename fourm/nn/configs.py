"""Configuration of the network parts, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fourm.errors import ConfigError

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu"]
Backend = Literal["auto", "math", "sdpa", "flex"]


@dataclass
class TrunkConfig:
    """A stack of transformer blocks.

    Args:
        dim: width.
        depth: number of blocks.
        num_heads: attention heads.
        num_kv_heads: heads of keys and values (grouped-query attention); None: as many as `num_heads`.
        mlp_ratio: hidden width of the MLP over `dim`; gated MLPs take two thirds of it (4M, sec. A.1).
        activation: of the MLP; `swiglu` is gated.
        qkv_bias, proj_bias, mlp_bias, norm_bias: which layers have biases.
        norm: kind of normalisation.
        norm_eps: its epsilon.
        qk_norm: normalise queries and keys per head.
        cross_attention: blocks also attend to a context.
        drop_path: stochastic depth; grows linearly over the blocks up to this rate.
        activation_checkpointing: recompute activations in the backward pass.
        backend: attention kernel; `auto` takes plain matrix products on CPU, `scaled_dot_product_attention` elsewhere.
    """

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int | None = None
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_bias: bool = True
    norm_eps: float = 1e-6
    qk_norm: bool = False
    cross_attention: bool = False
    drop_path: float = 0.0
    activation_checkpointing: bool = False
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP: `int(2/3 * ratio * dim)` when gated."""
        full = self.mlp_ratio * self.dim
        return int(2 * full / 3) if self.activation == "swiglu" else int(full)
