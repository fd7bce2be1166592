"""A tower and a pooler: images to the vectors that a model reads, or regresses."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from fourm.nn.poolers import Features
from fourm.nn.towers import ImageFacts, Tower
from fourm.nn.vision_configs import VisionConfig
from fourm.registry import implementation


class VisionEncoder(nn.Module):
    """Images to vectors.

    Args:
        image: what it reads.
        num_tokens: vectors that it makes of an image.
        dim: their length.
        config: of its tower and pooler.

    Raises:
        ConfigError: if the parts do not go with one another, or with the images.
        CheckpointError: if weights of the tower cannot be loaded.
    """

    def __init__(self, image: ImageFacts, num_tokens: int, dim: int, config: VisionConfig) -> None:
        super().__init__()
        self.image = image
        self.tower: Tower = implementation(config.tower.target)(image, config.tower)
        features = Features(self.tower.dim, self.tower.grid, self.tower.num_extra)
        self.pooler: nn.Module = implementation(config.pooler.target)(features, num_tokens, dim, config.pooler)

    def train(self, mode: bool = True) -> Self:
        """As everywhere, but a tower none of whose weights are trained stays as it answers (no dropout)."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.tower.parameters()):
            self.tower.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (n, C, H, W), normalised as their modality says; n may be 0.

        Returns:
            (n, num_tokens, dim). Without an image, gradients of all weights are zero and not missing: ranks with text
            alone then wait for nobody.
        """
        if len(images):
            return self.pooler(self.tower(images))
        blank = images.new_zeros(1, *images.shape[1:])
        return self.pooler(self.tower(blank))[:0]
