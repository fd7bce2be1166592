"""Rebuild the input through a codebook: the objective of image tokenizers (van den Oord et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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
    """What a tokenizer's forward pass returns: `output` (B, C, H, W) and `commitment` (B,)."""

    @property
    def output(self) -> Tensor: ...

    @property
    def commitment(self) -> Tensor: ...


@dataclass(frozen=True)
class ImageBatch:
    """Images or label maps, with how many numbers of them are scored.

    Args:
        images: (B, C, H, W) float32 normalised, or (B, H, W) int64 labels, -1 where there is none.
        num_scored: values, pixels or labelled pixels: what the sum of the loss is divided by.
    """

    images: Tensor
    num_scored: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageBatch:
        return ImageBatch(self.images.to(device, non_blocking=non_blocking), self.num_scored)

    def pin_memory(self) -> ImageBatch:
        return ImageBatch(self.images.pin_memory(), self.num_scored)


class Reconstruct:
    """Distance between image and reconstruction, plus the commitment of the latents to their codes.

    Args:
        config: which distance, and its weights.
        modality: the raw modality.
        num_tokens: tokens per image, for throughput; None: one per patch of the modality.

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
        self.tokens_per_image = num_tokens or modality.num_tokens
        self.frozen: dict[str, nn.Module] = {}

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        """The image of one sample."""
        if self.modality.name not in sample:
            raise DataError(
                f"a sample has no '{self.modality.name}'; it has {', '.join(sample) or 'nothing'}. "
                "Check the recipe's data"
            )
        return np.asarray(sample[self.modality.name])

    def collate(self, items: Sequence[np.ndarray]) -> ImageBatch:
        """Stack images of one size."""
        images = np.stack(items)
        if self.modality.is_discrete:
            return ImageBatch(torch.from_numpy(images.astype(np.int64, copy=False)), int((images != IGNORED).sum()))
        pixels = images.size // images.shape[1]
        return ImageBatch(
            torch.from_numpy(images.astype(np.float32, copy=False)), pixels if self._is_per_pixel else images.size
        )

    def counts(self, batch: ImageBatch) -> dict[str, float]:
        """Scored values, and images."""
        return {"reconstruct": float(batch.num_scored), "commit": float(len(batch.images))}

    def num_tokens(self, batch: ImageBatch) -> int:
        return len(batch.images) * self.tokens_per_image

    def loss(self, model: nn.Module, batch: ImageBatch) -> Loss:
        """Mean distance per scored value plus the weighted mean commitment."""
        result: Reconstruction = model(batch.images)
        distance = self._distance(result.output.float(), batch.images)
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
