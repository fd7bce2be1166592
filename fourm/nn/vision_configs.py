"""Configuration of networks that make vectors of images: a tower, and a pooler behind it; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fourm.config import fill_preset, slot
from fourm.errors import ConfigError
from fourm.nn.configs import TrunkConfig
from fourm.ranges import check_range
from fourm.registry import Registry

TOWERS = Registry(
    "tower",
    {"timm": "fourm.nn.vision_configs:TimmTowerConfig", "model": "fourm.models.vision_configs:ModelTowerConfig"},
)
"""A config's `target(image, config)` maps images (n, C, H, W) to (n, P, dim); see `fourm.nn.towers.Tower`."""

POOLERS = Registry(
    "pooler",
    {
        "linear": "fourm.nn.vision_configs:LinearPoolerConfig",
        "mlp": "fourm.nn.vision_configs:MlpPoolerConfig",
        "average": "fourm.nn.vision_configs:AveragePoolerConfig",
        "shuffle": "fourm.nn.vision_configs:ShufflePoolerConfig",
        "resampler": "fourm.nn.vision_configs:ResamplerConfig",
    },
)
"""A config's `target(features, num_tokens, dim, config)` maps (n, P, dim) to (n, num_tokens, dim)."""


@dataclass
class TimmTowerConfig:
    """A vision transformer of timm: CLIP, SigLIP, EVA-CLIP, AIMv2 and others.

    Args:
        name: as timm knows it, such as `vit_large_patch14_clip_quickgelu_336` or `hf-hub:ORGANISATION/REPOSITORY`.
        pretrained: start from the published weights. False: random ones.
        weights: file to read them from instead of the Hub.
        options: of the network, such as `depth: 2`, for towers of other sizes.
        layer: whose outputs are read: -1 is the last block, -2 the one before it (LLaVA, VILA). Later blocks are left
            out.
        norm: whether the network's last norm follows; it was trained for the last block.
        class_token: what is before the patches is read too, as by Emu's resampler; else it is dropped.
        cut: images whose sides are no multiples of the patch lose pixels on the right and at the bottom, as SigLIP's of
            384 pixels do; else they are an error.
        activation_checkpointing: recompute activations in the backward pass.
    """

    target: ClassVar[str] = "fourm.nn.towers:TimmTower"

    name: str
    pretrained: bool = False
    weights: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    layer: int = -1
    norm: bool = False
    class_token: bool = False
    cut: bool = False
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.layer >= 0:
            raise ConfigError(f"layer is {self.layer}; blocks are counted from the last one, -1")
        if self.norm and self.layer != -1:
            raise ConfigError(f"norm is that of the last block, but layer is {self.layer}: set norm to false")


@dataclass
class LinearPoolerConfig:
    """Every token of the tower through one linear layer (LLaVA, Liu et al. 2023).

    Args:
        bias: whether it has one.
    """

    target: ClassVar[str] = "fourm.nn.poolers:LinearPooler"

    bias: bool = True


@dataclass
class MlpPoolerConfig:
    """Every token of the tower through linear layers with GELU between them (LLaVA-1.5, Liu et al. 2024).

    Args:
        depth: linear layers.
    """

    target: ClassVar[str] = "fourm.nn.poolers:MlpPooler"

    depth: int = 2

    def __post_init__(self) -> None:
        check_range(self, "depth", least=1)


@dataclass
class AveragePoolerConfig:
    """Means over squares of the tower's map, as many as there are tokens; no parameters (Emu2, Sun et al. 2024)."""

    target: ClassVar[str] = "fourm.nn.poolers:AveragePooler"


@dataclass
class ShufflePoolerConfig:
    """The vectors of a square of the tower's map side by side, a layer norm and two linear layers with GELU between
    them (VILA, Lin et al. 2024: `mlp_downsample`); maps whose sides do not divide are padded with zeros.

    Args:
        factor: places per side of the square.
        order: of the tokens. `columns` is that of `mlp_downsample`, `rows` that of its later versions.
        squeeze: a linear layer to `factor` times the width of the tower, GELU and a norm first (NVILA).
        norm_eps: of the norms.
    """

    target: ClassVar[str] = "fourm.nn.poolers:ShufflePooler"

    factor: int = 2
    order: Literal["rows", "columns"] = "rows"
    squeeze: bool = False
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        check_range(self, "factor", least=1)
        check_range(self, "norm_eps", above=0)


RESAMPLERS: dict[str, dict[str, Any]] = {
    "c_former": {
        "dim": 768, "depth": 12, "num_heads": 12, "mlp_hidden_dim": 3072, "activation": "relu", "norm": "rmsnorm",
        "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "norm_bias": False, "relative_buckets": 32,
        "context_norm": False, "input_norm": True,
    },
    "vl_gpt": {"dim": 768, "depth": 12, "num_heads": 12},
}  # fmt: skip
"""Emu's C-Former, which is T5-base's decoder (Sun et al. 2024); and VL-GPT's transformer, whose width is not published
(Zhu et al. 2023)."""


@dataclass
class ResamplerConfig(TrunkConfig):
    """Learned queries that attend to the tower's tokens in a trunk with cross-attention, and a linear layer.

    `preset: c_former | vl_gpt` fills the sizes and options of the published ones; other keys override it.

    Args:
        causal: each query sees the queries before it and itself; else all see all.
        input_norm: a layer norm on the tower's tokens first.
        query_std: standard deviation of new queries.
        others: see `TrunkConfig`; `context_dim` is that of the tower.
    """

    target: ClassVar[str] = "fourm.nn.poolers:Resampler"

    cross_attention: bool = True
    causal: bool = True
    input_norm: bool = False
    query_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "query_std", above=0)
        if not self.cross_attention:
            raise ConfigError("cross_attention is false, but a resampler reads the tower by it")

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in `preset`."""
        return fill_preset(values, RESAMPLERS)


@dataclass
class VisionConfig:
    """A tower and a pooler.

    Args:
        tower: images to vectors of patches.
        pooler: these to the vectors that are read or regressed.
    """

    tower: Any = slot(TOWERS)
    pooler: Any = slot(POOLERS)

    @property
    def is_trained(self) -> bool:
        """Whether all its weights come from a training: those of the tower, behind which there are no others."""
        places = (getattr(self.tower, name, None) for name in ("path", "weights", "pretrained"))
        return any(places) and isinstance(self.pooler, AveragePoolerConfig)
