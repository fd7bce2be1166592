"""Rebuild the input through a codebook: the objective of image tokenizers (van den Oord et al. 2017).

A direct decoder is scored on the image, a diffusion decoder on what its noise process asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.modality import Modality
from fourm.objectives.base import Loss
from fourm.objectives.reconstruct_config import ReconstructConfig

IGNORED = -1


class Reconstruction(Protocol):
    """What a tokenizer's forward pass returns.

    Attributes:
        output: (B, C, H, W).
        commitment: (B,).
        target: (B, C, H, W) what the output should be; None: the image.
    """

    @property
    def output(self) -> Tensor: ...

    @property
    def commitment(self) -> Tensor: ...

    @property
    def target(self) -> Tensor | None: ...


class Shown(NamedTuple):
    """One sample: its image, and the seed of all that a decoder draws for it."""

    image: np.ndarray
    seed: int


@dataclass(frozen=True)
class ImageBatch:
    """Images or label maps, with how many numbers of them are scored.

    Args:
        images: (B, C, H, W) float32 normalised, or (B, H, W) int64 labels, -1 where there is none.
        seeds: (B,) int64, each sample's own.
        num_scored: values, pixels or labelled pixels: what the sum of the loss is divided by.
    """

    images: Tensor
    seeds: Tensor
    num_scored: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        images, seeds = (t.to(device, non_blocking=non_blocking) for t in (self.images, self.seeds))
        return ImageBatch(images, seeds, self.num_scored)

    def pin_memory(self) -> ImageBatch:
        return ImageBatch(self.images.pin_memory(), self.seeds.pin_memory(), self.num_scored)


class Reconstruct:
    """Distance between image and reconstruction, plus the commitment of the latents to their codes.

    Args:
        config: which distance, and its weights.
        modality: the raw modality.
        num_tokens: tokens of an image of the modality's size, for throughput; None: one per patch.

    Raises:
        ConfigError: if labels are to be scored as numbers or numbers as labels.
    """

    parts = ("reconstruct", "commit")

    def __init__(self, config: ReconstructConfig, modality: Modality, num_tokens: int | None = None) -> None:
        if modality.is_discrete != (config.loss == "cross_entropy"):
            kind = (
                "a label map: use cross_entropy"
                if modality.is_discrete
                else "continuous: use l1, mse, smooth_l1 or cosine"
            )
            raise ConfigError(f"objective.loss is '{config.loss}', but modality '{modality.name}' is {kind}")
        self.config = config
        self.modality = modality
        height, width = modality.grid.image_size
        self.pixels_per_token = height * width / (num_tokens or modality.num_tokens)
        self.frozen: dict[str, nn.Module] = {}

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Shown:
        """The image of one sample, and its seed."""
        if self.modality.name not in sample:
            raise DataError(
                f"a sample has no '{self.modality.name}'; it has {', '.join(sample) or 'nothing'}. "
                "Check the recipe's data"
            )
        return Shown(np.asarray(sample[self.modality.name]), int(rng.integers(1 << 63)))

    def collate(self, items: Sequence[Shown]) -> ImageBatch:
        """Stack images of one size."""
        images = np.stack([item.image for item in items])
        seeds = torch.tensor([item.seed for item in items], dtype=torch.int64)
        if self.modality.is_discrete:
            labels = torch.from_numpy(images.astype(np.int64, copy=False))
            return ImageBatch(labels, seeds, int((images != IGNORED).sum()))
        values = torch.from_numpy(images.astype(np.float32, copy=False))
        pixels = images.size // images.shape[1]
        return ImageBatch(values, seeds, pixels if self._is_per_pixel else images.size)

    def counts(self, batch: ImageBatch) -> dict[str, float]:
        """Scored values, and images."""
        return {"reconstruct": float(batch.num_scored), "commit": float(len(batch.images))}

    def num_tokens(self, batch: ImageBatch) -> int:
        height, width = batch.images.shape[-2:]
        return round(len(batch.images) * height * width / self.pixels_per_token)

    def loss(self, model: nn.Module, batch: ImageBatch) -> Loss:
        """Mean distance per scored value plus the weighted mean commitment."""
        result: Reconstruction = model(batch.images, batch.seeds)
        target = batch.images if result.target is None else result.target
        distance = self._distance(result.output.float(), target)
        counts = self.counts(batch)
        return Loss(
            parts={
                "reconstruct": (distance, counts["reconstruct"]),
                "commit": (result.commitment.sum(), counts["commit"]),
            },
            reduction="weighted",
            weights={"reconstruct": 1.0, "commit": self.config.commit_weight},
        )

    @property
    def _is_per_pixel(self) -> bool:
        return self.config.loss == "cosine"

    def _distance(self, output: Tensor, target: Tensor) -> Tensor:
        """Sum over the batch."""
        match self.config.loss:
            case "cross_entropy":
                return F.cross_entropy(output, target, ignore_index=IGNORED, reduction="sum")
            case "mse":
                return F.mse_loss(output, target, reduction="sum")
            case "l1":
                return F.l1_loss(output, target, reduction="sum")
            case "smooth_l1":
                return F.smooth_l1_loss(output, target, reduction="sum")
            case "cosine":
                return (1 - F.cosine_similarity(output, target, dim=1)).sum()
        raise ConfigError(f"objective.loss '{self.config.loss}' is not known")
