"""Configuration of the `reconstruct` objective, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fourm.config import slot
from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry


@dataclass(frozen=True)
class LpipsConfig:
    """Learned perceptual image patch similarity (Zhang et al. 2018), through torchmetrics.

    Args:
        weight: of its mean over the images.
        network: whose activations are compared; its weights are those of torchvision.
    """

    target: ClassVar[str] = "fourm.objectives.perceptual:Lpips"

    weight: float = 1.0
    network: Literal["alex", "vgg", "squeeze"] = "vgg"

    def __post_init__(self) -> None:
        check_range(self, "weight", above=0)


@dataclass(frozen=True)
class FeatureDistanceConfig:
    """Cosine distance of the features of a timm network, summed over some of its blocks (4M's RGB tokenizer).

    Args:
        weight: of its mean over the images.
        name: of the network, as timm knows it.
        blocks: whose features are compared; negative ones count from the end.
        weights: file with the network's weights; None: from the Hub.
        pretrained: False draws random weights, for tests.
    """

    target: ClassVar[str] = "fourm.objectives.perceptual:FeatureDistance"

    weight: float = 1.0
    name: str = "vit_base_patch16_clip_quickgelu_224.openai"
    blocks: tuple[int, ...] = (2, 5, 8, 11)
    weights: Path | None = None
    pretrained: bool = True

    def __post_init__(self) -> None:
        check_range(self, "weight", above=0)
        if not self.blocks:
            raise ConfigError("blocks is empty; expected numbers of blocks, for instance [2, 5, 8, 11]")


PERCEPTUAL = Registry(
    "kind of perceptual loss",
    {
        "lpips": "fourm.objectives.reconstruct_config:LpipsConfig",
        "features": "fourm.objectives.reconstruct_config:FeatureDistanceConfig",
    },
)


@dataclass(frozen=True)
class ReconstructConfig:
    """Rebuild an image through a codebook.

    Args:
        loss: distance of the reconstruction; `cross_entropy` for label maps, `binary_cross_entropy` for masks of one
            channel (normalization `mask`), `cosine` compares directions of the channel vectors at each place (for one
            vector per sample, 4M's `cosine_1d`).
        commit_weight: of the latents' distance to their codes.
        perceptual: a further distance of colour or grey images, through a trained network; None: none.
    """

    target: ClassVar[str] = "fourm.objectives.reconstruct:Reconstruct"

    loss: Literal["mse", "l1", "smooth_l1", "cross_entropy", "binary_cross_entropy", "cosine"] = "mse"
    commit_weight: float = 1.0
    perceptual: Any = slot(PERCEPTUAL, optional=True)

    def __post_init__(self) -> None:
        check_range(self, "commit_weight", least=0)


@dataclass(frozen=True)
class EstimateConfig:
    """Regress the conditions of a visual decoder from an image's tokens (VL-GPT), by squared errors.

    Args:
        weights: condition -> factor of its mean; 1 where it has no entry.
    """

    target: ClassVar[str] = "fourm.objectives.estimate:Estimate"

    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_range(self, "weights", least=0)
