"""Distances between images as trained networks see them, for the reconstructions of tokenizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.modality import COLOUR_STATISTICS, Modality
from fourm.nn.pretrained import frozen, timm_model
from fourm.objectives.reconstruct_config import FeatureDistanceConfig, LpipsConfig
from fourm.registry import implementation

KEY = "objective.perceptual"
_BACKBONES = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}
_SMALLEST = 32
"""Pixels of a side below which the poolings of LPIPS networks leave nothing."""


def build_perceptual(config: Any, modality: Modality) -> nn.Module:
    """The distance a recipe asks for: a module from two batches (B, C, H, W) of normalised images to (B,) distances.

    Raises:
        ConfigError: if the modality is no colour or grey image of a fixed range.
        CheckpointError: if the weights of the network cannot be loaded.
    """
    distance: nn.Module = implementation(config.target)(config, modality)
    return distance


class UnitImages(nn.Module):
    """Normalised images as colours in [0, 1], as far as the values stay in the modality's range.

    Args:
        modality: the raw modality.

    Raises:
        ConfigError: if it is no image of 1 or 3 channels, or has no fixed range.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        is_image = not modality.is_discrete and modality.teacher is None and modality.channels in (1, 3)
        if not is_image or modality.normalization not in ("half", "log", "imagenet", "clip", "none"):
            raise ConfigError(
                f"{KEY} compares colour or grey images, but modality '{modality.name}' has {modality.map_channels} "
                f"channels and normalization {modality.normalization}: leave the perceptual loss out"
            )
        low, high = modality.value_range or (0.0, 1.0)
        match modality.normalization:
            case "imagenet" | "clip":
                offset, scale = (list(numbers) for numbers in COLOUR_STATISTICS[modality.normalization])
            case "none":
                scale, offset = [1 / (high - low)], [-low / (high - low)]
            case _:
                scale, offset = [0.5], [0.5]
        self.register_buffer("scale", torch.tensor(scale).view(1, -1, 1, 1))
        self.register_buffer("offset", torch.tensor(offset).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) -> (B, 3, H, W)."""
        return (images * self.scale + self.offset).expand(-1, 3, -1, -1)


class Lpips(nn.Module):
    """LPIPS.

    Args:
        config: which network.
        modality: the raw modality.

    Raises:
        ConfigError: if the modality is no such image, or too small.
        CheckpointError: if the weights cannot be loaded.
    """

    def __init__(self, config: LpipsConfig, modality: Modality) -> None:
        super().__init__()
        self.to_unit = UnitImages(modality)
        if min(modality.grid.image_size) < _SMALLEST:
            raise ConfigError(
                f"{KEY}.kind lpips needs images of {_SMALLEST} pixels or more per side; those of '{modality.name}' "
                f"have {' x '.join(map(str, modality.grid.image_size))}. Use kind: features"
            )
        backbone = _BACKBONES[config.network]
        folder = f"{torch.hub.get_dir()}/checkpoints"
        self.network: nn.Module = frozen(
            lambda: _lpips_network(config.network),
            f"{KEY}.kind lpips, network {config.network}",
            f"{KEY}.kind to features; or put the file of torchvision's {backbone}_Weights.DEFAULT.url into {folder}",
        )

    def forward(self, images: Tensor, truth: Tensor) -> Tensor:
        """(B,) distances of two batches of normalised images (B, C, H, W)."""
        return self.network(2 * self.to_unit(images) - 1, 2 * self.to_unit(truth) - 1).flatten()


def _lpips_network(network: Any) -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(network).net


class FeatureDistance(nn.Module):
    """1 - cosine of the angle between features at the same place, mean over places, summed over blocks.

    Images are resized to what the network was trained on.

    Args:
        config: which network and blocks.
        modality: the raw modality.

    Raises:
        ConfigError: if the modality is no such image, or the network has no such blocks.
        CheckpointError: if the weights cannot be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: FeatureDistanceConfig, modality: Modality) -> None:
        from timm.data import resolve_model_data_config

        super().__init__()
        self.to_unit = UnitImages(modality)
        self.network: Any = timm_model(
            config.name, key=KEY, pretrained=config.pretrained, weights=config.weights, num_classes=0
        )
        self.blocks = list(config.blocks)
        facts = resolve_model_data_config(self.network)
        self.size: tuple[int, int] = facts["input_size"][-2:]
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(facts[name]).view(1, 3, 1, 1))
        if not hasattr(self.network, "forward_intermediates"):
            raise ConfigError(f"{KEY}.name is '{config.name}', whose blocks timm does not give; use a transformer")
        try:
            with torch.no_grad():
                self._features(torch.zeros(1, 3, *self.size))
        except (AssertionError, IndexError, ValueError):
            raise ConfigError(
                f"{KEY}.blocks is {self.blocks}, but '{config.name}' does not have all of these"
            ) from None

    def forward(self, images: Tensor, truth: Tensor) -> Tensor:
        """(B,) distances of two batches of normalised images (B, C, H, W)."""
        with torch.no_grad():
            expected = self._features(self.to_unit(truth))
        found = self._features(self.to_unit(images))
        distances = [
            (1 - F.cosine_similarity(ours.float(), theirs.float(), dim=1)).flatten(1).mean(1)
            for ours, theirs in zip(found, expected, strict=True)
        ]
        return torch.stack(distances).sum(0)

    def _features(self, images: Tensor) -> list[Tensor]:
        """(B, d, h, w) of each block."""
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        images = (images - self.mean) / self.std
        features: list[Tensor] = self.network.forward_intermediates(
            images, indices=self.blocks, intermediates_only=True
        )
        return features
